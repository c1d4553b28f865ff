"""Every zoo model with every optimizer: one step checked on export, a hundred on their own, any batch size."""

from __future__ import annotations

from collections.abc import Callable
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
from devicelab.plans.zoo import ZOO
from tests.plans.conftest import OPTIMIZERS

Export = Callable[..., ExportedPlan]


def _feeds(plan: ExportedPlan, examples: int, seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    batch = plan.traced.step.plan.random_batch(examples, torch.Generator().manual_seed(seed))
    feeds = dict(plan.initial)
    for i in plan.signature.inputs:
        if i.role is Role.DATA:
            feeds[i.name] = batch[i.label].numpy()
        elif i.role is Role.HYPER:
            feeds[i.name] = np.asarray(i.default, dtype=i.dtype)
    return feeds


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", ["mf", "autoencoder", "mlp", "lenet"])
def test_one_step_is_that_of_eager_pytorch(model: str, optimizer: str, export: Export) -> None:
    plan = export(model, optimizer)
    assert plan.difference.relative <= 10 * VALUE_TOLERANCE
    read_plan_bytes(plan.onnx)


@pytest.mark.parametrize("model", ZOO)
def test_any_batch_size_fits_and_evaluation_agrees(model: str, export: Export) -> None:
    plan = export(model, "momentum" if model == "mobilenet" else "sgd")
    assert plan.difference.relative <= 10 * VALUE_TOLERANCE
    read_plan_bytes(plan.onnx)
    engine = Engine(plan.onnx)
    for examples in (1, 7, 32, 100):
        results = engine.run(_feeds(plan, examples))
        for o in plan.signature.outputs:
            assert np.isfinite(results[o.name]).all()
            assert results[o.name].shape == o.shape
    evaluation = export(model, "sgd", "evaluate")
    read_plan_bytes(evaluation.onnx)
    assert evaluation.signature.kind == "evaluate"
    metrics = {o.metric for o in evaluation.signature.outputs}
    assert "loss" in metrics
    assert len(metrics) == 2


def test_a_transformer_trains_with_adam(export: Export) -> None:
    assert export("transformer", "adam").difference.relative <= 10 * VALUE_TOLERANCE


@pytest.mark.parametrize(
    ("model", "optimizer"),
    [("mf", "sgd"), ("mf", "adam"), ("autoencoder", "adagrad"), ("mlp", "adamw"), ("lenet", "nesterov")],
)
def test_a_hundred_steps_learn_as_eager_pytorch_does(model: str, optimizer: str, export: Export) -> None:
    plan = export(model, optimizer)
    step = plan.traced.step
    batch = step.plan.random_batch(16, torch.Generator().manual_seed(3))
    feeds = _feeds(plan, 16)
    feeds |= {f"data/{name}": tensor.numpy() for name, tensor in batch.items()}
    if "hyper/seed" in feeds:
        feeds["hyper/seed"] = np.asarray(5, dtype=np.int64)
    bound = BoundEngine(plan.onnx, plan.signature, feeds)
    eager = EagerTrainer(step)
    ours, theirs = [], []
    for _ in range(100):
        ours.append(bound.step())
        theirs.append(float(eager.step(batch, seed=5)["loss"]))
    assert np.isfinite(ours).all()
    np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-4)
    assert np.mean(ours[-10:]) < np.mean(ours[:10])


@pytest.mark.parametrize("model", ["mf", "neumf"])
def test_tables_are_updated_in_place_and_nothing_else_is(model: str, export: Export) -> None:
    plan = export(model, "sgd")
    in_place = {o.name.removeprefix("new/param/") for o in plan.signature.outputs if o.in_place}
    tables = {n for n, p in plan.traced.step.model.named_modules() if isinstance(p, torch.nn.Embedding)}
    assert in_place == {f"{name}.weight" for name in tables}


def test_sharing_memory_changes_no_number(export: Export) -> None:
    plan = export("mf", "sgd")
    feeds = _feeds(plan, 32)
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
