"""Make arm64 programs executable in one phone: binfmt_misc in its own user namespace (Linux 6.7 and newer).

The emulator is opened when it is registered (flag ``F``), while the host's files can still be seen; the phone
never sees it, and what the host does with arm64 programs is not touched. See the kernel's
``admin-guide/binfmt-misc.rst``.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from devicelab.virtual import kernel
from devicelab.virtual.inside import Hook

__all__ = ["emulation", "registration"]

_MAGIC = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00" + b"\xb7\x00"  # ET_EXEC, EM_AARCH64
_MASK = b"\xff" * 7 + b"\x00" + b"\xff" * 8 + b"\xfe\xff" + b"\xff\xff"  # any ABI; ET_DYN, too


def registration(emulator: str) -> bytes:
    """What to write into ``binfmt_misc/register``.

    Args:
        emulator: A path without colons, at most 127 bytes long.
    """
    return f":arm64:M::{_escape(_MAGIC)}:{_escape(_MASK)}:{emulator}:F".encode()


def emulation(emulator: Path) -> Hook:
    """What makes arm64 programs executable in a phone, at each of its boots.

    The hook raises OSError where the kernel refuses.
    """

    def register(root: Path) -> None:
        where = root / "proc/sys/fs/binfmt_misc"
        flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
        kernel.mount("binfmt_misc", where, "binfmt_misc", flags)
        program = os.open(emulator, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # by its descriptor: the real path may be too long, hold a colon, and is not the phone's business
            line = registration(f"/proc/self/fd/{program}")
            with contextlib.suppress(
                FileExistsError
            ):  # the boot before has not quite gone: its entry still holds
                (where / "register").write_bytes(line)
        finally:
            os.close(program)

    return register


def _escape(data: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in data)
