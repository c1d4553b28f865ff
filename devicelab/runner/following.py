"""The wait for a detached job: for its launcher's word, and with a look now and then."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from devicelab.deadline import Deadline
from devicelab.errors import DeadlineError, DeviceError, DeviceLostError
from devicelab.runner.bell import Bell
from devicelab.runner.launch import BLOCK, MOST, Look
from devicelab.runner.messages import Result
from devicelab.runner.transcript import Listener, Transcript

if TYPE_CHECKING:
    from devicelab.runner.session import JobSession

__all__ = ["POLL", "Following", "Patience"]

POLL: Final = 0.02, 0.5
"""Seconds between two looks: at first, and at most."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a job, in seconds.

    Attributes:
        total: For the whole of it.
        idle: Without a line from it, while the device answers; or without an answer.
        away: While the device cannot be reached.
    """

    total: float = 3600.0
    idle: float = 60.0
    away: float = 120.0


class Following:
    """The clocks and the position of one :meth:`JobSession.follow`, whose arguments it takes.

    Args:
        bell: The job's launcher, if this process started it; whoever made it closes it.
    """

    def __init__(
        self,
        session: JobSession,
        patience: Patience,
        listener: Listener | None,
        between: Callable[[], object] | None,
        bell: Bell | None,
    ) -> None:
        self._session = session
        self._patience = patience
        self._between = between or (lambda: None)
        self._bell = bell
        self._device = session.device.serial
        self._transcript = Transcript(session.job, self._device, listener)
        self._whole = Deadline(f"job {session.job.job}", patience.total, self._device)
        self._offset = 0
        self._away = False
        self._answered = self._heard = time.monotonic()

    def result(self) -> Result:
        """Wait for the end; see :meth:`JobSession.follow`."""
        pause = POLL[0]
        while True:
            self._between()
            look = self._rung() or self._look()
            if look is not None:
                if look.log:
                    self._offset += len(look.log)
                    self._heard = time.monotonic()
                    pause = POLL[0] if self._transcript.feed(look.log) else pause
                    left_alone = look.code is None and look.state != "running"
                    if left_alone or len(look.log) >= MOST - BLOCK:
                        continue  # there may be more
                if look.code is not None or look.state != "running":
                    return self._session.conclude(self._transcript, look.code)
                if time.monotonic() - self._heard > self._patience.idle:
                    what = f"a line of job {self._session.job.job}"
                    raise DeadlineError(what, seconds=self._patience.idle, device=self._device)
            if self._bell is None:
                time.sleep(self._whole.capped(pause))
                pause = min(1.5 * pause, POLL[1])

    def _rung(self) -> Look | None:
        """How the job ended, if its launcher says so within the time between two looks."""
        if self._bell is None:
            return None
        try:
            look = self._bell.wait(self._whole.within("end of the job", POLL[1]))
        except DeviceError:  # the looks will tell more
            self._bell = None
            return None
        return look and replace(look, log=look.log[self._offset :])

    def _look(self) -> Look | None:
        """One look; None while the device is away and may come back."""
        try:
            look = self._session.look(self._offset, seconds=self._patience.idle)
        except (DeviceLostError, DeadlineError) as error:
            there = isinstance(error, DeadlineError)  # and silent
            if time.monotonic() - self._answered > (self._patience.idle if there else self._patience.away):
                raise
            self._away = True
            return None
        self._answered = time.monotonic()
        if self._away:
            self._heard = self._answered  # nobody could listen meanwhile
        self._away = False
        return look
