from __future__ import annotations

import io
import re
import threading

from rich.cells import cell_len
from rich.console import Console

from devicelab.report.live import LiveView, render
from devicelab.report.progress import Progress, follow
from devicelab.rounds.events import (
    Announcer,
    CohortChosen,
    DeployProgress,
    DeployStarted,
    DeviceHealth,
    DevicePhase,
    DeviceProgress,
    DeviceTrouble,
    Event,
    Exclusion,
    Phase,
    RoundStarted,
    RunStarted,
)
from tests.report.happenings import HOT, a_run


def drawn(*events: Event, width: int = 80, height: int = 24, now: float = 5.0) -> list[str]:
    progress = Progress()
    for event in events:
        progress = follow(progress, event, 0.0)
    out = io.StringIO()
    console = Console(file=out, width=width, height=height, highlight=False)
    console.print(render(progress, now, width=width, height=height))
    return out.getvalue().splitlines()


TRAINING = (
    RunStarted("r", "digits", 1, 20, resumed=False),
    RoundStarted(1),
    CohortChosen(1, {"192.168.178.21:5555": ("x", "y", "z")}, (HOT,)),
    DevicePhase(1, "192.168.178.21:5555", Phase.TRAIN),
    DeviceHealth(1, "192.168.178.21:5555", 81.0, 31.4, "none"),
    DeviceProgress(1, "192.168.178.21:5555", "y", 1, 3, 12, 40, 0.53124, 3000, 2.0),
)


def test_one_line_a_phone_with_all_that_is_asked_for() -> None:
    [heading, phone, hot, run] = drawn(*TRAINING)
    assert heading.split() == [
        "PHONE",
        "PHASE",
        "CLIENT",
        "STEP",
        "LOSS",
        "EX/S",
        "TEMP",
        "BATT",
        "SENT",
        "RECV",
    ]
    assert phone.split()[1:] == ["train", "2/3", "12/40", "0.5312", "1.5k", "31°C", "81%", "0", "0"]
    assert hot.split()[:2] == ["hot", "excluded"]
    assert "47.2 °C" in hot
    assert run == "digits  round 1/20  0:05"


def test_columns_line_up() -> None:
    lines = drawn(*TRAINING)
    assert lines[0].index("PHASE") == lines[1].index("train")
    for heading, value in (("CLIENT", "2/3"), ("STEP", "12/40"), ("LOSS", "0.5312"), ("TEMP", "31°C")):
        assert lines[0].index(heading) + len(heading) == lines[1].index(value) + len(value)


def test_nothing_is_wider_or_higher_than_the_terminal() -> None:
    events: list[Event] = []
    for index, event in enumerate(a_run(rounds=2, devices=40)):
        events.append(event)
        if index % 25:
            continue
        for width in (60, 80, 200):
            lines = drawn(*events, width=width, height=24)
            assert len(lines) < 24
            assert all(cell_len(line) <= width for line in lines)


def test_phones_at_work_are_shown_first_and_the_others_counted() -> None:
    cohort = {f"phone-{index}": ("x",) for index in range(1, 41)}
    ended = [DevicePhase(1, f"phone-{index}", Phase.DONE) for index in range(1, 31)]
    lines = drawn(RoundStarted(1), CohortChosen(1, cohort, (HOT,)), *ended, height=15)
    assert [line.split()[0] for line in lines[2:-2]] == [f"phone-{index}" for index in range(31, 41)]
    assert lines[-2] == "… and 1 excluded, 29 done"


def test_the_round_before_and_the_time_that_is_left() -> None:
    run = list(a_run(rounds=3, devices=1))
    upto = run.index(RoundStarted(2)) + 1
    assert drawn(*run[:upto], now=1.0)[-1] == (
        "digits  round 2/3  loss 0.5000 → 0.4000  ETA 0:07  eval/accuracy 0.9100"
    )


def test_a_push_shows_what_is_being_sent() -> None:
    [_, first, second, summary] = drawn(
        DeployStarted(("A", "B")), DeployProgress("A", "engine", 14_000_000, 28_000_000)
    )
    assert first.split() == ["A", "push", "engine", "50", "%", "–", "–", "14.0M", "0"]
    assert second.split()[:2] == ["B", "waiting"]
    assert summary == "push: 0 of 2 phones through  0:05"


def test_before_anything_happens() -> None:
    assert drawn() == ["getting ready"]


def test_a_hostile_phone_draws_nothing_of_its_own() -> None:
    name = "x\x1b[2J[red]\r\n" + "y" * 300
    lines = drawn(CohortChosen(1, {name: ("c",)}, ()), DeviceTrouble(1, name, "\x1b]0;title\x07bang\nbang"))
    assert len(lines) == 3
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", "".join(lines))
    assert "bang bang" in lines[1]


def test_the_view_on_a_terminal_leaves_results_standing() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, height=30, highlight=False)
    with LiveView(console) as view:
        listener = Announcer(view)

        def run() -> None:
            for event in a_run(rounds=2, devices=2):
                listener(event)

        threads = [threading.Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    said = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    assert said.count("round 2 done: 24 clients on 2 phones, loss 0.5000 → 0.4000") == 2
    assert said.count("without hot") == 1, "it was excluded in each round for the same reason"
    assert out.getvalue().count("\x1b[?25l") == out.getvalue().count("\x1b[?25h") == 1, "the cursor is back"


def test_a_new_reason_for_an_exclusion_is_told() -> None:
    out = io.StringIO()
    with LiveView(Console(file=out, force_terminal=True, width=100, height=30)) as view:
        for reason in ("too hot", "too hot", "battery at 9 %"):
            view(CohortChosen(1, {}, (Exclusion("A", reason),)))
    assert (out.getvalue().count("without A: too hot"), out.getvalue().count("without A: battery")) == (1, 1)
