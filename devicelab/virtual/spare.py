"""The connection by which a boot found adbd ready, kept for the first host that wants one."""

from __future__ import annotations

import contextlib
import socket

__all__ = ["Spare"]


class Spare:
    """At most one connection to adbd. Used by the keeper's thread and by those of connections.

    Ended at once, it would cost the first host its connection: adbd names connections after their descriptors,
    and for as long as it has not taken leave of an ended one, it takes no other of the same name.
    """

    def __init__(self) -> None:
        self._kept: list[socket.socket] = []

    def keep(self, sock: socket.socket) -> None:
        """Keep this one instead of any other."""
        self.drop()
        self._kept.append(sock)

    def take(self) -> socket.socket | None:
        """What is kept, if adbd has not ended it."""
        with contextlib.suppress(IndexError):
            sock = self._kept.pop()
            sock.settimeout(0)
            try:
                sock.recv(1, socket.MSG_PEEK)
            except BlockingIOError:  # silent, and so alive: adbd waits for the host to speak
                sock.settimeout(None)
                return sock
            except OSError:
                pass
            sock.close()
        return None

    def drop(self) -> None:
        """End what is kept."""
        with contextlib.suppress(IndexError):
            self._kept.pop().close()
