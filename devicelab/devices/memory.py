"""Main memory, as the kernel's ``/proc/meminfo`` counts it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from devicelab.devices.text import lines

__all__ = ["MemoryFacts", "parse_meminfo", "parse_page_size"]

_ENTRY = re.compile(r"([A-Za-z0-9_()]{1,40}):[ \t]*([0-9]{1,15}) kB[ \t]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class MemoryFacts:
    """Bytes of main memory, None where unknown.

    Attributes:
        total: What the kernel manages: somewhat less than the box says.
        available: What a new program can have without pushing others out.
    """

    total: int | None = None
    available: int | None = None


def parse_meminfo(text: str) -> MemoryFacts:
    """Read MemTotal and MemAvailable.

    Kernels before 3.14 (phones up to about Android 5) have no MemAvailable. There it is estimated as free
    memory plus what caches give back: MemFree + Buffers + Cached - Shmem, since shared memory is counted in
    Cached but cannot be dropped.
    """
    sizes: dict[str, int] = {}
    for line in lines(text):
        entry = _ENTRY.fullmatch(line)
        if entry:
            sizes.setdefault(entry[1], int(entry[2]) * 1024)
    total = sizes.get("MemTotal") or None
    available = sizes.get("MemAvailable")
    if available is None and "MemFree" in sizes and "Cached" in sizes:
        available = sizes["MemFree"] + sizes.get("Buffers", 0) + sizes["Cached"] - sizes.get("Shmem", 0)
    if available is not None:
        available = max(0, min(available, total if total is not None else available))
    return MemoryFacts(total=total, available=available)


def parse_page_size(text: str) -> int | None:
    """A page size in bytes (4096, 16384, 65536), else None."""
    word = text.strip()
    return int(word) if word in {"4096", "16384", "65536"} else None
