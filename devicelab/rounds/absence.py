"""A phone that does not answer: away (nothing is there), or silent (something is there and says nothing)."""

from __future__ import annotations

import time
from typing import Final

from devicelab.errors import DeadlineError, DevicelabError

__all__ = ["Absence"]

_CLOCK: Final = "%H:%M:%S"


def _clock(seconds: float = 0.0) -> str:
    """The time of day so many seconds from now, as people read it."""
    return time.strftime(_CLOCK, time.localtime(time.time() + seconds))


class Absence:
    """How long a phone is missed by now, and for how long it is to be waited for.

    Args:
        error: What the first attempt to reach it came to.
        idle: Seconds for a phone that is silent.
        away: Seconds for one that is away.
        before: Seconds that it has been silent already.
    """

    def __init__(self, error: DevicelabError, *, idle: float, away: float, before: float = 0.0) -> None:
        self._limits = {True: idle, False: away}
        self._since = _clock(-before)
        self._began = time.monotonic() - before
        self._error = error

    def note(self, error: DevicelabError) -> None:
        """It was not reached once more. One that was away and is silent now is missed anew, and vice versa."""
        if isinstance(error, DeadlineError) is not self.silent:
            self._began, self._since = time.monotonic(), _clock()
        self._error = error

    @property
    def silent(self) -> bool:
        """Whether something is there that does not answer."""
        return isinstance(self._error, DeadlineError)

    @property
    def over(self) -> bool:
        """Whether it has been waited for as long as it is to be."""
        return time.monotonic() - self._began >= self._limits[self.silent]

    def told(self, left: float, *, training: bool) -> str:
        """What people are told when it begins.

        Args:
            left: Seconds until the device's deadline.
            training: Whether a job may be at work there.
        """
        limit = self._limits[self.silent]
        until = _clock(limit) if limit < left else f"its deadline, {_clock(left)}"
        if self.silent:
            return f"does not answer: {self._error.message}; it is waited for until {until}"
        if training and limit >= left:
            return f"is away: {self._error.message}; what it has trained counts if it is back before {until}"
        return f"is away: {self._error.message}; it is waited for until {until}"

    def __str__(self) -> str:
        if self.silent:
            return f"no answer since {self._since}, for longer than {self._limits[True]:g} s: it seems frozen"
        return f"away since {self._since} ({self._error.message})"
