"""As much of the ELF format as it takes to know which libraries a 64-bit program loads."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from devicelab.errors import VirtualPhoneError

__all__ = ["Elf", "closure", "read_elf"]

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NEEDED, _DT_STRTAB = 1, 5


@dataclass(frozen=True, slots=True)
class Elf:
    """What a program or library asks of the dynamic linker.

    Attributes:
        machine: ``e_machine``: 62 is x86-64, 183 is AArch64.
        needed: Names of the libraries it loads, in order.
        interpreter: The dynamic linker's path; empty for a library or a static program.
    """

    machine: int
    needed: tuple[str, ...]
    interpreter: str


def read_elf(path: Path) -> Elf:
    """Read one file's header, after the System V ABI (gABI 4.1, chapters 4 and 5).

    Raises:
        VirtualPhoneError: Not a 64-bit little-endian ELF file, or a damaged one.
        OSError: It cannot be read.
    """
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        raise VirtualPhoneError(f"{path} is not a 64-bit little-endian ELF file")
    try:
        return _parse(data)
    except (struct.error, ValueError, IndexError, OverflowError) as error:
        raise VirtualPhoneError(f"{path} is a damaged ELF file: {error}") from error


def closure(programs: Sequence[Path], search: Sequence[Path]) -> dict[str, Path]:
    """All libraries that some programs load, directly or not: file name to path.

    Args:
        programs: ELF files.
        search: Directories to look in, in order.

    Raises:
        VirtualPhoneError: A library is in none of them.
    """
    found: dict[str, Path] = {}
    queue = list(programs)
    while queue:
        file = queue.pop(0)
        for name in read_elf(file).needed:
            if name in found:
                continue
            path = next((folder / name for folder in search if (folder / name).exists()), None)
            if path is None:
                raise VirtualPhoneError(f"{file.name} needs {name}, which none of the packages holds")
            found[name] = path
            queue.append(path)
    return found


def _parse(data: bytes) -> Elf:
    (machine,) = struct.unpack_from("<H", data, 18)
    (offset,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    segments = [struct.unpack_from("<IIQQQQ", data, offset + size * index) for index in range(count)]
    loads = [(address, start, length) for kind, _, start, address, _, length in segments if kind == _PT_LOAD]
    interpreter = ""
    needed: tuple[str, ...] = ()
    for kind, _, start, _, _, length in segments:
        if kind == _PT_INTERP:
            interpreter = data[start : start + length].rstrip(b"\0").decode()
        elif kind == _PT_DYNAMIC:
            entries = list(_dynamic(data[start : start + length]))
            table = next((_offset(loads, value) for tag, value in entries if tag == _DT_STRTAB), 0)
            needed = tuple(_string(data, table + value) for tag, value in entries if tag == _DT_NEEDED)
    return Elf(machine, needed, interpreter)


def _dynamic(section: bytes) -> Iterator[tuple[int, int]]:
    """The (tag, value) pairs of a dynamic section, up to DT_NULL."""
    for tag, value in struct.iter_unpack("<qQ", section[: len(section) // 16 * 16]):
        if tag == 0:
            return
        yield tag, value


def _offset(loads: Sequence[tuple[int, int, int]], address: int) -> int:
    """Where a virtual address lies in the file."""
    for begin, start, length in loads:
        if begin <= address < begin + length:
            return address - begin + start
    raise ValueError(f"address {address:#x} is in no segment")


def _string(data: bytes, offset: int) -> str:
    return data[offset : data.index(b"\0", offset)].decode()
