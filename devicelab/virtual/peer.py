"""Which user is at the other end of a connection over 127.0.0.1.

Any user of the machine can connect to a port there. For a phone in a sandbox that does not matter much; where a
phone's shell is the host's, a stranger would become whoever started it.
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

__all__ = ["find_owner", "is_ours", "peer_user"]

_TABLE = Path("/proc/net/tcp")


def peer_user(sock: socket.socket) -> int | None:
    """The user id of the process that holds the other end; None if nobody does any more, or from elsewhere.

    Raises:
        OSError: The connection is gone.
    """
    theirs, ours = sock.getpeername(), sock.getsockname()
    return find_owner(_TABLE.read_text(encoding="ascii"), theirs, ours)


def is_ours(sock: socket.socket) -> bool:
    """Whether the other end belongs to this process's user, or to root, who needs no leave.

    Raises:
        OSError: The connection is gone.
    """
    return peer_user(sock) in {0, os.geteuid()}


def find_owner(table: str, local: tuple[str, int], remote: tuple[str, int]) -> int | None:
    """The user id of a connection's end in a table such as ``/proc/net/tcp``.

    A socket that its process has closed stays there for a while, without inode and as root's: that is nobody.
    """
    ends = [_spell(*local), _spell(*remote)]
    for line in table.splitlines()[1:]:
        words = line.split()
        if words[1:3] == ends and words[9] != "0":
            return int(words[7])
    return None


def _spell(address: str, port: int) -> str:
    """``127.0.0.1``, 80 as the kernel writes it: the address as a word of this machine, both in hex."""
    (word,) = struct.unpack("=I", socket.inet_aton(address))
    return f"{word:08X}:{port:04X}"
