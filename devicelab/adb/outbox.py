"""The way out of a connection: whole packets in order from any thread, none of them ever cut in two."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from itertools import islice

from devicelab.adb.link import Link
from devicelab.adb.packets import Buffer
from devicelab.deadline import Deadline

__all__ = ["Outbox"]

# Headers and small payloads that may wait for a phone that does not read. An honest phone is owed a few for
# each stream; one that is owed this many asks for answers without ever taking them.
_MAX_WAITING = 2048

_BATCH = 16  # parts handed to the link at a time; IOV_MAX is 1024, and more than a few gain nothing


class Outbox:
    """Serializes packets onto a link.

    Two ways in: :meth:`send` waits, with a deadline; :meth:`post` never does. What a cut-off send leaves over
    is kept and goes first next time, so that one stream's deadline does not put the connection out of step.

    Args:
        link: Where to.
        fail: Called with the error when the link breaks or the phone does not read; must neither raise nor
            come back here.
    """

    def __init__(self, link: Link, fail: Callable[[Exception], None]) -> None:
        self._link = link
        self._fail = fail
        self._lock = threading.Lock()  # held while bytes go out
        self._door = threading.Lock()  # held while a packet's parts are put in line, one behind the other
        self._waiting: deque[memoryview] = deque()

    def send(self, header: bytes, payload: Buffer, deadline: Deadline) -> None:
        """Send one packet, after whatever waits.

        Raises:
            DeadlineError: Nothing, or not all, could be sent in time; what was begun is still finished later.
            OSError: The link is broken.
        """
        if not self._lock.acquire(timeout=deadline.remaining()):
            raise deadline.error()
        try:
            while self._waiting:
                self._advance(self._waiting, deadline.remaining())
            parts = deque(memoryview(part).cast("B") for part in (header, payload) if len(part))
            begun = 0
            try:
                while parts:
                    begun += self._advance(parts, deadline.remaining())
            finally:
                if parts and begun:
                    # The rest goes before all that was posted since. The caller's buffer may change once we
                    # return, so keep a copy.
                    self._waiting.extendleft(memoryview(bytes(part)) for part in reversed(parts))
        finally:
            self._lock.release()
        self._settle()

    def post(self, header: bytes, payload: bytes = b"") -> None:
        """Send one small packet as soon as the link takes it, without waiting; failures go to ``fail``."""
        if len(self._waiting) >= _MAX_WAITING:
            self._fail(BlockingIOError(f"takes none of {_MAX_WAITING} answers that it asked for"))
            return
        with self._door:
            self._waiting.extend(memoryview(part) for part in (header, payload) if part)
        self._settle()

    def settle(self) -> None:
        """Try again to send what waits, without waiting."""
        if self._waiting:
            self._settle()

    def close(self) -> None:
        """Close the link as soon as no thread is inside it; it must have been shut down before."""
        with self._lock:
            self._waiting.clear()
            self._link.close()

    def _settle(self) -> None:
        # Who posts while another thread sends leaves its packet to that thread, which looks again after
        # letting go of the lock: no packet is left behind although nobody waits.
        while self._waiting and self._lock.acquire(blocking=False):
            try:
                while self._waiting:
                    if not self._advance(self._waiting, 0.0):
                        return  # the phone reads slowly; the next packet in either direction tries again
            except OSError as error:
                self._fail(error)
                return
            finally:
                self._lock.release()

    def _advance(self, parts: deque[memoryview], timeout: float) -> int:
        """Send from the front of ``parts`` and drop what went out; return how many bytes that was."""
        total = sent = self._link.send(list(islice(parts, _BATCH)), timeout)
        while sent:
            if sent < len(parts[0]):
                parts[0] = parts[0][sent:]
                break
            sent -= len(parts.popleft())
        return total
