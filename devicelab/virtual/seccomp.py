"""Keep a family of processes off the network's doors without namespaces: a seccomp filter with a supervisor.

The filter answers for vsock itself and hands every bind(2) and listen(2) to a supervisor
(``SECCOMP_RET_USER_NOTIF``, Linux 5.0), which carries them out in the caller's place, on a copy of its socket
(``pidfd_getfd``, Linux 5.6), after moving internet addresses to the loopback. The caller's own call never runs,
so nothing can be changed between check and use. What could get round the filter (io_uring, the 32-bit entries)
is refused. Numbers are those of Linux's ``include/uapi/linux/seccomp.h`` and ``audit.h``.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import select
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from devicelab.virtual import kernel

__all__ = ["Notification", "Supervisor", "confine", "filter_program", "install_filter", "parse_notification"]

_SET_MODE_FILTER: Final = 1
_NEW_LISTENER: Final = 1 << 3
_ALLOW: Final = 0x7FFF_0000
_ERRNO: Final = 0x0005_0000
_USER_NOTIF: Final = 0x7FC0_0000

_RECEIVE: Final = 0xC050_2100  # SECCOMP_IOCTL_NOTIF_RECV
_SEND: Final = 0xC018_2101
_STILL_VALID: Final = 0x4008_2102
_ADD_FD: Final = 0x4018_2103
_SET_FD: Final = 1  # SECCOMP_ADDFD_FLAG_SETFD

_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_RESPONSE = struct.Struct("=QqiI")
_ADD = struct.Struct("=QIIII")

_PIDFD_GETFD: Final = 438  # the same everywhere
_AF_NETLINK: Final = 16
_AF_VSOCK: Final = 40
_ADDRESS_LIMIT: Final = 128  # sizeof(struct sockaddr_storage)
_X32_BIT: Final = 0x4000_0000
_INTERNET: Final = (socket.AF_INET, socket.AF_INET6)
_LOOPBACK: Final = ("127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class _Entry:
    """One way into the kernel: the numbers of its calls. ``refused`` would get round the others."""

    arch: int
    socket: int
    bind: int
    listen: int
    refused: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Machine:
    seccomp: int
    native: _Entry
    foreign: _Entry


_MACHINES: Final = {
    "x86_64": _Machine(
        317, _Entry(0xC000_003E, 41, 49, 50, (425,)), _Entry(0x4000_0003, 359, 361, 363, (102, 425))
    ),
    "aarch64": _Machine(
        277, _Entry(0xC000_00B7, 198, 200, 201, (425,)), _Entry(0x4000_0028, 281, 282, 284, (102, 425))
    ),
}

_libc = ctypes.CDLL(None, use_errno=True)

Step = tuple[int, int, int, int]
"""One BPF instruction: opcode, jump if true, jump if false, operand."""


def filter_program(machine: str) -> list[Step]:
    """The filter for a machine's native programs; its 32-bit ones can neither bind nor listen.

    Args:
        machine: ``x86_64`` or ``aarch64``.
    """
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    numbers = _MACHINES[machine]

    def answer(number: int, action: int) -> list[Step]:
        return [(equal, 0, 1, number), (give, 0, 0, action)]

    program: list[Step] = [(load, 0, 0, 4)]  # seccomp_data.arch
    for entry in (numbers.native, numbers.foreign):
        native = entry is numbers.native
        doors = _USER_NOTIF if native else _ERRNO | errno.ENOSYS
        block: list[Step] = [(load, 0, 0, 0)]  # seccomp_data.nr
        if native and machine == "x86_64":
            block += [(at_least, 0, 1, _X32_BIT), (give, 0, 0, _ERRNO | errno.ENOSYS)]
        for number in entry.refused:
            block += answer(number, _ERRNO | errno.ENOSYS)
        block += answer(entry.bind, doors) + answer(entry.listen, doors)
        block += [
            (equal, 0, 3, entry.socket),
            (load, 0, 0, 16),  # the first argument's lower half
            *answer(_AF_VSOCK, _ERRNO | errno.EAFNOSUPPORT),
            (give, 0, 0, _ALLOW),
        ]
        program += [(equal, 0, len(block), entry.arch), *block]
    return [*program, (give, 0, 0, _ERRNO | errno.ENOSYS)]


def install_filter() -> int:
    """Put the filter on this process and all it starts, for ever.

    Returns:
        The supervisor's file descriptor.

    Raises:
        OSError: The kernel refuses: too old, or a filter with a supervisor is there already (EBUSY).
    """
    program = b"".join(struct.pack("=HBBI", *step) for step in filter_program(platform.machine()))
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    kernel.no_new_privileges()
    number = _MACHINES[platform.machine()].seccomp
    fd = _libc.syscall(
        ctypes.c_long(number),
        ctypes.c_ulong(_SET_MODE_FILTER),
        ctypes.c_ulong(_NEW_LISTENER),
        ctypes.c_char_p(header),
    )
    if fd < 0:
        raise _last_error("seccomp with a supervisor")
    os.set_inheritable(fd, False)  # noqa: FBT003 (the argument has no name)
    return int(fd)


@dataclass(frozen=True, slots=True)
class Notification:
    """One system call that waits for the supervisor.

    Attributes:
        number: The notification's.
        thread: The caller.
        call: The system call's number.
        arguments: Its six arguments.
    """

    number: int
    thread: int
    call: int
    arguments: Sequence[int]


def parse_notification(data: bytes | bytearray) -> Notification:
    """Read a ``struct seccomp_notif``."""
    number, thread, _, call, _, _, *arguments = _NOTIFICATION.unpack(data)
    return Notification(number, thread, call, tuple(arguments))


def confine(address: bytes) -> bytes | None:
    """Move a socket address to the loopback: ``0.0.0.0:80`` becomes ``127.0.0.1:80``, ``[::]:80`` ``[::1]:80``.

    Args:
        address: A ``struct sockaddr`` of any family.

    Returns:
        What to bind to; None if nothing of the family may be bound.
    """
    family = int.from_bytes(address[:2], "little")
    if family == socket.AF_INET and len(address) >= 8:
        return address[:4] + bytes([127, 0, 0, 1]) + address[8:]
    if family == socket.AF_INET6 and len(address) >= 28:
        return address[:4] + bytes(4) + bytes(15) + b"\1" + bytes(4)
    if family in {socket.AF_UNIX, _AF_NETLINK}:
        return address
    return None


class Supervisor:
    """Answers for a family of processes.

    Args:
        fd: From :func:`install_filter`, received by a process that is not under the filter.
        door: A Unix socket that takes the place of the TCP socket that is bound to ``port``.
        port: adbd's.
    """

    def __init__(self, fd: int, door: socket.socket, port: int) -> None:
        self._fd = fd
        self._door = door
        self._port = port.to_bytes(2, "big")
        native = _MACHINES[platform.machine()].native
        self._handlers = {native.bind: self._bind, native.listen: self._listen}

    def serve(self) -> None:
        """Answer until no process is left under the filter."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        while True:
            ((_, events),) = poll.poll()
            if not events & select.POLLIN:
                return
            data = bytearray(_NOTIFICATION.size)
            with contextlib.suppress(
                FileNotFoundError
            ):  # the caller was killed between two system calls of ours
                fcntl.ioctl(self._fd, _RECEIVE, data)
                self._answer(parse_notification(data))

    def _answer(self, call: Notification) -> None:
        code = 0
        try:
            self._handlers[call.call](call)
        except OSError as error:
            code = error.errno or errno.EIO
        fcntl.ioctl(self._fd, _SEND, _RESPONSE.pack(call.number, 0, -code, 0))

    def _bind(self, call: Notification) -> None:
        """Bind where it was asked, or as near as is allowed; Unix paths are absolute, proot sees to it."""
        size = call.arguments[2] & 0xFFFF_FFFF
        if size > _ADDRESS_LIMIT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        address = _read_memory(call.thread, call.arguments[1], size)
        with self._socket(call) as sock:
            if sock.family in _INTERNET and sock.type == socket.SOCK_STREAM and address[2:4] == self._port:
                self._swap(call)
                return
            confined = confine(address)
            if confined is None:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            if _libc.bind(sock.fileno(), confined, len(confined)) != 0:
                raise _last_error("bind")

    def _listen(self, call: Notification) -> None:
        with self._socket(call) as sock:
            if sock.family in _INTERNET and sock.getsockname()[0] not in _LOOPBACK:
                # never bound: listen(2) would choose a port on every interface
                sock.bind((_LOOPBACK[sock.family == socket.AF_INET6], 0))
            elif sock.family not in _INTERNET and sock.family != socket.AF_UNIX:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            sock.listen(ctypes.c_int(call.arguments[1] & 0xFFFF_FFFF).value)

    def _socket(self, call: Notification) -> socket.socket:
        """A copy of the caller's socket, made while the caller certainly still waits."""
        process = os.pidfd_open(_process_of(call.thread))
        try:
            number = call.arguments[0] & 0xFFFF_FFFF
            fd = _libc.syscall(ctypes.c_long(_PIDFD_GETFD), process, ctypes.c_uint(number), ctypes.c_uint(0))
            if fd < 0:
                raise _last_error("pidfd_getfd")
        finally:
            os.close(process)
        try:
            fcntl.ioctl(self._fd, _STILL_VALID, struct.pack("=Q", call.number))
            return socket.socket(fileno=fd)
        except BaseException:
            os.close(fd)
            raise

    def _swap(self, call: Notification) -> None:
        """Put the door in the place of the caller's own socket."""
        close_on_exec = os.O_CLOEXEC
        number = call.arguments[0] & 0xFFFF_FFFF
        fcntl.ioctl(
            self._fd, _ADD_FD, _ADD.pack(call.number, _SET_FD, self._door.fileno(), number, close_on_exec)
        )


def _process_of(thread: int) -> int:
    """The process that a thread belongs to."""
    for line in Path(f"/proc/{thread}/status").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("Tgid:"):
            return int(line[5:])
    raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))


def _read_memory(thread: int, address: int, size: int) -> bytes:
    """Another process's memory.

    Raises:
        OSError: EFAULT where it has none there.
    """
    fd = os.open(f"/proc/{thread}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.pread(fd, size, address)
    except (OSError, OverflowError):
        data = b""
    finally:
        os.close(fd)
    if len(data) != size:
        raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
    return data


def _last_error(what: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code), what)
