"""The host is killed at the events of a run and at random moments; the run goes on as if nothing had been.

The plan keeps private values on the phones and every client takes part in every round, so that an update lost,
an update counted twice, or private values committed twice or never would show in the model's bytes.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from devicelab.store.run import RunReader
from devicelab.store.runs import newest_run
from devicelab.virtual.client import VirtualPhone
from devicelab.virtual.desk import VirtualDesk
from tests.rounds.small import lab_of, left_on, private_experiment_file
from tests.rounds.zygote import Ended, Zygote

KILLS = 54


@dataclass
class Undisturbed:
    """How it goes when nobody is killed."""

    experiment: Path
    phones: list[VirtualPhone]
    zygote: Zygote
    temporary: Path
    events: int
    model: str
    seconds: float


@pytest.fixture(scope="module")
def undisturbed(module_desk: VirtualDesk, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undisturbed]:
    phones = module_desk.up(["pixel", "pixel"])
    home = tmp_path_factory.mktemp("home")
    experiment = private_experiment_file(home)
    temporary = home / "tmp"
    temporary.mkdir()
    with Zygote(home, temporary) as zygote:
        addresses = [phone.address for phone in phones]
        assert not zygote.run(experiment, home / "first", addresses).error  # the plan is in the cache now
        for left in temporary.iterdir():  # by PyTorch, if it was needed
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        begin = time.monotonic()
        ended = zygote.run(experiment, home / "state", addresses)
        seconds = time.monotonic() - begin
        assert ended.code == 0
        assert not ended.error
        yield Undisturbed(
            experiment, phones, zygote, temporary, len(ended.events), _model(home / "state"), seconds
        )


def _model(state: Path) -> str:
    path = newest_run(state)
    assert path is not None
    with RunReader(path) as run:
        checkpoint = run.ledger.checkpoint()
        assert checkpoint is not None
        assert checkpoint.round == 2
        return checkpoint.sha256


def _assert_as_if_nothing_had_been(world: Undisturbed, state: Path) -> None:
    path = newest_run(state)
    assert path is not None
    with RunReader(path) as run:
        assert run.verify() == []
        assert not run.ledger.leftovers()
        for number in (1, 2):
            counted = [each.client for each in run.ledger.updates(number, accepted=True)]
            assert sorted(counted) == [f"p{n}" for n in range(6)]
        assert not run.ledger.exclusions()
    assert _model(state) == world.model
    assert not list((path / "incoming").iterdir())
    assert not [each for each in path.parent.glob(".new-*") if (each / "lock").exists()]
    assert not list(world.temporary.iterdir())


def _stored_jobs(state: Path) -> int:
    path = newest_run(state)
    if path is None:
        return 0
    with RunReader(path) as run:
        return len({each.job for each in run.ledger.updates(accepted=True)})


def _run(world: Undisturbed, state: Path, **kill: Any) -> Ended:
    """Begin, or go on where there is something to go on with."""
    addresses = [phone.address for phone in world.phones]
    resume = newest_run(state) is not None
    return world.zygote.run(world.experiment, state, addresses, resume=resume, **kill)


@pytest.mark.timeout(900)  # a minute on a quiet machine
def test_killed_again_and_again(undisturbed: Undisturbed, tmp_path: Path) -> None:
    world, rng, kills = undisturbed, random.Random(7), 0
    # First at every other event, and once more at one of the others; then at random moments.
    moments = iter([(first, 2 + (first * 7) % world.events) for first in range(1, world.events, 2)])
    number = 0
    while kills < KILLS:
        number += 1
        state = tmp_path / f"run-{number}" / "state"
        state.parent.mkdir()
        events = next(moments, None)
        if events is not None:
            ended = _run(world, state, kill_at_event=events[0])
        else:
            ended = _run(world, state, kill_after=rng.uniform(0.0, 1.1 * world.seconds))
        while ended.killed:
            kills += 1
            stored = _stored_jobs(state)
            if kills % 2 == 0:
                ended = _run(world, state)
                trained = [each for each in ended.events if each[0] == "DevicePhase" and each[2] == "train"]
                assert len(trained) == 4 - stored  # two phones, two rounds; what is stored is not trained again
            elif events is not None:
                ended = _run(world, state, kill_at_event=events[1])
            else:
                ended = _run(world, state, kill_after=rng.uniform(0.0, 2 * world.seconds))
        assert not ended.error
        _assert_as_if_nothing_had_been(world, state)
    with lab_of(world.phones, tmp_path / "look") as lab:
        assert [left_on(device) for device in lab.discover()] == [[], []]
