"""The devices' threads as the coordinator sees them: work is handed out, waited for, and ended."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Final

from devicelab.rounds.station import Station
from devicelab.rounds.worker import InterruptedRoundError

__all__ = ["Countdown", "Team"]

_LOOK_UP: Final = 0.2  # seconds between two chances for Ctrl-C


class Countdown:
    """What is still to be waited for, by name; each counts once.

    Args:
        names: What.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._left = set(names)
        self._changed = threading.Condition()

    def done(self, name: str) -> None:
        """One need not be waited for any more; may be said again."""
        with self._changed:
            self._left.discard(name)
            self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Whether all are done, within some seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._left, seconds)


class Team:
    """Work in the threads of devices. Used by one thread."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._work: list[Future[None]] = []

    def submit(
        self, station: Station, work: Callable[[], None], ended: Callable[[], object] = lambda: None
    ) -> None:
        """Have something done in a device's thread.

        Args:
            station: The device.
            work: What.
            ended: Called in that thread, however the work ends.
        """

        def whole() -> None:
            try:
                work()
            finally:
                ended()

        self._work.append(station.submit(whole))

    def wait_for(self, countdown: Countdown) -> None:
        """Wait until all is done.

        Raises:
            DevicelabError, OSError: Something went wrong on this host's side in a device's thread.
        """
        while not countdown.wait(_LOOK_UP):
            self._raise_failures()
        self._raise_failures()

    def interrupt(self) -> None:
        """Have whoever calls :meth:`check` end."""
        self._stop.set()

    def check(self) -> None:
        """Called in the devices' threads.

        Raises:
            InterruptedRoundError: They are to end.
        """
        if self._stop.is_set():
            raise InterruptedRoundError

    def join(self) -> None:
        """Wait until no device has anything to do; raise what went wrong there, except for the interruption."""
        work, self._work = self._work, []
        failures = [error for each in work if (error := each.exception()) is not None]
        for error in failures:
            if not isinstance(error, InterruptedRoundError):
                raise error

    def _raise_failures(self) -> None:
        for each in self._work:
            if each.done() and (error := each.exception()) is not None:
                raise error
