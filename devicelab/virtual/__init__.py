"""Virtual phones: Google's own adbd in a sandbox on this machine, with faults on demand."""
