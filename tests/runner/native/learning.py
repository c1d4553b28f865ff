"""Training on a bench, held against PyTorch's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from devicelab.plans.check import CHANGE_TOLERANCE
from devicelab.runner.messages import TrainResult
from devicelab.runner.reference import LocalTraining
from tests.runner.native.bench import Bench, Exported

Arrays = Mapping[str, np.ndarray[Any, Any]]


def trained(bench: Bench, plan: Exported, shards: Sequence[Arrays], **job: Any) -> TrainResult:
    """Train, and hold the update against PyTorch's, but for what rounding alone does to PyTorch's own."""
    document = bench.plan(plan, *shards, **job)
    result = bench.train(document)
    reference = plan.reference(document, shards)
    exact = plan.reference(document, shards, dtype=torch.float64)
    update = bench.load("update.safetensors")
    assert set(update) == set(reference.update)
    for name, delta in update.items():
        right = reference.update[name]
        assert delta.dtype == right.dtype
        assert delta.shape == right.shape
        rounding = float(np.max(np.abs(right - exact.update[name])))
        allowed = CHANGE_TOLERANCE * float(np.max(np.abs(right))) + 2.0**-22 + 25 * rounding
        assert float(np.max(np.abs(delta - right))) <= allowed, name
    assert_facts_agree(result, reference)
    return result


def assert_facts_agree(result: TrainResult, reference: LocalTraining) -> None:
    for client, right in zip(result.clients, reference.clients, strict=True):
        assert (client.client, client.examples, client.weight) == (right.client, right.examples, right.weight)
        assert client.steps == len(right.losses)
        assert client.loss_first == pytest.approx(right.losses[0], rel=1e-5)
        assert client.loss_last == pytest.approx(right.losses[-1], rel=1e-4)
        assert client.norm == pytest.approx(right.norm, rel=1e-4)
        assert set(client.metrics) == set(right.metrics)
        for name, (total, count) in right.metrics.items():
            assert client.metrics[name].count == count
            assert client.metrics[name].sum == pytest.approx(total, rel=1e-3, abs=1.0)
    assert result.steps == sum(len(right.losses) for right in reference.clients)
    assert result.examples == sum(right.examples for right in reference.clients)
    assert result.weight == pytest.approx(sum(right.weight for right in reference.clients))
