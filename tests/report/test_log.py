from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from devicelab.report.log import PlainLog, following
from devicelab.report.words import words
from devicelab.rounds.events import (
    CohortChosen,
    DeployProgress,
    DeployStarted,
    DeviceDeployed,
    DevicePhase,
    DeviceProgress,
    DeviceTrouble,
    Evaluated,
    Event,
    Excluded,
    Exclusion,
    Phase,
    RoundFinished,
    RoundResult,
    RunStarted,
)
from tests.report.happenings import a_run


class Clock:
    """Stands still unless told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Log:
    """A plain log and what it has written, without the times."""

    def __init__(self) -> None:
        self._out = io.StringIO()
        self.clock = Clock()
        self.listener = PlainLog(Console(file=self._out, width=80, highlight=False), clock=self.clock)

    def lines(self) -> list[str]:
        lines = self._out.getvalue().splitlines()
        assert all(re.match(r"[0-9]{2}:[0-9]{2}:[0-9]{2} ", line) for line in lines)
        return [line[9:] for line in lines]


def step(number: int, device: str = "A") -> DeviceProgress:
    return DeviceProgress(1, device, "x", 0, 1, number, 1000, 0.5, number, float(number))


def test_a_line_for_each_phase_and_result() -> None:
    log = Log()
    for event in a_run(rounds=1, devices=1):
        log.listener(event)
    assert log.lines() == [
        "run r-1 of digits begins: round 1 to 1",
        "round 1",
        "round 1: 12 clients on 1 phone",
        "round 1: without hot: battery at 47.2 °C, the limit is 45 °C; let it cool down",
        "round 1: phone-1 push",
        "round 1: phone-1 start",
        "round 1: phone-1 train",
        "round 1: phone-1 pull",
        "round 1: phone-1 check",
        "round 1: phone-1 update of 12 clients, 345 examples, loss 0.5000 → 0.4000; "
        "sent 1.23 MB, received 215 kB",
        "round 1: phone-1 commit",
        "round 1: phone-1 done",
        "after round 1: accuracy 0.9100 (500 examples on the phones)",
        "round 1 done: 12 clients on 1 phone, loss 0.5000 → 0.4000, accuracy 0.8000, eval/accuracy 0.9100, "
        "4.00 s",
        "run r-1 is done; global model: /runs/r-1/model.safetensors",
    ]


def test_progress_is_told_now_and_then() -> None:
    log = Log()
    for number in range(100):
        log.listener(step(number))
        log.clock.now += 1
    assert [int(line.split("step ")[1].split("/")[0]) for line in log.lines()] == list(range(5, 100, 5))


def test_many_phones_do_not_fill_the_log() -> None:
    log = Log()
    for number in range(100):
        for device in range(40):
            log.listener(step(number, f"phone-{device}"))
        log.clock.now += 1
    assert 40 <= len(log.lines()) <= 100


def test_a_phase_is_never_held_back() -> None:
    log = Log()
    log.listener(DevicePhase(1, "A", Phase.TRAIN))
    log.listener(step(1))
    log.listener(DevicePhase(1, "A", Phase.PULL))
    log.listener(DevicePhase(1, "A", Phase.FAILED, "gone"))
    assert log.lines() == ["round 1: A train", "round 1: A pull", "round 1: A failed: gone"]


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (DeployStarted(("A", "B")), "preparing 2 phones"),
        (DeployProgress("A", "engine", 14_000_000, 28_000_000), "A: pushing engine, 14.0 MB of 28.0 MB"),
        (DeviceDeployed("A", 3, 28_123_456, 28_123_456, 2.5), "A: sent 3 files, 28.1 MB in 2.50 s"),
        (DeviceDeployed("A", 0, 0, 28_123_456, 0.1), "A: holds everything already (28.1 MB)"),
        (DeviceDeployed("A", 0, 0, 9, 0.1, "it is full"), "A: not prepared: it is full"),
        (RunStarted("r", "e", 4, 9, resumed=True), "run r of e goes on: round 4 to 9"),
        (DeviceTrouble(2, "A", "cable pulled"), "round 2: A: cable pulled; trying again"),
        (Evaluated(0, "host", {"acc": 0.1}, 1), "before the first round: acc 0.1000 (1 example on this host)"),
        (Excluded(2, Exclusion("A", "gone")), "round 2: goes on without A: gone"),
        (
            Excluded(2, Exclusion("A", "no shard", tuple("abcdefg"))),
            "round 2: goes on without A, clients a, b, c, d, e and 2 more: no shard",
        ),
        (DeviceProgress(1, "A", "x", 2, 3, 4, 5, None, 60, 2.0),
         "round 1: A client 3/3, step 4/5, loss –, 30 examples/s"),
        (RoundFinished(RoundResult(3, 2, 7, 90, None, 0.5, {}, 1.5, 1, 1, epsilon=2.5)),
         "round 3 done: 7 clients on 2 phones, loss 0.5000, ε 2.5000, 1.50 s"),
    ],
)  # fmt: skip
def test_events_in_words(event: Event, said: str) -> None:
    assert [line.plain for line in words(event)] == [said]


def test_what_is_cohort_and_what_is_not() -> None:
    event = CohortChosen(1, {"A": ("x",)}, (Exclusion("B", "no shard", ("y",)),))
    assert [line.plain for line in words(event)] == [
        "round 1: 1 client on 1 phone",
        "round 1: without B, client y: no shard",
    ]
    assert [line.plain for line in words(event, lasting=True)] == ["round 1: without B, client y: no shard"]


def test_an_end_is_told_once_where_it_stays_in_sight() -> None:
    end = DevicePhase(1, "A", Phase.LATE, "cut off")
    assert [line.plain for line in words(end, lasting=True)] == ["round 1: A late: cut off"]
    assert words(Excluded(1, Exclusion("A", "cut off", ("x",))), lasting=True) == []


def test_words_of_phones_stay_on_their_line() -> None:
    for event in (
        DevicePhase(1, "A\x1b[1m\nB", Phase.FAILED, "one\ntwo\x1b[2J"),
        Excluded(1, Exclusion("A", "x\r\ny", ("c\n1",))),
        Evaluated(1, "host", {"a\nb": 1.0}, 1),
    ):
        [line] = words(event)
        assert line.plain.isprintable()


def test_without_a_terminal_it_is_a_log_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with following() as listener:
        listener(DevicePhase(1, "A", Phase.TRAIN))
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.endswith("round 1: A train\n")


def test_a_terminal_gets_the_live_view_unless_a_script_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    monkeypatch.setenv("TERM", "xterm")
    with following(as_json=True) as listener:
        assert isinstance(listener, PlainLog)
    with following() as listener:
        assert not isinstance(listener, PlainLog)
