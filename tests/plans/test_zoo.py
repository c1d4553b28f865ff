"""Every zoo model with every optimizer: one step checked on export, a hundred on their own, any batch size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from devicelab.plans.check import VALUE_TOLERANCE
from devicelab.plans.eager import EagerTrainer
from devicelab.plans.engine import BoundEngine, Engine
from devicelab.plans.export import ExportedPlan
from devicelab.plans.reader import read_plan_bytes
from devicelab.plans.signature import Role
from devicelab.plans.zoo import OPTIMIZERS, ZOO
from tests.plans.conftest import feeds_of

_STATE_TOLERANCE = 2e-6

Export = Callable[..., ExportedPlan]
Run = Callable[[dict[str, np.ndarray[Any, Any]]], Mapping[str, np.ndarray[Any, Any]]]


def _one_step(plan: ExportedPlan, run: Run, examples: int) -> dict[str, float]:
    """How far each result of the first step is from eager PyTorch's, of its tensor's largest number or 1."""
    step = plan.traced.step
    batch = step.plan.random_batch(examples, torch.Generator().manual_seed(examples))
    results = run(feeds_of(plan, examples, batch_seed=examples))
    truth = EagerTrainer(step).step(batch)
    assert {name: results[name].shape for name in plan.signature.replacements} == {
        name: truth[name].shape for name in plan.signature.replacements
    }
    differences = {}
    for o in plan.signature.outputs:
        value, right = results[o.name].astype(np.float64), truth[o.name].astype(np.float64)
        assert np.isfinite(value).all()
        differences[o.name] = float(np.max(np.abs(value - right)) / max(1.0, np.max(np.abs(right))))
    return differences


def _loss_curves(plan: ExportedPlan) -> tuple[list[float], list[float]]:
    """The plan's and eager PyTorch's losses of a hundred steps on one batch, each on its own."""
    step = plan.traced.step
    batch = step.plan.random_batch(8, torch.Generator().manual_seed(3))
    feeds = feeds_of(plan, 8) | {f"data/{name}": tensor.numpy() for name, tensor in batch.items()}
    bound, eager = BoundEngine(plan.onnx, plan.signature, feeds), EagerTrainer(step)
    ours = [bound.step() for _ in range(100)]
    theirs = [float(eager.step(batch)["loss"]) for _ in range(100)]
    assert all(np.isfinite(value).all() for value in bound.values().values())
    return ours, theirs


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", ZOO)
def test_every_model_trains_with_every_optimizer_as_eager_pytorch_does(
    model: str, optimizer: str, export: Export
) -> None:
    plan = export(model, optimizer)
    read_plan_bytes(plan.onnx)
    engine = Engine(plan.onnx)
    normalizes = plan.traced.step.plan.optimizer.normalizes
    for examples in (1, 7, 32, 100):
        differences = _one_step(plan, engine.run, examples)
        for name, difference in differences.items():
            # Where gradients are divided by their size, one of mere rounding moves its parameter as far as any
            # other; the export's own check knows how far. State is gradients, which have no parameter's size to
            # hide behind, and their squares.
            if not (normalizes and name.startswith("new/param/")):
                most = _STATE_TOLERANCE if name.startswith("new/state/") else VALUE_TOLERANCE
                assert difference <= most, name
    ours, theirs = _loss_curves(plan)
    np.testing.assert_allclose(ours, theirs, rtol=1e-2, atol=5e-3 * theirs[0])
    assert np.mean(ours[-10:]) < np.mean(ours[:10])


@pytest.mark.parametrize("model", ZOO)
def test_evaluation_agrees(model: str, export: Export) -> None:
    evaluation = export(model, "sgd", "evaluate")
    assert evaluation.difference.relative <= VALUE_TOLERANCE
    read_plan_bytes(evaluation.onnx)
    assert evaluation.signature.kind == "evaluate"
    metrics = {o.metric for o in evaluation.signature.outputs}
    assert "loss" in metrics
    assert len(metrics) >= 2


@pytest.mark.parametrize("model", ["mf", "neumf"])
def test_tables_are_updated_in_place_and_nothing_else_is(model: str, export: Export) -> None:
    plan = export(model, "sgd")
    in_place = {o.name.removeprefix("new/param/") for o in plan.signature.outputs if o.in_place}
    tables = {n for n, p in plan.traced.step.model.named_modules() if isinstance(p, torch.nn.Embedding)}
    assert in_place == {f"{name}.weight" for name in tables}


def test_sharing_memory_changes_no_number(export: Export) -> None:
    plan = export("mf", "sgd")
    feeds = feeds_of(plan, 32)
    bound = BoundEngine(plan.onnx, plan.signature, feeds)
    engine = Engine(plan.onnx)
    for _ in range(5):
        bound.step()
        results = engine.run(feeds)
        feeds |= {o.replaces: results[o.name] for o in plan.signature.outputs if o.replaces}
    for name, value in bound.values().items():
        np.testing.assert_array_equal(value, feeds[name])


def test_private_parameters_have_their_role(export: Export) -> None:
    roles = {i.name: i.role for i in export("mf").signature.inputs}
    assert roles["param/user.weight"] is Role.PRIVATE
    assert roles["param/user_bias.weight"] is Role.PRIVATE
    assert roles["param/item.weight"] is Role.PARAMETER


def test_a_plan_is_small_and_adams_epsilon_is_in_it(export: Export) -> None:
    plan = export("mf", "adam")
    assert len(plan.onnx) < 30_000
    constants = [
        np.frombuffer(i.raw_data, np.float32) for i in read_plan_bytes(plan.onnx).model.graph.initializer
    ]
    assert any(c.size == 1 and c[0] == np.float32(1e-8) for c in constants)
