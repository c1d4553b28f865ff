from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from devicelab.deadline import Deadline
from devicelab.errors import (
    AdbUnavailableError,
    DeadlineError,
    DeviceFullError,
    DevicelabError,
    DeviceLostError,
    DeviceUnauthorizedError,
    ProtocolError,
    RemoteFileError,
    RunnerError,
    UpdateError,
)
from devicelab.rounds.events import DevicePhase, DeviceProgress, DeviceTrouble, Event, Phase
from devicelab.rounds.worker import Ended, InterruptedRoundError, Outcome, Step, Worker, step_after
from devicelab.runner.messages import EvaluateResult, Hello, Progress, Result

SERIAL = "R58M42"
RESULT = EvaluateResult("job", 0, 0, {}, ())
SMOOTH = ["prepare", "start", "follow", "collect", "take", "finish"]


def lost() -> DevicelabError:
    return DeviceLostError("gone", device=SERIAL)


def silent() -> DeadlineError:
    return DeadlineError("a line", seconds=1, device=SERIAL)


def runner(code: str) -> DevicelabError:
    return RunnerError("it says no", device=SERIAL, code=code)


@dataclass
class ScriptedPhone:
    """Does what it is asked to, except for what its script says."""

    failures: dict[str, list[BaseException]] = field(default_factory=dict)
    away: int = 0  # how many attempts to reach it fail
    away_each: int = 0  # the same, anew after each failure
    missed: Callable[[], DevicelabError] = lost  # what such an attempt comes to
    serial: str = SERIAL
    calls: list[str] = field(default_factory=list)
    during: Callable[[], object] = lambda: None  # happens while it trains

    def prepare(self, deadline: Deadline) -> None:
        self._do("prepare")

    def start(self) -> None:
        self._do("start")

    def follow(
        self, on_message: Callable[[Hello | Progress], object], between: Callable[[], object], idle: float
    ) -> Result:
        on_message(Hello(1, "0.1", "1.32", "arm64-v8a", "android", 1))
        on_message(Progress(5, "ann", 0, 1, 2, 4, 0.5, 64))
        self.during()
        between()
        self._do("follow")
        return RESULT

    def collect(self, result: Result, deadline: Deadline) -> None:
        assert result is RESULT
        self._do("collect")

    def take(self, result: Result) -> None:
        assert result is RESULT
        self._do("take")

    def stop(self) -> None:
        self._do("stop")

    def finish(self) -> None:
        self._do("finish")

    def remove(self) -> None:
        self._do("remove")

    def reach(self, deadline: Deadline) -> None:
        if self.away > 0:
            self.away -= 1
            raise self.missed()

    def _do(self, what: str) -> None:
        self.calls.append(what)
        if script := self.failures.get(what):
            self.away += self.away_each
            raise script.pop(0)


def work(
    phone: ScriptedPhone,
    *,
    seconds: float = 60.0,
    idle: float = 10.0,
    away: float = math.inf,
    wary: bool = False,
    first: Step = Step.PREPARE,
    events: list[Event] | None = None,
    health: Callable[[], object] = lambda: None,
    interrupted: Callable[[], object] = lambda: None,
) -> Outcome:
    worker = Worker(
        phone=phone,
        round_number=3,
        deadline=Deadline("round 3", seconds, SERIAL),
        idle=idle,
        away=away,
        wary=wary,
        retries=2,
        take=phone.take,
        tell=(events if events is not None else []).append,
        health=health,
        interrupted=interrupted,
    )
    return worker.run(first)


def test_a_smooth_round() -> None:
    phone, events = ScriptedPhone(), list[Event]()
    outcome = work(phone, events=events)
    assert phone.calls == SMOOTH
    assert (outcome.phase, outcome.reason, outcome.removed) == (Phase.DONE, "", True)
    phases = [event.phase for event in events if isinstance(event, DevicePhase)]
    assert phases == ["push", "start", "train", "pull", "check", "commit", "done"]
    (progress,) = (event for event in events if isinstance(event, DeviceProgress))
    assert (progress.client, progress.step, progress.seconds) == ("ann", 2, 0.005)
    assert list(outcome.seconds) == ["push", "start", "train", "pull", "check", "commit"]


@pytest.mark.parametrize("step", ["prepare", "start", "collect", "finish"])
def test_a_phone_that_was_lost_does_the_same_step_again_when_it_is_back(step: str) -> None:
    phone, events = ScriptedPhone({step: [lost()]}, away=3), list[Event]()
    outcome = work(phone, events=events)
    at = SMOOTH.index(step)
    assert phone.calls == [*SMOOTH[:at], step, *SMOOTH[at:]]
    assert outcome.phase is Phase.DONE
    (told,) = (event.reason for event in events if isinstance(event, DeviceTrouble))
    assert told.startswith("is away: gone; it is waited for until its deadline, ")


def test_a_phone_that_was_lost_in_training_is_started_which_finds_what_runs() -> None:
    phone = ScriptedPhone({"follow": [lost()]}, away=1)
    assert work(phone).phase is Phase.DONE
    assert phone.calls == ["prepare", "start", "follow", "start", *SMOOTH[2:]]


def test_losses_of_a_phone_that_is_away_each_time_are_not_counted() -> None:
    phone = ScriptedPhone({"start": [lost() for _ in range(5)]}, away_each=1)
    assert work(phone).phase is Phase.DONE
    assert phone.calls.count("start") == 6


def test_a_phone_that_keeps_failing_while_it_answers_is_given_up_and_tidied() -> None:
    phone = ScriptedPhone({"start": [ProtocolError("nonsense", device=SERIAL) for _ in range(3)]})
    outcome = work(phone)
    assert outcome == Outcome(Phase.FAILED, "nonsense", removed=True, seconds=outcome.seconds)
    assert phone.calls == ["prepare", "start", "start", "start", "remove"]


@pytest.mark.parametrize("code", ["killed", "stopped", "crashed"])
def test_a_job_that_the_phone_ended_is_started_again(code: str) -> None:
    phone = ScriptedPhone({"follow": [runner(code)]})
    assert work(phone).phase is Phase.DONE
    assert phone.calls == ["prepare", "start", "follow", "start", *SMOOTH[2:]]


def test_a_job_that_hangs_is_ended_and_started_again() -> None:
    phone = ScriptedPhone({"follow": [silent()]})
    assert work(phone).phase is Phase.DONE
    assert phone.calls == ["prepare", "start", "follow", "stop", "start", *SMOOTH[2:]]


@pytest.mark.parametrize(
    ("step", "error"),
    [("follow", runner("input")), ("start", runner("busy")), ("collect", runner("damaged"))],
)
def test_what_is_not_what_was_put_there_is_put_there_anew(step: str, error: DevicelabError) -> None:
    phone = ScriptedPhone({step: [error]})
    assert work(phone).phase is Phase.DONE
    at = SMOOTH.index(step) + 1
    assert phone.calls == [*SMOOTH[:at], "remove", *SMOOTH]


@pytest.mark.parametrize("code", ["memory", "engine", "job", "output", "not-finite"])
def test_what_would_fail_again_is_not_tried_again(code: str) -> None:
    phone = ScriptedPhone({"follow": [runner(code)]})
    assert work(phone).phase is Phase.FAILED
    assert phone.calls == ["prepare", "start", "follow", "remove"]


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ("take", UpdateError("NaN", device=SERIAL)),
        ("follow", runner("protocol")),
        ("follow", runner("damaged")),
    ],
)
def test_what_cannot_be_honest_is_rejected_at_once(step: str, error: DevicelabError) -> None:
    phone = ScriptedPhone({step: [error]})
    outcome = work(phone)
    assert outcome.phase is Phase.REJECTED
    assert phone.calls[-1] == "remove"
    assert "finish" not in phone.calls


def test_an_update_that_is_never_what_was_announced_is_rejected() -> None:
    phone = ScriptedPhone({"collect": [runner("damaged") for _ in range(3)]})
    assert work(phone).phase is Phase.REJECTED


def test_a_late_phone_is_cut_off_and_its_reason_says_that_it_was_away() -> None:
    phone = ScriptedPhone({"start": [lost()]}, away=10**6)
    outcome = work(phone, seconds=0.5)
    assert (outcome.phase, outcome.removed) == (Phase.LATE, False)
    assert re.fullmatch(
        r"cut off at its deadline of 0\.5 s; away since \d\d:\d\d:\d\d \(gone\)", outcome.reason
    )


def test_a_phone_that_is_away_while_it_trains_is_told_of_at_once_and_until_when_it_may_be_back() -> None:
    events = list[Event]()
    assert work(ScriptedPhone({"follow": [lost()]}, away=1), events=events).phase is Phase.DONE
    (told,) = (event.reason for event in events if isinstance(event, DeviceTrouble))
    wanted = r"is away: gone; what it has trained counts if it is back before its deadline, \d\d:\d\d:\d\d"
    assert re.fullmatch(wanted, told)


def test_a_phone_that_was_silent_for_all_of_idle_and_is_so_still_is_given_up() -> None:
    phone = ScriptedPhone({"follow": [silent()]}, away=10**6, missed=silent)
    outcome = work(phone)
    assert (outcome.phase, outcome.removed) == (Phase.FAILED, False)
    assert re.match(r"no answer since \d\d:\d\d:\d\d, for longer than 10 s", outcome.reason)
    assert phone.calls == ["prepare", "start", "follow"]


def test_a_phone_that_is_silent_in_another_step_has_idle_to_answer() -> None:
    again = ScriptedPhone({"start": [silent()]}, away=2, missed=silent)
    assert work(again).phase is Phase.DONE
    never = ScriptedPhone({"start": [silent()]}, away=10**6, missed=silent)
    assert work(never, idle=0.5).phase is Phase.FAILED


def test_a_phone_that_is_away_is_waited_for_as_long_as_is_said() -> None:
    outcome = work(ScriptedPhone({"prepare": [lost()]}, away=10**6), away=0.5)
    assert outcome.phase is Phase.FAILED
    assert outcome.reason.startswith("away since ")


def test_a_phone_that_was_given_up_before_has_to_answer_first() -> None:
    phone = ScriptedPhone(away=10**6, missed=silent)
    outcome = work(phone, idle=0.5, wary=True)
    assert (outcome.phase, phone.calls) == (Phase.FAILED, [])
    assert work(ScriptedPhone(away=1, missed=silent), wary=True).phase is Phase.DONE


def test_losses_in_training_that_are_over_when_asked_are_not_counted() -> None:
    phone = ScriptedPhone({"follow": [lost() for _ in range(5)]})
    assert work(phone).phase is Phase.DONE


def test_a_hot_phone_is_ended() -> None:
    def hot() -> None:
        raise Ended(Phase.FAILED, "battery at 60 °C")

    phone = ScriptedPhone()
    outcome = work(phone, health=hot)
    assert (outcome.phase, outcome.reason) == (Phase.FAILED, "battery at 60 °C")
    assert phone.calls == ["prepare", "start", "remove"]


def test_an_interrupted_worker_leaves_the_phone_alone() -> None:
    asked: list[bool] = []

    def interrupted() -> None:
        asked.append(True)
        if len(asked) > 2:
            raise InterruptedRoundError

    phone = ScriptedPhone()
    with pytest.raises(InterruptedRoundError):
        work(phone, interrupted=interrupted)
    assert phone.calls == ["prepare", "start"]


def test_an_update_that_is_stored_counts_although_the_phone_cannot_be_told() -> None:
    phone = ScriptedPhone({"finish": [runner("output")]})
    outcome = work(phone)
    assert (outcome.phase, outcome.removed) == (Phase.DONE, False)


def test_what_was_stored_before_is_only_settled() -> None:
    phone = ScriptedPhone()
    assert work(phone, first=Step.FINISH).removed
    assert phone.calls == ["finish"]


def test_a_restarted_adb_server_is_as_good_as_a_pulled_cable() -> None:
    phone = ScriptedPhone({"prepare": [AdbUnavailableError("no server")]}, away=2)
    assert work(phone).phase is Phase.DONE


def test_a_full_or_unauthorized_phone_is_given_up() -> None:
    for error in (
        DeviceFullError("full", device=SERIAL, path="/x"),
        DeviceUnauthorizedError("who are you", device=SERIAL),
    ):
        with pytest.raises(Ended) as end:
            step_after(error, Step.PREPARE)
        assert end.value.phase is Phase.FAILED


def test_a_file_that_is_missing_after_training_means_training_again() -> None:
    assert step_after(RemoteFileError("no", device=SERIAL, path="/x"), Step.COLLECT) is Step.PREPARE
    assert step_after(RemoteFileError("no", device=SERIAL, path="/x"), Step.FINISH) is Step.FINISH
