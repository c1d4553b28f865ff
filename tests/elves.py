"""The smallest ELF files that say what devicelab reads."""

from __future__ import annotations

import struct
from collections.abc import Sequence

__all__ = ["make_elf"]


def make_elf(
    needed: Sequence[str],
    interpreter: str = "",
    machine: int = 62,
    *,
    wide: bool = True,
    movable: bool = True,
    alignment: int = 4096,
    flags: int = 5,
    soname: str = "",
) -> bytes:
    """Header, three program headers (load, dynamic, interpreter), dynamic section, strings."""
    names = [*needed, soname] if soname else list(needed)
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in names)
    header, each, word = (64, 56, "qQ") if wide else (52, 32, "iI")
    base, address = header + 3 * each, 0x400000
    offsets = [1 + sum(len(name) + 1 for name in names[:index]) for index in range(len(names))]
    tags = [(14 if soname and name is names[-1] else 1, at) for name, at in zip(names, offsets, strict=True)]
    width = struct.calcsize(f"<{word}")
    table = base + width * (len(names) + 2)
    dynamic = b"".join(struct.pack(f"<{word}", *entry) for entry in (*tags, (5, address + table), (0, 0)))
    interp = interpreter.encode() + b"\0"
    total = table + len(strings) + len(interp)
    segments = [  # kind, flags, offset, address, size, alignment
        (1, flags, 0, address, total, alignment),
        (2, 6, base, address + base, len(dynamic), 8),
        (3, 4, table + len(strings), 0, len(interp), 1),
    ]
    head = b"\x7fELF" + bytes([2 if wide else 1, 1, 1]) + bytes(9)
    kind = 3 if movable else 2
    if wide:
        head += struct.pack("<HHIQQQIHHHHHH", kind, machine, 1, 0, header, 0, 0, header, each, 3, 64, 0, 0)
        packed = [
            struct.pack("<IIQQQQQQ", what, how, at, where, 0, size, size, align)
            for what, how, at, where, size, align in segments
        ]
    else:
        head += struct.pack("<HHIIIIIHHHHHH", kind, machine, 1, 0, header, 0, 0, header, each, 3, 40, 0, 0)
        packed = [
            struct.pack("<8I", what, at, where, 0, size, size, how, align)
            for what, how, at, where, size, align in segments
        ]
    return head + b"".join(packed) + dynamic + strings + interp
