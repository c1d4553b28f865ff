"""One writer a run: a lock that ends with its holder, and a line that says who that is.

The kernel lets go of it when the process dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import json
import os
import socket
import sys
import time
from pathlib import Path

from devicelab.closing import Closing
from devicelab.errors import StoreError

__all__ = ["WriterLock", "is_locked"]

_TRIES, _PAUSE = 5, 0.02  # seconds; whoever asks is done in microseconds


class WriterLock(Closing):
    """Held from construction to :meth:`close`, or to the end of the process.

    The file stays; a copy of it locks nobody.

    Args:
        path: The file.

    Raises:
        StoreError: Somebody holds it (says who), or the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._fd: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreError(f"cannot write to {path.parent}: {error.strerror}") from error
        try:
            _take(self._fd)
        except OSError as error:
            holder = _holder(self._fd)
            os.close(self._fd)
            raise StoreError(
                f"the run {path.parent.name} is in use by {holder}",
                hint="wait for it, or end it; the run can be looked at meanwhile",
            ) from error
        try:
            _say_who(self._fd)
        except OSError as error:
            os.close(self._fd)
            raise StoreError(
                f"cannot write to {path}: {error.strerror}", hint="free some space there"
            ) from error

    def close(self) -> None:
        """Let go; may be called twice."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


def is_locked(path: Path) -> bool:
    """Whether somebody holds a lock; changes nothing."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:  # a file system without locks has others
        return isinstance(error, BlockingIOError)
    else:
        return False
    finally:
        os.close(fd)


def _take(fd: int) -> None:
    """Lock, and be patient with those who only ask (:func:`is_locked`)."""
    for _ in range(_TRIES - 1):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(_PAUSE)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _say_who(fd: int) -> None:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        user = str(os.getuid())
    who = {
        "pid": os.getpid(),
        "user": user,
        "host": socket.gethostname(),
        "command": " ".join(sys.argv)[:200],
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    os.ftruncate(fd, 0)
    os.pwrite(fd, json.dumps(who).encode(), 0)


def _holder(fd: int) -> str:
    try:
        who = json.loads(os.pread(fd, 4096, 0))
        command = f" ({who['command']})" if who["command"] else ""
        return f"process {who['pid']}{command} of {who['user']} on {who['host']}, since {who['since']}"
    except (ValueError, KeyError, TypeError, OSError):  # between opening and saying who
        return "another process"
