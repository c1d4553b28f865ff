"""The plan of scripts/bench/round: as many parameters as wanted, and nearly nothing to do with them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from devicelab.plans.optimizers import SGD
from devicelab.plans.plan import Batch, TrainingPlan

ROW = 250  # summed row by row: one long sum of float32 is a little different in every library


class Weights(nn.Module):
    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(numbers // ROW, ROW))


class Noop(TrainingPlan):
    """One step moves every parameter a little towards the data's mean."""

    name = "noop"
    optimizer = SGD(lr=0.1)

    def __init__(self, *, numbers: int) -> None:
        self._numbers = numbers

    def module(self) -> nn.Module:
        return Weights(self._numbers)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return (model.weight - batch["x"].mean()).square().mean(1).mean()

    def example_batch(self) -> Batch:
        return {"x": torch.ones(3, 1)}
