"""How a phone's keeper and the process inside its namespaces talk: JSON packets over a socket pair."""

from __future__ import annotations

import array
import json
import socket

__all__ = ["Channel"]


class Channel:
    """One end of the socket pair between keeper and holder: JSON objects, some with a file descriptor."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def send(self, message: dict[str, object], fd: int | None = None) -> None:
        """Send one object, and a descriptor with it."""
        rights = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        self.sock.sendmsg([json.dumps(message).encode()], rights)

    def receive(self) -> tuple[dict[str, object], int | None]:
        """The next object and the descriptor that came with it.

        Raises:
            EOFError: The other end is closed.
        """
        data, fds, _, _ = socket.recv_fds(self.sock, 1 << 16, 1)
        if not data:
            raise EOFError
        message = json.loads(data)
        if not isinstance(message, dict):
            raise TypeError(f"not an object: {message!r}")
        return message, fds[0] if fds else None
