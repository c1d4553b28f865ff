"""What a block of a test costs, measured so that neither other processes nor earlier tests count."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
import tracemalloc
from collections.abc import Iterator

__all__ = ["bounded", "idle", "threads_end"]

MB = 1 << 20


@contextlib.contextmanager
def idle(share: float = 0.2) -> Iterator[None]:
    """Fail if this process burns more than a share of the time that the block takes.

    Its processor time is its own however busy the machine is. Garbage is not collected meanwhile: that costs
    what the tests before have left.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        processor, begin = time.process_time(), time.monotonic()
        yield
        burnt, took = time.process_time() - processor, time.monotonic() - begin
    finally:
        if collects:
            gc.enable()
    assert burnt < share * took, f"{burnt:.2f} s of {took:.2f} s"


@contextlib.contextmanager
def bounded(megabytes: float) -> Iterator[None]:
    """Fail if more memory than that is taken on the way, by this process's Python and all its threads."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < megabytes * MB, f"{peak / MB:.1f} MB"


@contextlib.contextmanager
def threads_end() -> Iterator[None]:
    """Fail if a thread that began within the block outlives it; those of earlier tests do not count."""
    before = set(threading.enumerate())
    yield
    left = set(threading.enumerate()) - before
    assert not left, left
