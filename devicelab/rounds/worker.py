"""One device's part of a round, step by step, through whatever happens to the phone meanwhile.

::

    prepare ──> start ──> follow ──> collect ──> take ──> finish
       ^          ^          │          │
       │          └── ended by the phone, restarted, silent
       └───────────────── its directory is gone, or holds another job

Every step but *take* may be repeated: the job's id decides what is there already. *take* checks what came and
stores it, on this host alone; before it the phone's copy stays, after it the phone may forget. A phone that
is away is waited for until its deadline, and the step is done again when it is back; one that is there and
silent is given up (:mod:`devicelab.rounds.absence`). Only failures of a phone that does answer are counted.

What ends a device's part: its update is stored (done); it cannot or must not go on (failed); what it sent
cannot be an honest update (rejected); its time is over (late). A part that has ended without an update is never
taken up again in this attempt at the round, so a client is counted once or not at all.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from devicelab.deadline import Deadline
from devicelab.errors import (
    AdbUnavailableError,
    ConfigError,
    DeadlineError,
    DeviceError,
    DeviceFullError,
    DevicelabError,
    DeviceLostError,
    DeviceUnauthorizedError,
    RemoteFileError,
    RunnerError,
    UpdateError,
)
from devicelab.rounds.absence import Absence
from devicelab.rounds.events import DevicePhase, DeviceProgress, DeviceTrouble, Event, Phase
from devicelab.rounds.phone import Phone
from devicelab.runner.messages import Hello, Progress, Result

__all__ = ["Ended", "InterruptedRoundError", "Outcome", "Step", "Worker", "step_after"]

_PAUSE: Final = 0.25, 2.0  # seconds between two attempts to reach a phone: at first, and at most
_REACH: Final = 10.0  # for one attempt
_GOODBYE: Final = 10.0  # for tidying up on a phone that is given up
_SETTLE: Final = 5.0  # for what comes after an update is stored; the rest is done when the phone is met again

_TELL: Final = 0.1  # seconds between two events about a device's progress
_LINES: Final = 10_000, 20.0  # that a job may print: at least, and for each second that it may take

_REJECTED: Final = frozenset({"damaged", "protocol"})
_RESTARTED: Final = frozenset({"killed", "stopped", "crashed"})
_FINAL: Final = frozenset({"usage", "job", "engine", "memory", "output", "not-finite"})


class Step(StrEnum):
    """What is done next."""

    PREPARE = "prepare"
    START = "start"
    FOLLOW = "follow"
    COLLECT = "collect"
    TAKE = "take"
    FINISH = "finish"


_PHASES: Final = {
    Step.PREPARE: Phase.PUSH,
    Step.START: Phase.START,
    Step.FOLLOW: Phase.TRAIN,
    Step.COLLECT: Phase.PULL,
    Step.TAKE: Phase.CHECK,
    Step.FINISH: Phase.COMMIT,
}


_NEXT: Final = dict(zip(Step, [*list(Step)[1:], None], strict=True))

_AWAY: Final = (DeviceLostError, DeadlineError, AdbUnavailableError)
"""What a phone that is not there looks like; it may also be there, and only this one thing took too long."""


class InterruptedRoundError(Exception):
    """The round is not to go on in this process. Whatever the phones do, they go on doing."""


class Ended(Exception):  # noqa: N818 - it is an end and not an error
    """A device's part is over without an update.

    Args:
        phase: How it ended.
        reason: Why, in words for people.
    """

    def __init__(self, phase: Phase, reason: str) -> None:
        super().__init__(reason)
        self.phase = phase
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a device's part of a round ended.

    Attributes:
        phase: ``done``, ``failed``, ``rejected`` or ``late``.
        reason: Why it is not done; empty if it is.
        removed: Whether nothing of the job is left on the phone. If not, that is for the next one to do who
            meets it: to commit and remove where the update is stored, else to remove.
        seconds: How long each phase took, by its name.
    """

    phase: Phase
    reason: str
    removed: bool
    seconds: dict[str, float]


@dataclass
class Worker:
    """Brings one device through its part of a round. Runs in one thread.

    Args:
        phone: The phone.
        round_number: Of which round.
        deadline: When the device is cut off.
        idle: Seconds without a sign of progress after which a job is started anew; without an answer, after
            which the phone is given up.
        retries: How often a step may fail while the phone answers, and be tried again.
        take: Checks and stores what came. UpdateError rejects it.
        health: Looks after the phone's health now and then; raises :class:`Ended` if it must not go on.
        interrupted: Raises :class:`InterruptedRoundError` if the round is not to go on.
        tell: Hears events.
        has_taken: Called once the update is stored, before the phone is told.
        away: Seconds that a phone is waited for that is away; until the deadline, if nobody says so.
        wary: Whether the phone was given up a moment ago: then it has to answer before anything is sent.
    """

    phone: Phone
    round_number: int
    deadline: Deadline
    idle: float
    retries: int
    take: Callable[[Result], object]
    tell: Callable[[Event], object]
    health: Callable[[], object] = lambda: None
    interrupted: Callable[[], object] = lambda: None
    has_taken: Callable[[], object] = lambda: None
    away: float = math.inf
    wary: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    _failures: Counter[Step] = field(default_factory=Counter)
    _result: Result | None = None
    _phase: Phase | None = None
    _absence: Absence | None = None
    _lines: int = 0
    _tell_next: float = 0.0

    def run(self, first: Step = Step.PREPARE) -> Outcome:
        """Do it.

        Args:
            first: Where to begin: with :attr:`Step.FINISH` if the update is stored already.

        Raises:
            InterruptedRoundError: The round is not to go on in this process.
            ConfigError, OSError: This host cannot store what came.
        """
        step: Step | None = first
        try:
            if self.wary and (missed := self._missed()) is not None:
                self._await_phone(missed, Step.PREPARE)
            while step is not None and step is not Step.FINISH:
                step = self._once(step)
        except Ended as end:
            self._enter(end.phase, end.reason)
            return Outcome(end.phase, end.reason, self._tidied(), self.seconds)
        if first is not Step.FINISH:
            self.has_taken()
        self.deadline = Deadline("commit", _SETTLE, self.phone.serial)
        removed = self._settle()
        self._enter(Phase.DONE)
        return Outcome(Phase.DONE, "", removed, self.seconds)

    def _settle(self) -> bool:
        """Commit and remove. The update counts whether that succeeds now or when the phone is met again."""
        step: Step | None = Step.FINISH
        try:
            while step is not None:
                step = self._once(step)
        except Ended:
            return False
        return True

    def _once(self, step: Step) -> Step | None:
        """One step, and the next one to do."""
        self._check()
        self._enter(_PHASES[step])
        began = time.monotonic()
        try:
            return self._do(step)
        except AdbUnavailableError as error:  # somebody restarts the adb server: as good as unplugged
            return self._mend(step, error)
        except ConfigError:
            raise
        except DevicelabError as error:
            return self._mend(step, error)
        finally:
            name = _PHASES[step].value
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began

    def _do(self, step: Step) -> Step | None:
        match step:
            case Step.PREPARE:
                self.phone.prepare(self.deadline)
            case Step.START:
                self.phone.start()
            case Step.FOLLOW:
                self._lines = 0  # whoever follows a job again hears all of it again
                self._result = self.phone.follow(self._heard, self._between, self.idle)
            case Step.COLLECT:
                assert self._result is not None
                self.phone.collect(self._result, self.deadline)
            case Step.TAKE:
                assert self._result is not None
                self.take(self._result)
            case Step.FINISH:
                self.phone.finish()
        return _NEXT[step]

    def _mend(self, step: Step, error: DevicelabError) -> Step:
        """Decide what a failure means, and wait for the phone if it is away."""
        if self.deadline.expired:
            raise Ended(Phase.LATE, self._late()) from error
        again = step_after(error, step)
        silent = step is Step.FOLLOW and isinstance(error, DeadlineError)
        quiet_since = time.monotonic() - (self.idle if silent else 0.0)
        missed = self._missed()
        # A job is followed through short losses, so who answers after one that was told here was away.
        away = missed is not None or (step is Step.FOLLOW and isinstance(error, DeviceLostError))
        if not (isinstance(error, _AWAY) and away):
            self._failures[step] += 1
            if self._failures[step] > self.retries:
                raise Ended(Phase.REJECTED if _lies(error, step) else Phase.FAILED, _words(error)) from error
        if missed is None:
            self.tell(DeviceTrouble(self.round_number, self.phone.serial, _words(error)))
        else:
            self._await_phone(missed, step, silent=time.monotonic() - quiet_since)
        with contextlib.suppress(DevicelabError):  # where it fails, the next step will fail, too
            if again is Step.PREPARE and step is not Step.PREPARE:
                self.phone.remove()  # what is there is not what was put there
            elif silent:
                self.phone.stop()  # it runs and does nothing
        return again

    def _missed(self) -> DevicelabError | None:
        """Why the phone cannot be reached; None if it answers."""
        try:
            self.phone.reach(self.deadline.within("answer", min(_REACH, self.idle)))
        except DevicelabError as error:
            return error
        return None

    def _await_phone(self, missed: DevicelabError, step: Step, *, silent: float = 0.0) -> None:
        """Return once the phone answers; ``silent``: seconds that it has been so already, if it is."""
        before = silent if isinstance(missed, DeadlineError) else 0.0
        self._absence = absence = Absence(missed, idle=self.idle, away=self.away, before=before)
        if not absence.over:
            words = absence.told(self.deadline.left, training=step is Step.FOLLOW)
            self.tell(DeviceTrouble(self.round_number, self.phone.serial, words))
        pause, most = _PAUSE
        found: DevicelabError | None = missed
        while found is not None:
            absence.note(found)
            if absence.over:
                raise Ended(Phase.FAILED, str(absence)) from found
            until = time.monotonic() + pause
            while time.monotonic() < until:
                self._check()
                time.sleep(0.05)
            pause = min(2 * pause, most)
            found = self._missed()
        self._absence = None

    def _check(self) -> None:
        self.interrupted()
        if self.deadline.expired:
            raise Ended(Phase.LATE, self._late())

    def _between(self) -> None:
        self._check()
        self.health()

    def _late(self) -> str:
        missed = f"; {self._absence}" if self._absence is not None else ""
        return f"cut off at its deadline of {self.deadline.seconds:g} s{missed}"

    def _tidied(self) -> bool:
        """Leave nothing on a phone that is given up, if it lets us."""
        if self._absence is not None and self._absence.silent:
            return False
        try:
            self.phone.reach(Deadline("goodbye", _GOODBYE, self.phone.serial))
            self.phone.remove()
        except DevicelabError:
            return False
        return True

    def _enter(self, phase: Phase, reason: str = "") -> None:
        if phase is not self._phase:
            self._phase = phase
            self.tell(DevicePhase(self.round_number, self.phone.serial, phase, reason))

    def _heard(self, message: Hello | Progress) -> None:
        """Pass progress on, but no flood of it."""
        least, each_second = _LINES
        self._lines += 1
        if self._lines > max(least, each_second * self.deadline.seconds):
            raise Ended(Phase.REJECTED, f"it prints without end: {self._lines} lines and no result")
        now = time.monotonic()
        if isinstance(message, Hello) or message.client is None or now < self._tell_next:
            return
        self._tell_next = now + _TELL
        self.tell(
            DeviceProgress(
                round=self.round_number,
                device=self.phone.serial,
                client=message.client,
                index=message.index,
                clients=message.clients,
                step=message.step,
                steps=message.steps,
                loss=message.loss,
                examples=message.examples,
                seconds=message.ms / 1000,
            )
        )


def step_after(error: DevicelabError, step: Step) -> Step:
    """Which step is tried next after a failure. Pure.

    Raises:
        Ended: None: the device's part is over.
    """
    match error:
        case UpdateError():
            raise Ended(Phase.REJECTED, error.message)
        case RunnerError(code=code) if code in _REJECTED and step is not Step.COLLECT:
            raise Ended(Phase.REJECTED, error.message)
        case RunnerError(code=code) if code in _FINAL:
            raise Ended(Phase.FAILED, _words(error))
        case DeviceFullError() | DeviceUnauthorizedError():
            raise Ended(Phase.FAILED, _words(error))
        case RunnerError(code=code) if code in _RESTARTED and step is Step.FOLLOW:
            return Step.START
        case RunnerError() | RemoteFileError() if step in {Step.START, Step.FOLLOW, Step.COLLECT}:
            return Step.PREPARE  # another job is there, or a part of this one is not: all over again
        case DeviceLostError() | DeadlineError() | AdbUnavailableError() if step is Step.FOLLOW:
            return Step.START  # the phone may have restarted; who runs goes on running
        case _:
            return step


def _lies(error: DevicelabError, step: Step) -> bool:
    """Whether a failure that comes again and again is the phone's way to say what is not so."""
    if isinstance(error, RunnerError):
        return error.code in _REJECTED
    return step is Step.COLLECT and isinstance(error, RemoteFileError)  # no such file, or a larger one


def _words(error: DevicelabError) -> str:
    return f"{error.message}: {error.hint}" if isinstance(error, DeviceError) and error.hint else error.message
