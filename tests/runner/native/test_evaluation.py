"""Evaluation plans: alone, and before and after training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from devicelab.plans.eager import evaluate_eagerly
from devicelab.runner.messages import EvaluateResult
from tests.runner.native.bench import Bench, Exported
from tests.runner.native.plans import Line, Normalized, shard

Export = Callable[..., Exported]
DATA = [shard(Line(), 20, seed=1), shard(Line(), 13, seed=2)]


def evaluated(bench: Bench, job: Mapping[str, Any]) -> EvaluateResult:
    training = ("epochs", "combine")
    asked = {name: value for name, value in job.items() if name not in training} | {"verb": "evaluate"}
    result = bench.run("evaluate", asked).messages[-1]
    assert isinstance(result, EvaluateResult), result
    return result


@pytest.mark.parametrize("batch_size", [1, 8, 20, 100])
def test_metrics_are_those_of_the_whole_shard(batch_size: int, exported: Export, bench: Bench) -> None:
    plan = exported("normalized", "evaluate")
    result = evaluated(bench, bench.plan(plan, *DATA, batch_size=batch_size))
    for client, data in zip(result.clients, DATA, strict=True):
        step = plan.traced.step
        right = evaluate_eagerly(
            step, step.model, {name: torch.from_numpy(each) for name, each in data.items()}
        )
        assert set(client.metrics) == {"loss", "error"}
        for name, metric in client.metrics.items():
            assert metric.sum == pytest.approx(float(right[f"metric/{name}/sum"]), rel=1e-5)
            assert metric.count == float(right[f"metric/{name}/count"])
    assert [client.examples for client in result.clients] == [20, 13]
    assert result.examples == 33
    assert bench.names() == [
        "job.json",
        "parameters.safetensors",
        "plan.onnx",
        "result.json",
        "shard0.safetensors",
        "shard1.safetensors",
    ]


def test_each_client_is_measured_with_what_it_keeps(exported: Export, bench: Bench) -> None:
    plan = exported("private", "evaluate")
    job = bench.plan(plan, DATA[0], DATA[0])
    (bench.job / "private").mkdir()
    bench.tensors("private/c1.safetensors", {"param/bias": np.full(3, 9, np.float32)})
    first, second = evaluated(bench, job).clients
    assert second.metrics["loss"].sum > 10 * first.metrics["loss"].sum


@pytest.mark.parametrize("model", ["line", "normalized", "private"])
def test_the_loss_before_and_after_training(model: str, exported: Export, bench: Bench) -> None:
    plan, evaluation = exported(model), exported(model, "evaluate")
    job = bench.plan(plan, *DATA, epochs=4)
    job["evaluation"] = bench.write("evaluation.onnx", evaluation.content)
    result = bench.train(job)
    right = plan.reference(job, DATA, evaluation=evaluation)
    for client, reference in zip(result.clients, right.clients, strict=True):
        assert client.loss_before == pytest.approx(reference.loss_before, rel=1e-5)
        assert client.loss_after == pytest.approx(reference.loss_after, rel=1e-3)
        assert (client.loss_after or 0) < (client.loss_before or 0)


def test_measuring_changes_nothing(exported: Export, bench: Bench) -> None:
    job = bench.plan(exported("normalized"), *DATA)
    plain = bench.train(job)
    bench.forget()
    job["evaluation"] = bench.write("evaluation.onnx", exported("normalized", "evaluate").content)
    assert bench.train(job).update == plain.update


def test_a_fixed_batch_is_filled_up(exported: Export, bench: Bench) -> None:
    plan = exported("fixed", "evaluate")
    data = shard(Line(), 20)
    (client,) = evaluated(bench, bench.plan(plan, data, batch_size=None)).clients
    rows = np.resize(np.arange(20), 32)
    step = plan.traced.step
    total = 0.0
    for part in (rows[:16], np.concatenate([rows[16:20], np.arange(12)])):
        batch = {name: torch.from_numpy(array[part]) for name, array in data.items()}
        total += float(evaluate_eagerly(step, step.model, batch)["metric/loss/sum"])
    assert client.metrics["loss"].count == 32
    assert client.metrics["loss"].sum == pytest.approx(total, rel=1e-5)


def test_a_plan_is_for_one_verb(exported: Export, bench: Bench) -> None:
    job = bench.plan(exported("line", "evaluate"), *DATA)
    assert bench.run("train", job).failure.code == "input"
    job = bench.plan(exported("line"), *DATA)
    asked = {name: value for name, value in job.items() if name not in ("epochs", "combine")}
    assert bench.run("evaluate", asked | {"verb": "evaluate"}).failure.code == "input"


def test_an_evaluation_plan_of_another_model_is_refused(exported: Export, bench: Bench) -> None:
    job = bench.plan(exported("line"), *DATA)
    job["evaluation"] = bench.write("evaluation.onnx", exported("normalized", "evaluate").content)
    failure = bench.run("train", job).failure
    assert failure.code == "input"
    assert "parameters.safetensors" in failure.message


def test_no_metric_is_lost_where_the_data_is_more_than_the_plan_needs(exported: Export, bench: Bench) -> None:
    data = {**shard(Normalized(), 9), "more": np.zeros((4, 4), np.int8)}
    assert len(evaluated(bench, bench.plan(exported("line", "evaluate"), data)).clients) == 1
