"""A double of the adb server: answers each request with what a test wrote down."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from devicelab.adb.program import ServerAddress

Reply = bytes | Callable[[socket.socket], object]


def okay(block: str | bytes | None = None) -> bytes:
    """OKAY, and perhaps a block."""
    if block is None:
        return b"OKAY"
    data = block.encode() if isinstance(block, str) else block
    return b"OKAY%04x%b" % (len(data), data)


def fail(reason: str) -> bytes:
    """FAIL with a reason."""
    return b"FAIL%04x%b" % (len(reason.encode()), reason.encode())


def silence(begin: bytes = b"") -> Reply:
    """Say ``begin``, and then nothing until the other side hangs up."""

    def reply(connection: socket.socket) -> None:
        connection.sendall(begin)
        connection.recv(1)

    return reply


class SmartServer:
    """Listens on a port of its own until the context ends.

    A reply of bytes is sent, and the connection kept if they are a bare OKAY, else closed. A function gets the
    socket and does what it likes.

    Args:
        replies: By request; what is in no table is an unknown host service.
    """

    def __init__(self, replies: Mapping[str, Reply]) -> None:
        self.replies = dict(replies)
        self.requests: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = ServerAddress("127.0.0.1", self._socket.getsockname()[1])
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, name="smart server")]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End it, with all its connections."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._socket.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self._open.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), name="smart connection")
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while True:
                digits = connection.recv(4, socket.MSG_WAITALL)
                if len(digits) < 4:
                    return
                request = connection.recv(int(digits, 16), socket.MSG_WAITALL).decode()
                self.requests.append(request)
                reply = self.replies.get(request, fail(f"unknown host service '{request}'"))
                if callable(reply):
                    reply(connection)
                    return
                connection.sendall(reply)
                if reply != b"OKAY":
                    return
