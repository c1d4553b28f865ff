"""A phone on TCP: adb_shell's transport with its defects mended.

Stock ``TcpTransport`` (adb_shell 0.4.4) loses what a short ``send()`` leaves over, takes a closed socket for
"nothing yet" and so spins on it, leaves Nagle's algorithm on (40 ms on every small packet), and waits with
``select()``, which cannot hold file descriptors above 1023.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Sequence

from adb_shell.transport.tcp_transport import TcpTransport

__all__ = ["TcpLink"]

# A phone that vanishes without a word (Wi-Fi out of reach, battery dead) is noticed after about 15 s even if
# nothing is asked of it. There is no TCP_USER_TIMEOUT: it would also end the connection to a phone that is
# there and does not read for a while, frozen or busy with its flash; how long that may last is for deadlines.
_KEEPALIVE = {socket.TCP_KEEPIDLE: 6, socket.TCP_KEEPINTVL: 3, socket.TCP_KEEPCNT: 3}


class TcpLink(TcpTransport):  # type: ignore[misc]  # adb_shell has no type information
    """A :class:`~devicelab.adb.link.Link` over TCP.

    Args:
        host: Address of the phone.
        port: Its port.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self._connection: socket.socket | None = None

    def connect(self, transport_timeout_s: float | None) -> None:
        """Open the socket.

        Raises:
            OSError: Refused, unreachable, no such host, timed out.
        """
        connection = socket.create_connection((self._host, self._port), timeout=transport_timeout_s)
        try:
            connection.settimeout(None)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE.items():
                connection.setsockopt(socket.IPPROTO_TCP, option, value)
        except OSError:
            connection.close()
            raise
        self._connection = connection

    def bulk_read(self, numbytes: int, transport_timeout_s: float | None) -> bytes:
        """Wait for bytes; see :meth:`Link.bulk_read <devicelab.adb.link.Link.bulk_read>`.

        Without a time limit the kernel gathers a whole payload into one new object: no copies, one call.
        """
        connection = self._open_socket()
        if transport_timeout_s is not None:
            if not _ready(connection, select.POLLIN, transport_timeout_s):
                raise TimeoutError(f"nothing to read within {transport_timeout_s:g} s")
            return _received(connection.recv(numbytes))
        data = _received(connection.recv(numbytes, socket.MSG_WAITALL))
        while len(data) < numbytes:  # a signal cut the wait short, or the phone closed in the middle
            data += _received(connection.recv(numbytes - len(data), socket.MSG_WAITALL))
        return data

    def bulk_write(self, data: bytes, transport_timeout_s: float | None) -> int:
        """Send all of it; see :meth:`Link.bulk_write <devicelab.adb.link.Link.bulk_write>`."""
        rest = memoryview(data)
        end = None if transport_timeout_s is None else time.monotonic() + transport_timeout_s
        while rest:
            left = 3600.0 if end is None else end - time.monotonic()
            sent = self.send([rest], max(0.0, left))
            if not sent and left <= 0:
                raise TimeoutError(
                    f"{len(rest)} of {len(data)} bytes not taken within {transport_timeout_s:g} s"
                )
            rest = rest[sent:]
        return len(data)

    def send(self, parts: Sequence[memoryview], timeout: float) -> int:
        """Send what goes out; see :meth:`Link.send <devicelab.adb.link.Link.send>`."""
        connection = self._open_socket()
        try:
            return connection.sendmsg(parts, [], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            if not timeout or not _ready(connection, select.POLLOUT, timeout):
                return 0
        try:
            return connection.sendmsg(parts, [], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return 0

    def shut_down(self) -> None:
        """Wake reader and writer with a ConnectionError."""
        if self._connection is not None:
            with contextlib.suppress(OSError):  # already shut down, or the phone was first
                self._connection.shutdown(socket.SHUT_RDWR)

    def _open_socket(self) -> socket.socket:
        connection = self._connection
        if connection is None:
            raise ConnectionError("the connection is closed")
        return connection


def _ready(connection: socket.socket, event: int, seconds: float) -> bool:
    poller = select.poll()
    poller.register(connection, event)
    return bool(poller.poll(seconds * 1000))


def _received(data: bytes) -> bytes:
    if not data:
        raise ConnectionResetError("the phone closed the connection")
    return data
