"""Plans that take no time to trace, one for each thing that a runner must be able to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own custom

from devicelab.plans.optimizers import SGD, Adam, Optimizer
from devicelab.plans.plan import Batch, NamedRows, TrainingPlan
from devicelab.plans.zoo import MatrixFactorization

Array = np.ndarray[Any, Any]


class Line(TrainingPlan):
    """Linear regression with a metric."""

    name = "line"
    optimizer: Optimizer = SGD(lr=0.1)

    def module(self) -> nn.Module:
        torch.manual_seed(5)
        return nn.Linear(4, 3)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        error: Tensor = F.mse_loss(model(batch["x"]), batch["y"])
        return error

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        error = (model(batch["x"]) - batch["y"]).abs()
        return {"error": (error.sum(), torch.full((), float(len(batch["x"]))))}

    def example_batch(self) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(6)
        return {"x": torch.randn(16, 4, generator=generator), "y": torch.randn(16, 3, generator=generator)}


class PrivateLine(Line):
    """One whose bias stays on the device, with momentum."""

    name = "private"
    private = ("bias",)
    optimizer = SGD(lr=0.1, momentum=0.9)


class AdamLine(Line):
    name = "adam"
    optimizer = Adam(lr=0.01)


class FixedLine(Line):
    """One that only takes 16 examples at a time."""

    name = "fixed"
    fixed_batch = True


class NearLine(Line):
    """One that is held near the global parameters."""

    name = "near"
    proximal = 0.3


class Normalized(Line):
    """One with running statistics, whole numbers among them, and with dropout."""

    name = "normalized"

    def module(self) -> nn.Module:
        torch.manual_seed(5)
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.25), nn.Linear(6, 3))


class Table(TrainingPlan):
    """An embedding table that is updated in place; items are 0 to 49."""

    name = "table"
    optimizer = SGD(lr=0.5)

    def module(self) -> nn.Module:
        torch.manual_seed(5)
        return nn.Embedding(50, 4)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        error: Tensor = (model(batch["item"]).sum(1) - batch["rating"]).square().mean()
        return error

    def example_batch(self) -> dict[str, Tensor]:
        return {"item": torch.arange(50), "rating": torch.linspace(1, 5, 50)}


class Baskets(Table):
    """One whose examples are three items, as numbers of 32 bits; takes 16 at a time."""

    name = "baskets"
    fixed_batch = True
    tables: ClassVar[Mapping[str, NamedRows]] = {"item": NamedRows(("weight",), ids=("item",))}

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        error: Tensor = (model(batch["item"].long()).sum((1, 2)) - batch["rating"]).square().mean()
        return error

    def example_batch(self) -> dict[str, Tensor]:
        items = torch.arange(48, dtype=torch.int32).reshape(16, 3)
        items[0, 0] = 49
        return {"item": items, "rating": torch.linspace(1, 5, 16)}


class LargeTable(Table):
    """One of 16 MB, of which a client may have some rows."""

    tables: ClassVar[Mapping[str, NamedRows]] = {"item": NamedRows(("weight",), ids=("item",))}

    def module(self) -> nn.Module:
        torch.manual_seed(5)
        return nn.Embedding(1_000_000, 4)


class Ratings(MatrixFactorization):
    """Of 211 items, of which a client may have some rows."""

    tables: ClassVar[Mapping[str, NamedRows]] = {"item": NamedRows(("item.*", "item_bias.*"), ids=("item",))}

    def __init__(self, optimizer: Optimizer, proximal: float | None = None) -> None:
        super().__init__(users=5, items=211, width=8, optimizer=optimizer)
        self.proximal = proximal


class WholeRatings(Ratings):
    """The same without a table."""

    tables: ClassVar[Mapping[str, NamedRows]] = {}


PLANS: dict[str, Callable[[], TrainingPlan]] = {
    plan.name: plan for plan in (Line, PrivateLine, AdamLine, FixedLine, NearLine, Normalized, Table)
}


def shard(plan: TrainingPlan, examples: int, seed: int = 0) -> dict[str, Array]:
    """Random examples for a plan."""
    batch = plan.random_batch(examples, torch.Generator().manual_seed(seed))
    return {name: tensor.numpy() for name, tensor in batch.items()}
