"""Reports: what people see of devices, rounds and runs."""
