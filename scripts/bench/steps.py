"""A training step in the shapes that benchmarks compare: what a plan's first step is fed, and the eager loop."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from devicelab.plans.plan import TrainingPlan
from devicelab.plans.signature import Role


def plain_eager(
    plan: TrainingPlan, batch: dict[str, torch.Tensor], *, sparse: bool = False
) -> Callable[[], object]:
    """The training loop that anybody would write."""
    model = plan.module().train()
    if sparse:
        for part in model.modules():
            if isinstance(part, torch.nn.Embedding):
                part.sparse = True
    optimizer = plan.optimizer.reference(model.parameters())

    def step() -> object:
        optimizer.zero_grad(set_to_none=True)
        loss = plan.loss(model, batch)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


class WithoutMetrics(TrainingPlan):
    """A plan less its metrics: the eager loop computes none."""

    def __init__(self, plan: TrainingPlan) -> None:
        self.name = plan.name
        self.plan = plan
        self.optimizer = plan.optimizer
        self.module = plan.module
        self.loss = plan.loss
        self.example_batch = plan.example_batch

    def module(self):
        raise AssertionError("replaced in __init__")

    def loss(self, *_):
        raise AssertionError("replaced in __init__")

    def example_batch(self):
        raise AssertionError("replaced in __init__")


def feeds_of(traced, batch: dict[str, torch.Tensor], lr: float | None = None):
    """The first value of every input."""
    initial = traced.step.initial_arrays()
    feeds = {}
    for i in traced.signature.inputs:
        if i.role is Role.DATA:
            feeds[i.name] = batch[i.label].numpy()
        elif i.role is Role.HYPER:
            feeds[i.name] = np.asarray(lr if lr is not None and i.label == "lr" else i.default, dtype=i.dtype)
        else:
            feeds[i.name] = initial[i.name]
    return feeds
