"""Whether a program or library would load on a device, known before it is pushed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Final

from devicelab.elf import AARCH64, ARM, X86, X86_64, Elf, MalformedElfError, parse_elf
from devicelab.errors import ConfigError, DeviceNotReadyError
from devicelab.runner.targets import Target

__all__ = ["ENGINE_LIBRARY", "misfit", "read_library", "require_fit"]

ENGINE_LIBRARY: Final = "libonnxruntime.so"

_MACHINES: Final = {X86: "x86", ARM: "ARM", X86_64: "x86-64", AARCH64: "ARM64"}
_ANDROID: Final = frozenset({"libandroid.so", "libc.so", "libdl.so", "liblog.so", "libm.so"})
_LINUX: Final = frozenset(
    {"libc.so.6", "libdl.so.2", "libgcc_s.so.1", "libm.so.6", "libpthread.so.0", "librt.so.1", "libstdc++.so.6"}
)
_SMALLEST_PAGE: Final = 4096


def read_library(path: Path) -> Elf:
    """Read a host's file that is meant for a device.

    Raises:
        ConfigError: It cannot be read, or is no ELF file.
    """
    try:
        found = path.stat()
        return _parsed(path, found.st_size, found.st_mtime_ns, found.st_ino)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    except MalformedElfError as error:
        raise ConfigError(f"{path} is {error}") from error


@lru_cache(maxsize=64)
def _parsed(path: Path, size: int, mtime: int, inode: int) -> Elf:
    del size, mtime, inode  # they are what makes it another file
    return parse_elf(path.read_bytes())


def misfit(elf: Elf, target: Target, page_size: int | None, *, program: bool) -> str | None:
    """Why a file would not load, in words; None if it would.

    Args:
        elf: The file.
        target: Where it shall run.
        page_size: Of the device's kernel, in bytes; None if unknown.
        program: Whether it is a program (the runner) or a library (the engine).
    """
    return next(_reasons(elf, target, page_size, program=program), None)


def _reasons(elf: Elf, target: Target, page_size: int | None, *, program: bool) -> Iterator[str]:
    """All that is wrong, the gravest first."""
    if (elf.bits, elf.machine) != (target.bits, target.machine):
        kind = _MACHINES.get(elf.machine, f"machine {elf.machine}")
        yield f"it is {elf.bits}-bit {kind}, {target.name} is {target.bits}-bit {_MACHINES[target.machine]}"
    if not elf.movable:
        yield "it is not position-independent"
    if program != bool(elf.interpreter):
        yield "it is a library and no program" if program else "it is a program and no library"
    if program and elf.interpreter != target.linker:
        yield f"it wants the dynamic linker {elf.interpreter}, {target.name} has {target.linker}"
    system = {Path(target.linker).name, *(_ANDROID if target.system == "android" else _LINUX)}
    allowed = {*system, ENGINE_LIBRARY} if program else system
    if foreign := [name for name in elf.needed if name not in allowed]:
        yield f"it loads {', '.join(foreign)}, which {target.name} need not have"
    if elf.writable_code:
        yield "it has memory that is writable and executable, which new systems refuse"
    page = _page(target, page_size)
    if elf.alignment < page:
        yield f"it is aligned to {elf.alignment // 1024} KiB, the device has pages of {page // 1024} KiB"


def require_fit(
    path: Path, target: Target, page_size: int | None, *, program: bool, device: str | None = None
) -> Elf:
    """Refuse a file that would not load on a device.

    Args:
        path: The file on this host.
        target: Where it shall run.
        page_size: Of the device's kernel, in bytes; None if unknown.
        program: Whether it is a program or a library.
        device: Whom to name; without it the file itself is to blame, wherever it shall run.

    Returns:
        What the file says of itself.

    Raises:
        DeviceNotReadyError: It would not load on ``device``.
        ConfigError: It is no ELF file, or (without ``device``) fits no device of that target.
    """
    elf = read_library(path)
    reason = misfit(elf, target, page_size, program=program)
    if reason is None:
        return elf
    message = f"{path} would not load: {reason}"
    if device is None:
        raise ConfigError(message)
    hint = None if program else "give a library that fits with --engine FILE (.so or .aar)"
    raise DeviceNotReadyError(message, device=device, hint=hint)


def _page(target: Target, page_size: int | None) -> int:
    """The page that matters: on a PC's Linux always 4 KiB, whatever a virtual phone pretends."""
    if target.system == "linux" and target.machine == X86_64:
        return _SMALLEST_PAGE
    return page_size or _SMALLEST_PAGE
