"""Processors: how many there are and what the chip is called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from devicelab.devices.text import clean, lines, whole

__all__ = ["CpuInfo", "parse_cpu_ranges", "parse_cpuinfo", "soc_name"]

_MAX_CPUS = 4096
_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)
_NAMELESS = {"", "unknown", "n/a", "null", "default"}


@dataclass(frozen=True, slots=True)
class CpuInfo:
    """What ``/proc/cpuinfo`` says.

    Attributes:
        online: Processors listed. Older kernels switch idle ones off and leave them out, so this is a lower
            bound; ``/sys/devices/system/cpu/present`` knows them all.
        hardware: The ``Hardware`` line of 32-bit and older 64-bit ARM kernels.
    """

    online: int | None = None
    hardware: str | None = None


def parse_cpuinfo(text: str) -> CpuInfo:
    """Count ``processor : <index>`` entries and read ``Hardware``.

    (``Processor : ARMv7 Processor rev 2 (v7l)`` with a capital letter is a description, not an entry.)
    """
    indices: set[int] = set()
    hardware: str | None = None
    for line in lines(text):
        key, colon, value = line.partition(":")
        if not colon:
            continue
        if key.strip() == "processor":
            index = whole(value, 0, _MAX_CPUS - 1)
            if index is not None:
                indices.add(index)
        elif key.strip() == "Hardware" and hardware is None:
            hardware = clean(value, 60) or None
    return CpuInfo(online=len(indices) or None, hardware=hardware)


def parse_cpu_ranges(text: str) -> int | None:
    """How many processors a kernel list such as ``0-7`` or ``0-3,6`` names; None if it is not such a list."""
    cpus: set[int] = set()
    for part in text.strip()[:1000].split(","):
        match = _RANGE.fullmatch(part)
        if match is None:
            return None
        first = int(match[1])
        last = int(match[2]) if match[2] else first
        if not first <= last < _MAX_CPUS:
            return None
        cpus.update(range(first, last + 1))
    return len(cpus)


def soc_name(properties: Mapping[str, str], cpuinfo: CpuInfo) -> str | None:
    """The chip's name, from the most to the least telling source.

    ``ro.soc.model`` (Android 12 and newer), ``ro.board.platform``, ``ro.hardware``, cpuinfo's ``Hardware``.
    """
    names = [properties.get(key, "") for key in ("ro.soc.model", "ro.board.platform", "ro.hardware")]
    for name in (*names, cpuinfo.hardware or ""):
        word = clean(name, 60)
        if word.lower() not in _NAMELESS:
            return word
    return None
