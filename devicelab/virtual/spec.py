"""What a phone's keeper is told: plain values that travel as JSON from ``virtual up`` to the keeper's process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["BodySpec"]


@dataclass(frozen=True, slots=True)
class BodySpec:
    """What a body is built from; each of the three bodies takes exactly one of these.

    A body shows these host directories inside the phone, read-only unless said otherwise::

        image            /                     the root file system, shared by all phones
        bin, if given    /system/bin           in place of the image's own
        vendor           /vendor               what getprop, dumpsys and df read; the keeper rewrites it at will
        vendor/proc/*    /proc/*               cpuinfo, meminfo, sys/kernel/random/boot_id: one file over each
        vendor/sys       /sys
        (the body's own) /data                 writable, survives kill and boot
        (the body's own) /dev                  with a writable, empty /dev/__properties__ at each boot (setprop)

    Attributes:
        name: The phone's name, for messages.
        directory: The phone's own directory on the host. A body may keep what it needs below ``body/`` in it.
        image: The root file system (see :mod:`devicelab.virtual.image`); None for a body that needs none.
        bin: Replaces the image's ``/system/bin`` where the profile's phone lacks commands; else None.
        vendor: The phone's facts.
        banner: What adbd is given as ``--device_banner``.
        disk: Size of the data partition in bytes.
        log: Where adbd's own output goes (appended).
        emulator: A static qemu-user program that runs the image's foreign executables; None for the host's own.
    """

    name: str
    directory: Path
    image: Path | None
    bin: Path | None
    vendor: Path
    banner: str
    disk: int
    log: Path
    emulator: Path | None = None
