"""Which libraries a phone's 64-bit programs load, directly or not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from devicelab.elf import Elf, MalformedElfError, parse_elf
from devicelab.errors import VirtualPhoneError

__all__ = ["closure", "read_elf"]


def read_elf(path: Path) -> Elf:
    """Read one file's headers.

    Raises:
        VirtualPhoneError: Not a 64-bit little-endian ELF file, or a damaged one.
        OSError: It cannot be read.
    """
    try:
        elf = parse_elf(path.read_bytes())
    except MalformedElfError as error:
        raise VirtualPhoneError(f"{path} is {error}") from error
    if elf.bits != 64:
        raise VirtualPhoneError(f"{path} is a 32-bit ELF file")
    return elf


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
