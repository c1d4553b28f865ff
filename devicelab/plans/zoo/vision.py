"""Classifiers of pictures and of plain vectors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everybody uses
from torch import Tensor, nn

from devicelab.plans.optimizers import SGD, Optimizer
from devicelab.plans.plan import Batch, TrainingPlan

__all__ = ["MLP", "LeNet", "MobileNet"]


class Classifier(TrainingPlan):
    """Plans whose examples are an input ``x`` and a class ``label``."""

    classes = 10

    def __init__(self, *, optimizer: Optimizer | None = None) -> None:
        self.optimizer = optimizer or SGD(lr=0.05)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(model(batch["x"]), batch["label"])

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """How often the likeliest class is the right one."""
        right = (model(batch["x"]).argmax(-1) == batch["label"]).float()
        return {"accuracy": (right.sum(), torch.ones_like(right).sum())}

    def _labelled(self, *shape: int, examples: int = 64) -> Batch:
        generator = torch.Generator().manual_seed(7)
        label = torch.randint(self.classes, (examples,), generator=generator)
        label[:2] = torch.tensor([0, self.classes - 1])
        return {"x": torch.randn(examples, *shape, generator=generator), "label": label}


class MLP(Classifier):
    """Linear layers with ReLU between, over plain vectors. The default sizes are those of the 8 by 8 digits.

    Args:
        inputs: Numbers an example has.
        hidden: Sizes of the hidden layers.
        classes: Number of classes.
        optimizer: How gradients become updates.
    """

    name = "mlp"

    def __init__(
        self,
        *,
        inputs: int = 64,
        hidden: Sequence[int] = (128, 128),
        classes: int = 10,
        optimizer: Optimizer | None = None,
    ) -> None:
        super().__init__(optimizer=optimizer)
        self.inputs = inputs
        self.hidden = tuple(hidden)
        self.classes = classes

    def module(self) -> nn.Module:
        """The layers, and ReLU after each but the last."""
        torch.manual_seed(0)
        sizes = (self.inputs, *self.hidden, self.classes)
        layers = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
        return nn.Sequential(*layers[:-1])

    def example_batch(self) -> Batch:
        """Vectors of numbers."""
        return self._labelled(self.inputs)


class LeNet(Classifier):
    """LeNet (LeCun et al. 1998) with batch norm, over 28 by 28 pictures."""

    name = "lenet"

    def module(self) -> nn.Module:
        """Two convolutions, each with batch norm, ReLU and pooling, then two layers."""
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 5),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 5 * 5, 120),
            nn.ReLU(),
            nn.Linear(120, self.classes),
        )

    def example_batch(self) -> Batch:
        """Pictures of one channel."""
        return self._labelled(1, 28, 28)


class _Separable(nn.Module):
    """A depthwise convolution and a pointwise one (Howard et al. 2017)."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.pointwise = nn.Conv2d(channels, out, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.norm1(self.depthwise(x)))
        return F.relu6(self.norm2(self.pointwise(x)))


class MobileNet(Classifier):
    """A small MobileNet (Howard et al. 2017) over 32 by 32 pictures in colour."""

    name = "mobilenet"

    def module(self) -> nn.Module:
        """A stem, four separable blocks, the mean over the picture, one layer."""
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU6(),
            _Separable(16, 32, 1),
            _Separable(32, 64, 2),
            _Separable(64, 64, 1),
            _Separable(64, 128, 2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(128, self.classes),
        )

    def example_batch(self) -> Batch:
        """Pictures of three channels."""
        return self._labelled(3, 32, 32)
