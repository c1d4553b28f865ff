"""Histories through the whole pipeline, on made-up films: two virtual phones learn what comes next."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import pytest

from devicelab.config import load_experiment
from devicelab.errors import ConfigError
from devicelab.plans.loading import load_plan
from devicelab.plans.plan import TrainingPlan
from devicelab.rounds.running import RunReport
from devicelab.rounds.setup import set_up
from devicelab.virtual.client import VirtualPhone
from devicelab.virtual.desk import VirtualDesk
from tests.rounds.films import TEXT, films_experiment
from tests.rounds.simulation import simulate
from tests.rounds.small import lab_of, models


@pytest.fixture(scope="module")
def phones(module_desk: VirtualDesk) -> list[VirtualPhone]:
    return module_desk.up(["pixel", "pixel"])


def _run(phones: list[VirtualPhone], directory: Path, path: Path) -> RunReport:
    with lab_of(phones, directory / "state") as lab:
        return lab.run_round(path)


def test_phones_learn_what_a_simulation_learns_and_rank_what_is_held_out(
    phones: list[VirtualPhone], tmp_path: Path
) -> None:
    path = films_experiment(tmp_path / "one")
    done = _run(phones, tmp_path, path)
    experiment = load_experiment(path)
    plan = load_plan(experiment)
    assert isinstance(plan, TrainingPlan)
    found, simulated = models(done.directory), simulate(experiment, plan, 3)
    for ours, theirs in zip(found, simulated, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            np.testing.assert_allclose(value, theirs[name], atol=1e-4, err_msg=name)
    assert np.abs(found[-1]["param/watched.weight"] - found[0]["param/watched.weight"]).max() > 0.05
    metrics = done.rounds[-1].metrics
    assert {"eval/hr@10.a", "eval/hr@10.b", "eval/ndcg@10.a", "eval/full_recall@20.b"} <= set(metrics)
    assert all(
        0 <= value <= 1 for name, value in metrics.items() if name.startswith("eval/") and name != "eval/loss"
    )


def test_nothing_that_is_held_out_has_a_part_in_the_model(phones: list[VirtualPhone], tmp_path: Path) -> None:
    one, other = films_experiment(tmp_path / "one"), films_experiment(tmp_path / "other", changed=2)
    setups = [set_up(load_experiment(path)) for path in (one, other)]
    shards = [setup.shards.clients for setup in setups]
    for client in shards[0]:
        trained, evaluated = ([each[client][part].sha256 for each in shards] for part in ("train", "held_out"))
        assert trained[0] == trained[1]
        assert (evaluated[0] == evaluated[1]) == (int(client) >= 100)
    runs = [_run(phones, tmp_path / name, path) for name, path in (("a", one), ("b", other))]
    for number in range(4):
        first, second = (
            (run.directory / "checkpoints" / f"round-{number:04}.safetensors").read_bytes() for run in runs
        )
        assert first == second
    assert runs[0].rounds[-1].metrics != runs[1].rounds[-1].metrics


def test_the_validation_part_is_what_choices_are_made_on(phones: list[VirtualPhone], tmp_path: Path) -> None:
    path = films_experiment(tmp_path / "one", text=TEXT.replace("every: 3", "every: 3\n  split: validation"))
    metrics = _run(phones, tmp_path, path).rounds[-1].metrics
    assert "eval/hr@10.a" in metrics
    assert not any(name.endswith(".b") for name in metrics)


def test_a_plan_that_evaluates_on_other_data_measures_no_training_loss(tmp_path: Path) -> None:
    text = textwrap.dedent(TEXT).replace("training_loss: false", "training_loss: true")
    with pytest.raises(ConfigError, match="evaluates on other data than it trains on"):
        set_up(load_experiment(films_experiment(tmp_path / "one", text=text)))
