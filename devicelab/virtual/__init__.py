"""Virtual phones: Google's own adbd in a sandbox on this machine, with faults on demand.

From the outside in::

    desk, registry, trees   all virtual phones of a lab: up, list, down, and what is left of killed ones
    client, faults          one phone as its user has it
    profile, plan, spec     which phone it stands for -> what its process is told
    launcher, keeper        one process per phone, which outlives the command that started it
    phone, facts, curves    the phone as that process has it; what it says about itself
    relay, gate             the cable: from 127.0.0.1 to adbd, through authorization and older protocols
      authorization, peer   whose key is known, whose process is calling
      packets               ADB's packets, the phone's side
    body                    what adbd runs in; three implementations:
      sandbox               namespaces: holder, inside, channel, kernel
      proot                 where those are refused: prootinit, seccomp (its listeners, supervised)
      pythonbody            where nothing else is to be had: pyadbd (an adbd in Python)
      familybody, family    what the last two share: a phone's processes without a process namespace
    ground                  what must be there before a phone is started: image, proot, emulator
      image, packages, elf  the root file system, from the distribution's own packages
      programs              host programs, out of packages, too
      arm64, binfmt         a phone of another architecture: qemu-user in its own user namespace
    probe, tryout           which body this machine allows, and why not another
"""
