"""Rounds with sub-tables on two virtual phones come to what rounds with whole tables come to, for less traffic.

The models are compared byte by byte: a step does the same to the same numbers, in the same order, whether the
other rows are there or not; a row that no example names has the delta 0; and sums are made number by number.
Only the norm that a delta is clipped to adds up whole tables, so there the last bits may differ: one rounding
of float32 in the delta, hence a tolerance of 1e-6 after two rounds.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from devicelab.errors import ConfigError, RoundError
from devicelab.lab import Lab
from devicelab.rounds.events import DevicePhase, Event, Phase
from devicelab.rounds.running import RunReport
from devicelab.runner.layout import CACHE
from devicelab.store.run import RunReader
from devicelab.store.runs import newest_run
from devicelab.virtual.client import VirtualPhone
from devicelab.virtual.desk import VirtualDesk
from tests.cli.command import document
from tests.rounds.small import experiment_file, lab_of, models, private_experiment_file
from tests.rounds.zygote import Zygote

ITEMS, KNOWN, WIDTH = 500, 30, 4
PLAN = f"""
    class: devicelab.plans.zoo:MatrixFactorization
    args: {{users: 1, items: {ITEMS}, width: {WIDTH}}}
"""
HELD_OUT = """
    source: csv
    path: ratings.csv
    partition: {by: natural, key: owner}
    held_out: {fraction: 0.2}
    tensors:
      user: {columns: nobody, dtype: int64}
      item: {columns: item, dtype: int64}
      rating: {columns: rating}
"""
ROUND = """
    rounds: 2
    epochs: 2
    batch_size: 4
    hyper: {hyper}
    deadline: {deadline}
    idle: {deadline}
    quorum: 1.0
    subtables: {subtables}
    combine: {combine}
    clip_norm: {clip}
"""


@pytest.fixture(scope="module")
def phones(module_desk: VirtualDesk) -> list[VirtualPhone]:
    return module_desk.up(["pixel", "pixel"])


def ratings(
    directory: Path,
    *,
    subtables: bool,
    combine: str = "auto",
    clip: str = "null",
    deadline: str = "120s",
    hyper: str = "{lr: 0.1}",
    **changes: str,
) -> Path:
    """Six people who have rated some of 30 items, in a catalogue of 500."""
    words = {"combine": combine, "clip": clip, "deadline": deadline, "hyper": hyper}
    round_ = ROUND.format(subtables=str(subtables).lower(), **words)
    return private_experiment_file(directory, round=round_, **{"plan": PLAN, **changes})


def run(phones: list[VirtualPhone], experiment: Path, state: Path) -> RunReport:
    with lab_of(phones, state) as lab:
        forget_models(lab)
        lab.push_plan(experiment)
        return lab.run_round(experiment)


def forget_models(lab: Lab) -> None:
    """Remove what is small from the phones' caches: a model that is there already is not sent again."""
    for device in lab.discover():
        small = [entry.name for entry in device.listing(CACHE) if entry.stat.size < 1 << 17]
        device.remove(*(f"{CACHE}/{name}" for name in small))


def both(phones: list[VirtualPhone], directory: Path, **changes: str) -> tuple[RunReport, RunReport]:
    """A run with whole tables, and one with sub-tables."""
    whole, some = (
        run(phones, ratings(directory, subtables=subtables, **changes), directory / f"{subtables}")
        for subtables in (False, True)
    )
    return whole, some


@pytest.mark.parametrize("combine", ["sum", "each"])
@pytest.mark.parametrize("server", ["{optimizer: none}", "{optimizer: fedadam, lr: 0.05}"])
def test_the_model_is_the_same_and_traffic_is_that_of_the_rows(
    phones: list[VirtualPhone], tmp_path: Path, combine: str, server: str
) -> None:
    whole, some = both(phones, tmp_path, combine=combine, aggregation=f"server: {server}")
    ours, theirs = models(some.directory), models(whole.directory)
    assert len(ours) == len(theirs) == 3
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        assert all(one[name].tobytes() == other[name].tobytes() for name in one)
    assert not np.array_equal(ours[0]["param/item.weight"], ours[-1]["param/item.weight"])
    table = ITEMS * (WIDTH + 1) * 4
    for less, more in zip(some.rounds, whole.rounds, strict=True):
        assert (less.clients, less.loss_before, less.loss_after) == (6, more.loss_before, more.loss_after)
        assert more.bytes_received - less.bytes_received > 2 * table * (1 - KNOWN / ITEMS)
        rows = KNOWN * 8  # which say what they are
        assert more.bytes_sent - less.bytes_sent > 2 * (table * (1 - KNOWN / ITEMS) - rows) - 1000


@pytest.mark.parametrize("optimizer", ["SGD, args: {lr: 0.1, momentum: 0.9}", "Adam, args: {lr: 0.01}"])
def test_optimizers_with_a_memory_remember_of_the_rows_what_they_would_of_the_table(
    phones: list[VirtualPhone], tmp_path: Path, optimizer: str
) -> None:
    settings = PLAN.replace("}", f", optimizer: {{class: devicelab.plans.optimizers:{optimizer}}}}}")
    whole, some = both(phones, tmp_path, plan=settings, hyper="{}")
    for one, other in zip(models(some.directory), models(whole.directory), strict=True):
        assert all(one[name].tobytes() == other[name].tobytes() for name in one)


def test_a_clipped_delta_is_as_long(phones: list[VirtualPhone], tmp_path: Path) -> None:
    whole, some = both(phones, tmp_path, clip="0.05")
    with RunReader(some.directory) as reader:
        assert all(each.clipped for each in reader.ledger.updates(accepted=True))
    for one, other in zip(models(some.directory), models(whole.directory), strict=True):
        for name in one:
            np.testing.assert_allclose(one[name], other[name], rtol=0, atol=1e-6)


def test_devices_evaluate_with_the_rows_of_what_is_held_out(phones: list[VirtualPhone], tmp_path: Path) -> None:
    whole, some = both(phones, tmp_path, data=HELD_OUT, evaluation="every: 1")
    for less, more in zip(some.rounds, whole.rounds, strict=True):
        assert less.metrics == more.metrics
        assert any(name.startswith("eval/") for name in less.metrics)
        assert less.bytes_sent < more.bytes_sent / 3


def test_json_shows_what_is_saved(phones: list[VirtualPhone], tmp_path: Path) -> None:
    connect = [word for phone in phones for word in ("--connect", phone.address)]
    found = []
    for subtables in (False, True):
        path = ratings(tmp_path, subtables=subtables)
        options = ["--transport", "direct", *connect, "--state-dir", str(tmp_path / "state")]
        with lab_of(phones, tmp_path / "state") as lab:
            forget_models(lab)
        document("push-plan", str(path), *options)
        told = document("run-round", str(path), "--rounds", "1", *options)
        found.append(told["rounds"][0])
    whole, some = found
    assert some["bytes_received"] < whole["bytes_received"] / 3
    assert some["bytes_sent"] < whole["bytes_sent"] / 2


def test_a_killed_host_goes_on_with_the_same_rows(phones: list[VirtualPhone], tmp_path: Path) -> None:
    experiment = ratings(tmp_path, subtables=True)
    undisturbed = models(run(phones, experiment, tmp_path / "undisturbed").directory)[-1]
    addresses = [phone.address for phone in phones]
    (tmp_path / "tmp").mkdir()
    with Zygote(tmp_path, tmp_path / "tmp") as zygote:
        events = len(zygote.run(experiment, tmp_path / "counted", addresses).events)
        for kill in range(3, events, max(1, events // 6)):
            state = tmp_path / f"killed-{kill}"
            ended = zygote.run(experiment, state, addresses, kill_at_event=kill)
            assert ended.killed
            ended = zygote.run(experiment, state, addresses, resume=newest_run(state) is not None)
            assert not ended.error
            path = newest_run(state)
            assert path is not None
            last = models(path)[-1]
            assert all(last[name].tobytes() == undisturbed[name].tobytes() for name in undisturbed), kill
            shutil.rmtree(state)


def test_a_new_attempt_sends_each_phone_its_own_rows(phones: list[VirtualPhone], tmp_path: Path) -> None:
    undisturbed = models(run(phones, ratings(tmp_path, subtables=True), tmp_path / "undisturbed").directory)[1]
    away = phones[0]

    def unplug(event: Event) -> None:
        if isinstance(event, DevicePhase) and (event.device, event.phase) == (away.address, Phase.TRAIN):
            away.unplug()

    short = ratings(tmp_path, subtables=True, deadline="4s")
    with lab_of(phones, tmp_path / "state") as lab, pytest.raises(RoundError, match="of 6 clients"):
        lab.run_round(short, rounds=1, listener=unplug)
    away.replug()
    with lab_of(phones, tmp_path / "state") as lab:
        done = lab.run_round(ratings(tmp_path, subtables=True), rounds=1, resume=True)
    with RunReader(done.directory) as reader:
        jobs = [job for job in reader.ledger.jobs(1) if job.verb == "train"]
        counted = {each.job: each.client for each in reader.ledger.updates(1, accepted=True)}
    assert len(jobs) == 3
    assert len(counted) == 2
    found = models(done.directory)[1]
    for name, value in undisturbed.items():
        np.testing.assert_array_equal(found[name], value)


def test_what_cannot_be_is_refused_before_a_phone_is_asked(tmp_path: Path) -> None:
    round_ = "{rounds: 1, subtables: true}"
    with lab_of([], tmp_path / "state") as lab, pytest.raises(ConfigError, match="the plan mlp has no table"):
        lab.run_round(experiment_file(tmp_path, round=round_))
