"""The directories of virtual phones: who owns one, and how it is removed whatever became of its owner.

Each phone's directory holds a lock file on which ``virtual up``, then the keeper and the phone's own processes
hold an flock, and in which the keeper writes its process id. A directory whose lock is free belongs to nobody.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from pathlib import Path

from devicelab.deadline import Deadline
from devicelab.devices.processes import process_alive, start_time
from devicelab.virtual.trees import remove_tree

__all__ = ["LOCK", "end", "is_free", "lock_directory", "sign", "stop", "sweep"]

LOCK = "lock"
_POLL_SECONDS = 0.01


def lock_directory(directory: Path) -> int:
    """Own a phone's fresh directory for as long as the returned descriptor, or a copy of it, is open."""
    fd = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return fd


def sign(fd: int) -> None:
    """Write into a held lock that this process is the one to end."""
    os.pwrite(fd, f"{os.getpid()} {start_time(os.getpid())}\n".encode(), 0)


def is_free(directory: Path) -> bool:
    """Whether a phone's directory belongs to no process any more."""
    try:
        fd = os.open(directory / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: others may ask at the same time
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def sweep(root: Path) -> None:
    """Remove the directories that killed commands and keepers left. The caller holds the registry's lock."""
    for directory in root.iterdir():
        if directory.is_dir() and not directory.is_symlink() and is_free(directory):
            remove_tree(directory)


def end(directory: Path, patience: float, deadline: Deadline) -> None:
    """Wait for a phone's processes to end, kill them when patience is over, and remove its directory.

    Raises:
        DeadlineError: They do not end even so.
    """
    kill_at = time.monotonic() + patience
    while not is_free(directory):
        if time.monotonic() >= kill_at:
            _signal(directory, signal.SIGKILL)
        time.sleep(deadline.capped(_POLL_SECONDS))
    remove_tree(directory)


def stop(directory: Path) -> None:
    """Tell the keeper to end its phone, without waiting for it."""
    _signal(directory, signal.SIGTERM)


def _signal(directory: Path, number: signal.Signals) -> None:
    """Send a signal to the keeper that has signed the lock; with it ends all else of the phone."""
    words = (directory / LOCK).read_text(encoding="utf-8", errors="replace").split()
    signed = len(words) == 2 and all(word.isascii() and word.isdecimal() and len(word) < 19 for word in words)
    if signed and process_alive(int(words[0]), int(words[1])):
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(int(words[0]), number)
