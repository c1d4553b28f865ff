from __future__ import annotations

from collections.abc import Iterable

import pytest

from devicelab.report.progress import PhoneProgress, Progress, follow
from devicelab.rounds.events import (
    CohortChosen,
    DeployProgress,
    DeployStarted,
    DeviceDeployed,
    DeviceHealth,
    DevicePhase,
    DeviceProgress,
    DeviceTrouble,
    DeviceUpdate,
    Event,
    Excluded,
    Exclusion,
    Phase,
    RoundStarted,
)
from tests.report.happenings import a_round, a_run


def after(events: Iterable[Event], *, second: float = 1.0) -> Progress:
    progress = Progress()
    for index, event in enumerate(events):
        progress = follow(progress, event, index * second)
    return progress


def phone(events: Iterable[Event], name: str = "A") -> PhoneProgress:
    return after(events).phones[name]


def test_a_whole_run() -> None:
    progress = after(a_run(rounds=3, devices=2))
    assert (progress.run, progress.experiment) == ("r-1", "digits")
    assert (progress.round, progress.last_round) == (3, 3)
    assert progress.metrics == {"accuracy": 0.8, "eval/accuracy": 0.91}
    assert progress.checkpoint == "/runs/r-1/model.safetensors"
    one = progress.phones["phone-1"]
    assert (one.phase, one.clients, one.loss) == (Phase.DONE, 12, 0.4)
    assert (one.sent, one.received) == (3 * 1_234_567, 3 * 215_000)
    assert progress.phones["hot"].excluded
    assert "47.2" in progress.phones["hot"].note


def test_training_shows_client_step_loss_and_rate() -> None:
    seen = phone(
        [
            CohortChosen(1, {"A": ("x", "y", "z")}, ()),
            DevicePhase(1, "A", Phase.TRAIN),
            DeviceProgress(1, "A", "y", 1, 3, 7, 40, 0.25, 600, 3.0),
        ]
    )
    assert (seen.index, seen.clients, seen.step, seen.steps) == (1, 3, 7, 40)
    assert (seen.loss, seen.rate) == (0.25, 200.0)


def test_no_time_gone_is_no_rate() -> None:
    assert phone([DeviceProgress(1, "A", "x", 0, 1, 0, 4, None, 0, 0.0)]).rate is None


def test_bytes_of_a_deployment_are_counted_once() -> None:
    events = [
        DeployStarted(("A",)),
        DeployProgress("A", "engine", 40, 100),
        DeployProgress("A", "plan", 100, 100),
        DeviceDeployed("A", 2, 100, 100, 1.0),
        RoundStarted(1),
        DeployProgress("A", "parameters", 5, 10),
        DeviceUpdate(1, "A", 1, 9, None, 0.1, 10, 7, {}),
        RoundStarted(2),
        DeviceUpdate(2, "A", 1, 9, None, 0.1, 10, 7, {}),
    ]
    for upto, sent in ((2, 40), (3, 100), (6, 105), (7, 110), (9, 120)):
        assert phone(events[:upto]).sent == sent
    assert phone(events).received == 14


def test_a_new_round_forgets_the_last_ones_steps_but_not_the_heat() -> None:
    events = [
        DeviceHealth(1, "A", 80.0, 39.0, "light"),
        DeviceProgress(1, "A", "x", 0, 1, 3, 4, 0.5, 30, 1.0),
        DevicePhase(1, "A", Phase.LATE, "no end within 60 s"),
        RoundStarted(2),
    ]
    seen = phone(events)
    assert (seen.phase, seen.steps, seen.note) == (None, 0, "")
    assert (seen.battery_celsius, seen.battery_percent, seen.thermal_status) == (39.0, 80.0, "light")


def test_trouble_is_noted_until_the_phone_goes_on() -> None:
    trouble = [DevicePhase(1, "A", Phase.TRAIN), DeviceTrouble(1, "A", "the cable was pulled")]
    assert phone(trouble).note == "the cable was pulled"
    assert phone([*trouble, DeviceProgress(1, "A", "x", 0, 1, 3, 4, 0.5, 30, 1.0)]).note == ""


def test_a_device_that_drops_out_has_failed_and_one_client_that_is_missing_changes_nothing() -> None:
    begun = [CohortChosen(1, {"A": ("x", "y")}, ()), DevicePhase(1, "A", Phase.TRAIN)]
    gone = phone([*begun, Excluded(1, Exclusion("A", "gone"))])
    assert (gone.phase, gone.note) == (Phase.FAILED, "gone")
    late = phone([*begun, DevicePhase(1, "A", Phase.LATE, "late"), Excluded(1, Exclusion("A", "too late"))])
    assert (late.phase, late.note) == (Phase.LATE, "too late")
    partly = phone([*begun, Excluded(1, Exclusion("A", "its shard is damaged", ("x",)))])
    assert (partly.phase, partly.note) == (Phase.TRAIN, "")


def test_a_deployment_that_fails_says_why() -> None:
    seen = phone([DeployStarted(("A",)), DeviceDeployed("A", 0, 0, 100, 1.0, "no space left")])
    assert (seen.phase, seen.note) == (Phase.FAILED, "no space left")


def test_eta_counts_the_round_that_goes_on() -> None:
    run = list(a_run(rounds=4, devices=1))
    first = next(index for index, event in enumerate(run) if event == RoundStarted(2))
    assert after(run[: first - 1]).eta(99.0) is None, "nothing is known before the first round has ended"
    between = after(run[:first], second=0.0)
    assert between.eta(1.0) == pytest.approx(12.0)  # three rounds of four seconds
    going = after(run[: first + 1], second=0.0)
    assert going.eta(1.0) == pytest.approx(11.0)
    assert going.eta(100.0) == pytest.approx(8.0), "a round that takes longer is about to end"
    assert after(run).eta(0.0) is None


def test_pictures_do_not_change() -> None:
    before = after(a_round(1, 2))
    phones = dict(before.phones)
    follow(before, DevicePhase(2, "phone-1", Phase.PUSH), 9.0)
    assert before.phones == phones
