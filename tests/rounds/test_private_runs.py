"""Runs with user-level differential privacy, on two virtual phones."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from devicelab.aggregation.accounting import epsilon_of
from devicelab.config import load_experiment
from devicelab.errors import ConfigError, RoundError, UpdateError
from devicelab.plans.export import build_plan
from devicelab.plans.zoo import LeNet
from devicelab.rounds import part
from devicelab.rounds.cohort import drawn
from devicelab.rounds.events import CohortChosen, Evaluated, Event, RoundFinished
from devicelab.rounds.guarantee import check_privacy
from devicelab.rounds.intake import check_update
from devicelab.rounds.running import RunReport
from devicelab.rounds.setup import set_up
from devicelab.store.run import RunReader
from devicelab.store.runs import newest_run
from devicelab.virtual.client import VirtualPhone
from devicelab.virtual.desk import VirtualDesk
from tests.cli.command import devicelab, document
from tests.rounds.small import experiment_file, lab_of, left_on, models, private_experiment_file

CLIP, NOISE, CHANCE = 1e-3, 2.0, 0.5
_ROUND = """
    rounds: {rounds}
    clients: {{probability: {chance}}}
    epochs: 1
    batch_size: 16
    hyper: {{lr: 0.2}}
    clip_norm: {clip}
    quorum: {quorum}
    deadline: 120s
"""
_AGGREGATION = """
    weight: uniform
    privacy: {{noise_multiplier: {noise}, delta: {delta}}}
"""


@pytest.fixture(scope="module")
def phones(module_desk: VirtualDesk) -> list[VirtualPhone]:
    return module_desk.up(["pixel", "pixel"])


def experiment(
    directory: Path,
    *,
    rounds: int = 2,
    chance: float = CHANCE,
    noise: float = NOISE,
    delta: float = 1e-5,
    quorum: float = 1.0,
) -> Path:
    return experiment_file(
        directory,
        round=_ROUND.format(rounds=rounds, chance=chance, clip=CLIP, quorum=quorum),
        aggregation=_AGGREGATION.format(noise=noise, delta=delta),
        evaluation="{every: 1, on: [host], training_loss: false}",
    )


def run(
    phones: list[VirtualPhone],
    state: Path,
    path: Path,
    *listeners: Callable[[Event], object],
    resume: bool = False,
    rounds: int | None = None,
) -> RunReport:
    def all_of_them(event: Event) -> None:
        for listener in listeners:
            listener(event)

    with lab_of(phones, state) as lab:
        done = lab.run_round(path, resume=resume, rounds=rounds, listener=all_of_them)
        assert [left_on(device) for device in lab.discover()] == [[] for _ in phones]
    return done


def test_a_run_says_how_private_it_is_everywhere(phones: list[VirtualPhone], tmp_path: Path) -> None:
    path = experiment(tmp_path)
    connect = [word for phone in phones for word in ("--connect", phone.address)]
    options = ["--transport", "direct", *connect, "--state-dir", str(tmp_path / "state")]
    told = document("run-round", str(path), *options)["privacy"]
    once = epsilon_of(sampling=CHANCE, noise_multiplier=NOISE, rounds=1, delta=1e-5)
    twice = epsilon_of(sampling=CHANCE, noise_multiplier=NOISE, rounds=2, delta=1e-5)
    assert told == {
        "epsilon": twice,
        "delta": 1e-5,
        "noise_multiplier": NOISE,
        "clip_norm": CLIP,
        "sampling": CHANCE,
        "rounds": 2,
    }
    longer = devicelab("run-round", str(path), "--resume", "--rounds", "3", *options)
    thrice = epsilon_of(sampling=CHANCE, noise_multiplier=NOISE, rounds=3, delta=1e-5)
    assert once < twice < thrice
    assert f"ε {thrice:.4g}"[:5] in longer.stdout
    assert "3 rounds" in longer.stdout
    assert "ε" in longer.stderr
    state = ["--state-dir", str(tmp_path / "state")]
    assert document("runs", "show", *state)["privacy"]["epsilon"] == thrice
    assert "privacy: ε" in devicelab("runs", "show", *state).stdout
    directory = newest_run(tmp_path / "state")
    assert directory is not None
    page = (directory / "report.html").read_text()
    assert "differentially private" in page
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "secret").stat().st_mode) == 0o600
    names = list(set_up(load_experiment(path)).shards.clients)
    with RunReader(directory) as reader:
        assert [each.epsilon for each in reader.ledger.releases()] == [once, twice, thrice]
        assert reader.verify() == []
        for number in (1, 2, 3):
            members = sorted(each.client for each in reader.ledger.cohort(number))
            assert members == drawn(names, CHANCE, secret=reader.secret(), round_number=number)
    assert not list((directory / "blobs").glob("*/*"))


def test_the_models_move_by_the_noise_and_nothing_in_the_file_says_which(
    phones: list[VirtualPhone], tmp_path: Path
) -> None:
    path = experiment(tmp_path, rounds=1)
    found = [models(run(phones, tmp_path / name, path).directory) for name in ("one", "two")]
    steps = []
    for before, after in found:
        moved = np.concatenate([(after[name] - before[name]).ravel() for name in sorted(before)])
        # each of the deltas is CLIP long over 100,000 numbers: next to the noise there is nothing to see
        assert moved.std() == pytest.approx(NOISE * CLIP * 1.001 / (CHANCE * 6), rel=0.02)
        steps.append(moved)
    assert abs(np.corrcoef(steps[0], steps[1])[0, 1]) < 0.05


def test_a_round_of_nobody_is_a_round_like_any_other(
    phones: list[VirtualPhone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = experiment(tmp_path, rounds=1, chance=0.01)
    names = list(set_up(load_experiment(path)).shards.clients)
    nobody = next(
        secret
        for secret in (bytes([n]) * 32 for n in range(256))
        if not drawn(names, 0.01, secret=secret, round_number=1)
    )
    monkeypatch.setattr(RunReader, "secret", lambda _run: nobody)
    events: list[Event] = []
    done = run(phones, tmp_path / "state", path, events.append)
    assert [event.devices for event in events if isinstance(event, CohortChosen)] == [{}]
    assert [(each.clients, each.devices) for each in done.rounds] == [(0, 0)]
    before, after = models(done.directory)
    assert all((before[name] != after[name]).any() for name in before)
    assert done.privacy is not None
    assert done.privacy.rounds == 1


class Killed(BaseException):
    """Ends a command as an interrupt would."""


def test_what_is_made_once_is_never_made_again(phones: list[VirtualPhone], tmp_path: Path) -> None:
    """The evaluation is the first to see a noisy model; who is killed there goes on with that very one."""

    def killed(event: Event) -> None:
        if isinstance(event, Evaluated):
            raise Killed

    path = experiment(tmp_path, rounds=1)
    with pytest.raises(Killed):
        run(phones, tmp_path / "state", path, killed)
    directory = newest_run(tmp_path / "state")
    assert directory is not None
    with RunReader(directory) as reader:
        assert [each.round for each in reader.ledger.checkpoints()] == [0]
        (release,) = reader.ledger.releases()
        mean = reader.load_release(release)
    done = run(phones, tmp_path / "state", path, resume=True)
    before, after = models(directory)
    assert all(np.array_equal(before[name] + 1.0 * mean[name], after[name]) for name in before)
    with RunReader(directory) as reader:
        assert reader.ledger.releases() == [release]
    assert done.privacy is not None
    assert done.privacy.rounds == 1


def test_a_failed_round_is_tried_again_with_the_clients_that_were_drawn(
    phones: list[VirtualPhone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = experiment(tmp_path, rounds=1, chance=0.9)

    def refused(*_: object, device: str) -> None:
        raise UpdateError("its update is not believed today", device=device)

    monkeypatch.setattr(part, "check_update", refused)
    with pytest.raises(RoundError):
        run(phones, tmp_path / "state", path)
    directory = newest_run(tmp_path / "state")
    assert directory is not None
    with RunReader(directory) as reader:
        first = [each.client for each in reader.ledger.cohort(1)]
        assert reader.ledger.releases() == []
    monkeypatch.setattr(part, "check_update", check_update)
    ended: list[Event] = []
    run(phones[:1], tmp_path / "state", path, ended.append, resume=True)  # all of them on one phone
    (result,) = [event.result for event in ended if isinstance(event, RoundFinished)]
    with RunReader(directory) as reader:
        assert sorted(each.client for each in reader.ledger.cohort(1)) == sorted(first)
        assert len(reader.ledger.releases()) == 1
    assert result.clients == len(first)


def test_what_would_not_be_private_is_refused_before_anything_begins(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one part in 6 clients"):
        set_up(load_experiment(experiment(tmp_path, delta=0.2)))
    averaged = build_plan(LeNet(), "train").signature
    with pytest.raises(ConfigError, match="running statistics"):
        check_privacy(load_experiment(experiment(tmp_path)), averaged, 6)
    check_privacy(load_experiment(experiment_file(tmp_path)), averaged, 6)


def test_a_run_without_noise_has_neither_a_secret_nor_an_epsilon(
    phones: list[VirtualPhone], tmp_path: Path
) -> None:
    done = run(phones, tmp_path / "state", private_experiment_file(tmp_path), rounds=1)
    assert done.privacy is None
    assert not (done.directory / "secret").exists()
