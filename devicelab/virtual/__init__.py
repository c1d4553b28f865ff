"""Virtual phones: Google's own adbd in a sandbox on this machine, with faults on demand.

From the outside in::

    desk, registry          all virtual phones of a lab: up, list, down, and what is left of killed ones
    client, faults          one phone as its user has it
    profile, plan, spec     which phone it stands for -> what its process is told
    launcher, keeper        one process per phone, which outlives the command that started it
    phone, facts, curves    the phone as that process has it; what it says about itself
    relay, gate             the cable: from 127.0.0.1 to adbd, through authorization and older protocols
    body                    what adbd runs in; three implementations:
      sandbox               namespaces: holder, inside, channel, kernel
      proot                 where those are refused
      pythonbody            where nothing else is to be had
    image, packages, elf    the root file system, from the distribution's own packages
    probe, tryout           which body this machine allows, and why not another
"""
