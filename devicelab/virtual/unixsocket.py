"""Unix sockets at paths of any length: the kernel takes 107 bytes, state directories know no such limit."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devicelab.deadline import Deadline

__all__ = ["bind_at", "connect_to", "listen_at"]

_BACKLOG = 64


def bind_at(path: Path) -> socket.socket:
    """A socket in place of whatever was at ``path``, for this user alone, that does not listen yet.

    Raises:
        OSError: The directory is missing, …
    """
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short(path) as name:
            sock.bind(name)
        path.chmod(0o600)
    except BaseException:
        sock.close()
        raise
    return sock


def listen_at(path: Path) -> socket.socket:
    """The same, listening.

    Raises:
        OSError: The directory is missing, …
    """
    sock = bind_at(path)
    try:
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def connect_to(path: Path, deadline: Deadline) -> socket.socket:
    """A connection to whoever listens at ``path``; blocking from then on.

    Raises:
        ConnectionError: Nobody does.
        DeadlineError: Somebody does, but accepts nothing.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(deadline.remaining())
        with _short(path) as name:
            sock.connect(name)
        sock.settimeout(None)
    except FileNotFoundError as error:
        sock.close()
        raise ConnectionRefusedError(f"nobody listens at {path}") from error
    except TimeoutError:
        sock.close()
        raise deadline.error() from None
    except BaseException:
        sock.close()
        raise
    return sock


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """Another name for a path, by way of a descriptor of its directory."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
