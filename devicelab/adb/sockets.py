"""A stream socket on which every call has a deadline, for one reading and one writing thread at a time."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from math import ceil

from devicelab.deadline import Deadline

__all__ = ["DeadlineSocket"]


class DeadlineSocket:
    """Owns a connected socket (TCP, Unix or a socket pair).

    Python's own ``settimeout`` is one number for both directions and starts anew with every call, so the socket
    is non-blocking here and each call waits for what is left of its deadline. A :class:`DeadlineError` leaves
    the socket usable: nothing that arrived is lost.

    Args:
        sock: Connected; owned from now on.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(0.0)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            # Requests are small and wait for their answers: Nagle would hold each back by up to 40 ms.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._reading = threading.Lock()
        self._writing = threading.Lock()
        self._closed = False

    def receive(self, limit: int, deadline: Deadline) -> bytes:
        """The next 1 to ``limit`` bytes; ``b""`` once the other side has ended its direction.

        Raises:
            DeadlineError: Nothing came.
            OSError: The connection broke, or :meth:`close` was called meanwhile.
        """
        with self._reading:
            while True:
                self._check_open()
                try:
                    data = self._sock.recv(limit)
                except BlockingIOError:
                    self._wait(select.POLLIN, deadline)
                    continue
                if not data:
                    self._check_open()  # our own shutdown() looks like an end, too
                return data

    def send(self, data: bytes | bytearray | memoryview, deadline: Deadline) -> None:
        """Hand all of ``data`` to the kernel.

        Raises:
            DeadlineError: The other side does not read; part of ``data`` may be on its way.
            OSError: The connection broke, or :meth:`close` was called meanwhile.
        """
        view = memoryview(data)
        with self._writing:
            while view:
                self._check_open()
                try:
                    view = view[self._sock.send(view) :]
                except BlockingIOError:
                    self._wait(select.POLLOUT, deadline)

    def ended(self) -> bool:
        """Whether the other side has ended its direction, or the connection is broken or closed; never waits.

        Only for sockets on which nothing is expected to arrive: what has is not taken, and hides the end.
        """
        with self._reading:
            if self._closed:
                return True
            try:
                return not self._sock.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                return False
            except OSError:
                return True

    def close(self) -> None:
        """Wake whoever reads or writes, with an OSError, and give up the socket; may be called twice."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError):  # not connected any more: then there is nobody to wake
            self._sock.shutdown(socket.SHUT_RDWR)
        # The descriptor may only be given back once nobody polls it: its number is reused at once.
        with self._reading, self._writing:
            self._sock.close()

    def _wait(self, event: int, deadline: Deadline) -> None:
        poll = select.poll()
        poll.register(self._sock, event)
        poll.poll(ceil(deadline.remaining() * 1000))

    def _check_open(self) -> None:
        if self._closed:
            raise ConnectionAbortedError("closed on this side")
