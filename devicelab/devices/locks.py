"""Short mutual exclusion between processes: flock(2) with a deadline."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager

from devicelab.deadline import Deadline

__all__ = ["flocked"]


@contextmanager
def flocked(fd: int, deadline: Deadline, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock on an open file for the length of a ``with`` block.

    The kernel lets go of it when the process dies. flock(2) has no timeout, so the lock is tried again and
    again at growing intervals of at most 50 ms.

    Args:
        fd: The file; the lock belongs to this opening of it, so two threads that open it exclude each other.
        deadline: How long to wait for the lock (not how long to hold it).
        shared: Let other shared holders in.

    Raises:
        DeadlineError: Somebody else held it all the time.
    """
    operation = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
    pause = 0.001
    while True:
        try:
            fcntl.flock(fd, operation)
            break
        except BlockingIOError:
            time.sleep(deadline.capped(pause))
            pause = min(2 * pause, 0.05)
    try:
        yield
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)
