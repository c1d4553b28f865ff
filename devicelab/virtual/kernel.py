"""The Linux system calls that Python's standard library has no names for, as functions that raise OSError."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import socket
import struct
from pathlib import Path
from typing import Final

__all__ = [
    "CLONE_NEWIPC",
    "CLONE_NEWNET",
    "CLONE_NEWNS",
    "CLONE_NEWPID",
    "CLONE_NEWUSER",
    "CLONE_NEWUTS",
    "adopt_orphans",
    "bind",
    "die_with_parent",
    "loopback_up",
    "make_private",
    "mount",
    "no_new_privileges",
    "pivot",
    "refuse_vsock",
    "remount",
    "setns",
    "trace_me",
    "unshare",
]

CLONE_NEWNS: Final = 0x0002_0000
CLONE_NEWUTS: Final = 0x0400_0000
CLONE_NEWIPC: Final = 0x0800_0000
CLONE_NEWUSER: Final = 0x1000_0000
CLONE_NEWPID: Final = 0x2000_0000
CLONE_NEWNET: Final = 0x4000_0000

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
_MS_REMOUNT, _MS_BIND, _MS_REC, _MS_SLAVE = 32, 4096, 16384, 1 << 19
_MNT_DETACH = 2
# statvfs(3) and mount(2) give the same properties different bits
_LOCKED_FLAGS: Final = {2: MS_NOSUID, 4: MS_NODEV, 8: MS_NOEXEC, 1024: 1024, 2048: 2048, 4096: 1 << 21}

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 22, 36, 38
_SECCOMP_MODE_FILTER: Final = 2
_SIGKILL: Final = 9
_SIOCSIFFLAGS, _IFF_UP, _IFF_RUNNING = 0x8914, 0x1, 0x40
_PIVOT_ROOT: Final = {"x86_64": 155, "aarch64": 41}

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)


def unshare(flags: int) -> None:
    """Leave namespaces for new ones."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def setns(fd: int, kind: int) -> None:
    """Join a namespace."""
    _check(_libc.setns(ctypes.c_int(fd), ctypes.c_int(kind)), "setns")


def mount(source: str, target: Path, filesystem: str, flags: int = 0, data: str = "") -> None:
    """Mount a new file system."""
    _mount(source, target, filesystem, flags, data)


def bind(source: Path, target: Path, *, writable: bool = False) -> None:
    """Show a file or directory at another place, read-only by default.

    The flags that the source's own mount carries (nosuid, nodev, …) must be repeated, or an unprivileged
    remount is refused: mount_namespaces(7).
    """
    _mount(str(source), target, None, _MS_BIND, "")
    if not writable:
        found = os.statvfs(target).f_flag
        keep = sum(flag for seen, flag in _LOCKED_FLAGS.items() if found & seen)
        _mount(None, target, None, _MS_REMOUNT | _MS_BIND | MS_RDONLY | keep, "")


def remount(target: Path, flags: int, data: str) -> None:
    """Change a file system's own options, such as a tmpfs's size."""
    _mount(None, target, None, _MS_REMOUNT | flags, data)


def make_private() -> None:
    """Let no mount of ours be seen outside, while unmounting outside still reaches in (MS_SLAVE)."""
    _mount(None, Path("/"), None, _MS_REC | _MS_SLAVE, "")


def _mount(source: str | None, target: Path, filesystem: str | None, flags: int, data: str) -> None:
    result = _libc.mount(
        source.encode() if source is not None else None,
        os.fsencode(target),
        filesystem.encode() if filesystem is not None else None,
        ctypes.c_ulong(flags),
        data.encode(),
    )
    _check(result, f"mount {filesystem or 'bind'} on {target}")


def pivot(root: Path) -> None:
    """Make a mount point the root directory and let go of the old root, as pivot_root(2) describes."""
    os.chdir(root)
    number = _PIVOT_ROOT[platform.machine()]
    _check(_libc.syscall(ctypes.c_long(number), b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", ctypes.c_int(_MNT_DETACH)), "umount of the old root")
    os.chdir("/")


def loopback_up() -> None:
    """Bring up ``lo`` in this process's network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14s", b"lo", _IFF_UP | _IFF_RUNNING, b""))


def _prctl(option: int, value: int, pointer: object = 0) -> None:
    _check(_libc.prctl(ctypes.c_int(option), ctypes.c_ulong(value), pointer, 0, 0), f"prctl {option}")


def die_with_parent() -> None:
    """Be killed (SIGKILL) when the parent's thread that made us ends. The caller checks that it still lives."""
    _prctl(_PR_SET_PDEATHSIG, _SIGKILL)


def trace_me() -> None:
    """Let this process's parent trace it, as proot does with all that it runs: PTRACE_TRACEME."""
    _check(_libc.ptrace(ctypes.c_long(0), 0, None, None), "ptrace")


def adopt_orphans() -> None:
    """Become the parent of grandchildren whose parent ends: PR_SET_CHILD_SUBREAPER."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def no_new_privileges() -> None:
    """Never gain privileges by executing a file: PR_SET_NO_NEW_PRIVS, which seccomp asks for, too."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


# seccomp: (audit architecture, socket(2)'s number, calls that would get round the check: socketcall,
# io_uring_setup)
_AUDIT_ARCHES: Final = {
    "x86_64": ((0xC000_003E, 41, (425,)), (0x4000_0003, 359, (102, 425))),
    "aarch64": ((0xC000_00B7, 198, (425,)), (0x4000_0028, 281, (102, 425))),
}
_X32_BIT: Final = 0x4000_0000
_AF_VSOCK: Final = 40
_ALLOW: Final = 0x7FFF_0000
_ERRNO: Final = 0x0005_0000


def refuse_vsock() -> None:
    """Let socket(AF_VSOCK) fail with EAFNOSUPPORT in this process and all it starts, for ever (seccomp(2)).

    Debian's adbd listens on AF_VSOCK, which network namespaces do not contain: the machine's hypervisor could
    reach an adbd without authorization.
    """
    program = b"".join(struct.pack("=HBBI", *step) for step in _filter())
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    no_new_privileges()
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.c_char_p(header))


def _filter() -> list[tuple[int, int, int, int]]:
    """The BPF program: (opcode, jump if true, jump if false, operand) per step."""
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    program = [(load, 0, 0, 4)]  # seccomp_data.arch
    for arch, socket_number, refused in _AUDIT_ARCHES[platform.machine()]:
        block = [(load, 0, 0, 0)]  # seccomp_data.nr
        if arch == 0xC000_003E:
            block += [(at_least, 0, 1, _X32_BIT), (give, 0, 0, _ERRNO | errno.ENOSYS)]
        for number in refused:
            block += [(equal, 0, 1, number), (give, 0, 0, _ERRNO | errno.ENOSYS)]
        block += [
            (equal, 0, 3, socket_number),
            (load, 0, 0, 16),  # the first argument's lower half
            (equal, 0, 1, _AF_VSOCK),
            (give, 0, 0, _ERRNO | errno.EAFNOSUPPORT),
            (give, 0, 0, _ALLOW),
        ]
        program += [(equal, 0, len(block), arch), *block]
    return [*program, (give, 0, 0, _ERRNO | errno.ENOSYS)]
