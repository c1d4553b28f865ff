"""The experiments that come with devicelab: valid, explained, fitting their plans, and worth running."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from devicelab.config import Experiment, explain, load_experiment
from devicelab.config.data import SyntheticData
from devicelab.data.prepare import prepare
from devicelab.data.shards import Shard, ShardSet, read_shard
from devicelab.plans.export import build_plan
from devicelab.plans.fitting import check_data
from devicelab.plans.loading import load_plan
from devicelab.plans.plan import TrainingPlan

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


def test_there_are_experiments() -> None:
    assert {"digits", "movielens", "stress"} <= {path.stem for path in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_an_experiment_loads_and_is_named_after_its_file(path: Path) -> None:
    experiment = load_experiment(path)
    assert experiment.name == path.stem
    assert f"name: {path.stem}" in explain(experiment)
    assert isinstance(load_plan(experiment), TrainingPlan)
    assert max(map(len, path.read_text().splitlines())) <= 112


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_data_fit_the_plan(path: Path, tmp_path: Path) -> None:
    experiment = load_experiment(path)
    if isinstance(experiment.data, SyntheticData):  # a few of its clients are like all of them
        experiment = experiment.model_copy(update={"data": experiment.data.model_copy(update={"clients": 9})})
    plan = load_plan(experiment)
    assert isinstance(plan, TrainingPlan)
    shards = prepare(experiment, tmp_path)
    check_data(build_plan(plan, "train").signature, shards.tensors)
    check_data(build_plan(plan, "evaluate").signature, shards.evaluation)


def _read(shard: Shard) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in read_shard(shard).items()}


def _train(
    plan: TrainingPlan, model: torch.nn.Module, batch: dict[str, torch.Tensor], experiment: Experiment
) -> None:
    """A client's local training, in plain PyTorch."""
    optimizer = plan.optimizer.reference(model.parameters())
    optimizer.param_groups[0]["lr"] = experiment.round.hyper["lr"]
    size = experiment.round.batch_size
    for _ in range(experiment.round.local_epochs or 0):
        for start in range(0, len(batch["label"]), size):
            optimizer.zero_grad()
            part = {name: tensor[start : start + size] for name, tensor in batch.items()}
            plan.loss(model, part).backward()  # type: ignore[no-untyped-call] # PyTorch does not annotate it
            optimizer.step()


def _simulate(experiment: Experiment, plan: TrainingPlan, shards: ShardSet) -> torch.nn.Module:
    model = plan.module()
    clients = [_read(parts["train"]) for parts in shards.clients.values()]
    for _ in range(experiment.round.rounds):
        start = {name: value.clone() for name, value in model.state_dict().items()}
        cohort = clients[: experiment.round.clients.size(len(clients))]
        clients = clients[len(cohort) :] + cohort
        total = sum(len(batch["label"]) for batch in cohort)
        mean = {name: torch.zeros_like(value) for name, value in start.items()}
        for batch in cohort:
            model.load_state_dict(start)
            _train(plan, model, batch, experiment)
            for name, value in model.state_dict().items():
                mean[name] += value * (len(batch["label"]) / total)
        model.load_state_dict(mean)
    return model


def test_digits_are_learnt(tmp_path: Path) -> None:
    experiment = load_experiment(next(path for path in CONFIGS if path.stem == "digits"))
    plan = load_plan(experiment)
    assert isinstance(plan, TrainingPlan)
    shards = prepare(experiment, tmp_path)
    torch.set_num_threads(1)
    model = _simulate(experiment, plan, shards)
    assert shards.test is not None
    with torch.no_grad():
        right, count = plan.metrics(model, _read(shards.test))["accuracy"]
    assert float(right / count) > 0.9
    assert set(experiment.evaluates_on) == {"devices", "host"}
