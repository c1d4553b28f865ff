"""What stays on the phone stays on the phone: all bytes on the cables, searched for it.

A float32 tensor of 64 bytes is looked for in windows of 12 bytes, wherever they begin. A packet or a frame may
cut it in two; one half still has such windows. Three trained numbers in a row have more than 2^60 values: that
a window occurs among the few hundred thousand bytes of a run by chance is out of the question.

Nothing is compressed here, on purpose: compressed, everything would look as if it was not there. (What phones
send is never compressed: a pull does not ask for it.) Runner and engine, the same for everybody and 100 times
all the rest, go to the phones before anybody listens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load as load_safetensors

from devicelab.config import load_experiment
from devicelab.data.shards import read_shard
from devicelab.lab import Lab
from devicelab.plans.ranking import OUTPUT
from devicelab.rounds.recommending import Recommendation
from devicelab.rounds.running import RunReport
from devicelab.rounds.setup import Setup, set_up
from devicelab.runner.layout import PRIVATE
from devicelab.store.run import RunReader
from devicelab.virtual.client import VirtualPhone
from devicelab.virtual.desk import VirtualDesk
from tests.rounds.films import TEXT, films_experiment
from tests.rounds.small import Arrays, experiment_file, lab_of
from tests.rounds.wiretap import Tape, tapped, windows

_RATINGS = """\
name: ratings
plan:
  class: devicelab.plans.zoo:MatrixFactorization
  args: {users: 1, items: 60, width: 16}
data:
  source: movielens
  path: u.data
  held_out: {last: 1, validation: 1}
round:
  rounds: 3
  clients: {fraction: 0.5}
  epochs: 3
  batch_size: 4
  hyper: {lr: 0.05}
  deadline: 120s
aggregation:
  server: {optimizer: fedadam, lr: 0.1}
evaluation:
  every: 3
"""

_WINDOW = 12  # bytes
_ROW = 24  # bytes of a history: three films that somebody watched one after the other
_TOP = 4


@dataclass
class Overheard:
    """A run, and what was said while its plan was pushed, while it ran, and while a phone recommended."""

    setup: Setup
    run: RunReport
    pushing: Tape
    running: Tape
    recommending: Tape
    found: Recommendation

    @property
    def tapes(self) -> list[Tape]:
        return [self.pushing, self.running, self.recommending]


@pytest.fixture(scope="module")
def phones(module_desk: VirtualDesk) -> list[VirtualPhone]:
    return module_desk.up(["pixel", "phone-2014"])  # new protocols, and old ones


@contextmanager
def _overheard(phones: list[VirtualPhone], state: Path) -> Iterator[tuple[Tape, Lab]]:
    with (
        tapped(phones) as (tape, addresses),
        Lab(state, transport="direct", addresses=addresses, patience=30.0) as lab,
    ):
        yield tape, lab


def _listen(phones: list[VirtualPhone], directory: Path, text: str) -> Overheard:
    path, state = films_experiment(directory / "films", text=text), directory / "state"
    setup = set_up(load_experiment(path))
    with lab_of(phones, state) as lab:
        lab.push_plan(experiment_file(directory))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("devicelab.adb.transfer.available", lambda _features: [])
        with _overheard(phones, state) as (pushing, lab):
            lab.push_plan(path)
        with _overheard(phones, state) as (running, lab):
            run = lab.run_round(path)
        with RunReader(run.directory) as reader:
            trained = reader.ledger.updates(accepted=True)[0].client
        with _overheard(phones, state) as (recommending, lab):
            found = lab.recommend(path, trained, top=_TOP)
    return Overheard(setup, run, pushing, running, recommending, found)


@pytest.fixture(scope="module")
def ratings(phones: list[VirtualPhone], tmp_path_factory: pytest.TempPathFactory) -> Overheard:
    return _listen(phones, tmp_path_factory.mktemp("ratings"), _RATINGS)


@pytest.fixture(scope="module")
def films(phones: list[VirtualPhone], tmp_path_factory: pytest.TempPathFactory) -> Overheard:
    return _listen(phones, tmp_path_factory.mktemp("films"), TEXT)


def _kept(lab: Lab, run: str) -> dict[str, Arrays]:
    """What each client keeps on its phone."""
    kept = {}
    for device in lab.discover():
        for entry in device.listing(f"{PRIVATE}/{run}"):
            content = device.read(f"{PRIVATE}/{run}/{entry.name}", max_bytes=1 << 20)
            kept[entry.name.partition(".")[0]] = load_safetensors(content)
    return kept


def _factors(kept: dict[str, Arrays]) -> set[bytes]:
    """Pieces of everybody's own factors."""
    return set[bytes]().union(*(windows(own["param/user.weight"].tobytes(), _WINDOW) for own in kept.values()))


def _rows(shard: Arrays) -> set[bytes]:
    """Pieces of a history: some items in a row, as they lie in the shard."""
    items = shard["item"].astype(np.int64)
    return {items[start : start + 3].tobytes() for start in range(len(items) - 2)}


def test_what_clients_keep_crosses_no_cable(
    ratings: Overheard, phones: list[VirtualPhone], tmp_path: Path
) -> None:
    with lab_of(phones, tmp_path) as lab:  # nobody listens
        kept = _kept(lab, ratings.run.run)
    assert len(kept) >= 6
    first = ratings.setup.private["param/user.weight"]
    for own in kept.values():
        assert own.keys() == ratings.setup.private.keys()
        assert own["param/user.weight"].nbytes == 64
        assert (own["param/user.weight"] != first).all()
    pieces = _factors(kept)
    for tape in ratings.tapes:
        assert not tape.found(pieces, "to host")
        assert not tape.found(pieces, "to phone")
        # Neither do they as part of a file of theirs, biases included, nor in words.
        for own in kept.values():
            factors, bias = (own[f"param/{name}.weight"] for name in ("user", "user_bias"))
            both = bias.tobytes() + factors.tobytes() + bias.tobytes()
            assert not tape.found(windows(both, _WINDOW), "to host")
            for number in (*factors.ravel(), *bias.ravel()):
                assert not tape.holds(f"{number:.6f}".encode(), "to host")


def test_first_values_go_to_the_phone_and_are_found_there(ratings: Overheard) -> None:
    first = ratings.setup.private["param/user.weight"].tobytes()
    assert ratings.running.found(windows(first, _WINDOW), "to phone") == windows(first, _WINDOW)
    for tape in ratings.tapes:
        assert not tape.found(windows(first, _WINDOW), "to host")


def test_the_search_finds_what_does_leave_a_phone(
    ratings: Overheard, phones: list[VirtualPhone], tmp_path: Path
) -> None:
    """What a phone may send is found, and so is what it must not once somebody asks for that."""
    with RunReader(ratings.run.directory) as reader:
        jobs = [job for job in reader.ledger.jobs() if job.verb == "train"]
    updates = {hashlib.sha256(file).hexdigest(): file for file in ratings.running.pulled()}
    assert {job.round for job in jobs} == {1, 2, 3}  # on one phone or both, as the cohort falls
    for job in jobs:
        assert job.result is not None
        delta = load_safetensors(updates[job.result["update"]["sha256"]])
        assert not delta.keys() & ratings.setup.private.keys()
        pieces = windows(delta["param/item.weight"].tobytes(), _WINDOW)
        assert ratings.running.found(pieces, "to host") == pieces
    with _overheard(phones, tmp_path) as (tape, lab):
        planted = _factors(_kept(lab, ratings.run.run))
    assert tape.found(planted, "to host") == planted


@pytest.mark.parametrize("which", ["ratings", "films"])
def test_data_go_to_the_phone_with_the_plan_and_never_come_back(
    which: str, request: pytest.FixtureRequest
) -> None:
    heard: Overheard = request.getfixturevalue(which)
    for parts in heard.setup.shards.clients.values():
        rows = _rows(read_shard(parts["train"]))
        assert heard.pushing.found(rows, "to phone") == rows
        assert not heard.running.found(rows, "to phone")
        assert not heard.recommending.found(rows, "to phone")
        for shard in parts.values():
            content = shard.path.read_bytes()
            for tape in heard.tapes:
                assert not tape.found(rows, "to host")
                assert not tape.holds(content[8:], "to host")


@pytest.mark.parametrize("which", ["ratings", "films"])
def test_a_recommendation_brings_numbers_of_items_and_nothing_else(
    which: str, request: pytest.FixtureRequest
) -> None:
    heard: Overheard = request.getfixturevalue(which)
    (answer,) = heard.recommending.pulled()
    tensors = load_safetensors(answer)
    assert tensors.keys() == {OUTPUT}
    assert (tensors[OUTPUT].dtype, tensors[OUTPUT].shape) == (np.dtype(np.int64), (_TOP,))
    assert tensors[OUTPUT].tolist() == [each.number for each in heard.found.items]
    watched = read_shard(heard.setup.shards.clients[heard.found.client]["train"])["item"]
    assert not set(tensors[OUTPUT].tolist()) & set(watched.tolist())
