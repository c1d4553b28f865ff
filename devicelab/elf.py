"""As much of the ELF format as it takes to know whether a program or library will load, and what it loads."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["AARCH64", "ARM", "X86", "X86_64", "Elf", "MalformedElfError", "parse_elf"]

X86: Final = 3
ARM: Final = 40
X86_64: Final = 62
AARCH64: Final = 183

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_PF_X, _PF_W = 1, 2
_DT_NEEDED, _DT_STRTAB, _DT_SONAME = 1, 5, 14
_LITTLE_ENDIAN = 1


class MalformedElfError(ValueError):
    """Not a little-endian ELF file, or a damaged one; the text says why."""


@dataclass(frozen=True, slots=True)
class Elf:
    """What a program or library asks of the kernel and of the dynamic linker.

    Attributes:
        bits: 32 or 64.
        machine: ``e_machine``: :data:`X86`, :data:`ARM`, :data:`X86_64`, :data:`AARCH64` or another.
        movable: Whether it may lie anywhere (``ET_DYN``): a library, or a position-independent program.
        needed: Names of the libraries it loads, in order.
        soname: The name that a library gives itself; empty without one.
        interpreter: The dynamic linker's path; empty for a library or a static program.
        alignment: The smallest alignment of what is mapped, in bytes: the largest page that it can live with.
        writable_code: Whether something of it is mapped both writable and executable.
    """

    bits: int
    machine: int
    movable: bool
    needed: tuple[str, ...]
    soname: str
    interpreter: str
    alignment: int
    writable_code: bool


@dataclass(frozen=True, slots=True)
class _Segment:
    """One program header."""

    kind: int
    flags: int
    offset: int
    address: int
    size: int
    alignment: int


def parse_elf(data: bytes) -> Elf:
    """Read a file's headers and dynamic section, after the System V ABI (gABI 4.1, chapters 4 and 5).

    Args:
        data: The whole file.

    Raises:
        MalformedElfError: Not a little-endian ELF file, or a damaged one.
    """
    if data[:4] != b"\x7fELF" or data[4:5] not in (b"\1", b"\2") or data[5:6] != bytes([_LITTLE_ENDIAN]):
        raise MalformedElfError("not a little-endian ELF file")
    try:
        return _parse(data)
    except MalformedElfError:
        raise
    except (struct.error, ValueError, IndexError, OverflowError) as error:
        raise MalformedElfError(f"a damaged ELF file: {error}") from error


def _parse(data: bytes) -> Elf:
    wide = data[4] == 2
    kind, machine = struct.unpack_from("<HH", data, 16)
    segments = list(_segments(data, wide=wide))
    loads = [segment for segment in segments if segment.kind == _PT_LOAD]
    interpreter = soname = ""
    needed: tuple[str, ...] = ()
    for segment in segments:
        content = data[segment.offset : segment.offset + segment.size]
        if segment.kind == _PT_INTERP:
            interpreter = content.rstrip(b"\0").decode()
        elif segment.kind == _PT_DYNAMIC:
            entries = list(_dynamic(content, wide=wide))
            table = next((_offset(loads, value) for tag, value in entries if tag == _DT_STRTAB), 0)
            needed = tuple(_string(data, table + value) for tag, value in entries if tag == _DT_NEEDED)
            soname = next((_string(data, table + value) for tag, value in entries if tag == _DT_SONAME), "")
    return Elf(
        bits=64 if wide else 32,
        machine=machine,
        movable=kind == 3,
        needed=needed,
        soname=soname,
        interpreter=interpreter,
        alignment=min((max(1, segment.alignment) for segment in loads), default=1),
        writable_code=any(segment.flags & _PF_W and segment.flags & _PF_X for segment in loads),
    )


def _segments(data: bytes, *, wide: bool) -> Iterator[_Segment]:
    (table,) = struct.unpack_from("<Q" if wide else "<I", data, 32 if wide else 28)
    size, count = struct.unpack_from("<HH", data, 54 if wide else 42)
    for index in range(count):
        at = table + size * index
        if wide:
            kind, flags, offset, address, _, length, _, align = struct.unpack_from("<IIQQQQQQ", data, at)
        else:
            kind, offset, address, _, length, _, flags, align = struct.unpack_from("<8I", data, at)
        yield _Segment(kind, flags, offset, address, length, align)


def _dynamic(section: bytes, *, wide: bool) -> Iterator[tuple[int, int]]:
    """The (tag, value) pairs of a dynamic section, up to DT_NULL."""
    width = 16 if wide else 8
    for tag, value in struct.iter_unpack("<qQ" if wide else "<iI", section[: len(section) // width * width]):
        if tag == 0:
            return
        yield tag, value


def _offset(loads: Sequence[_Segment], address: int) -> int:
    """Where a virtual address lies in the file."""
    for segment in loads:
        if segment.address <= address < segment.address + segment.size:
            return address - segment.address + segment.offset
    raise ValueError(f"address {address:#x} is in no segment")


def _string(data: bytes, offset: int) -> str:
    return data[offset : data.index(b"\0", offset)].decode()
