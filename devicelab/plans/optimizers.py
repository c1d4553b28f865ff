"""The optimizers a plan can carry: the update as plain tensor arithmetic, and PyTorch's own to check against.

Each ``update`` repeats the operations of the single-tensor path of its ``torch.optim`` namesake in the same
order, so that one step agrees to the last bits. State begins as zeros, whatever the optimizer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from devicelab.errors import PlanError

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "Optimizer"]

Slots = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Optimizer(ABC):
    """How gradients become new parameters.

    Attributes:
        lr: Learning rate: the default of the plan's ``lr`` input.
        weight_decay: By how much of itself a parameter shrinks at each step, in the way of each optimizer.
        normalizes: Whether it divides a gradient by its own size, so that a gradient near zero, which is mostly
            rounding, moves its parameter as far as any other.
    """

    lr: float
    weight_decay: float = 0.0

    normalizes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, bool) and value < 0:
                raise PlanError(f"{type(self).__name__}: {name} is {value}, it must not be negative")

    @property
    def slots(self) -> tuple[str, ...]:
        """The state tensors kept for each parameter, called as in ``torch.optim``'s state."""
        return ()

    @abstractmethod
    def update(self, p: Tensor, g: Tensor, slots: Slots, step: Tensor, lr: Tensor) -> tuple[Tensor, Slots]:
        """One parameter's step.

        Args:
            p: The parameter.
            g: Its gradient, same shape.
            slots: Its state, same shape each.
            step: Number of this step, int64 scalar, 1 for the first.
            lr: Learning rate, float32 scalar.

        Returns:
            The new parameter and the new state.
        """

    @abstractmethod
    def reference(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """PyTorch's own optimizer with the same numbers."""

    def initial(self, parameters: Mapping[str, Tensor]) -> dict[str, Slots]:
        """Zeros for every slot of every parameter."""
        return {name: {slot: torch.zeros_like(p) for slot in self.slots} for name, p in parameters.items()}


@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Stochastic gradient descent, with momentum (Sutskever et al. 2013) and Nesterov's variant if wanted."""

    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and not self.momentum:
            raise PlanError("SGD: Nesterov's variant needs a momentum")

    @property
    def slots(self) -> tuple[str, ...]:
        """The running sum of gradients, if there is momentum."""
        return ("momentum_buffer",) if self.momentum else ()

    def update(self, p: Tensor, g: Tensor, slots: Slots, step: Tensor, lr: Tensor) -> tuple[Tensor, Slots]:
        """See :meth:`Optimizer.update`; the step number plays no part."""
        del step
        if self.weight_decay:
            g = g + self.weight_decay * p
        if not self.momentum:
            return p - lr * g, {}
        velocity = self.momentum * slots["momentum_buffer"] + g
        direction = g + self.momentum * velocity if self.nesterov else velocity
        return p - lr * direction, {"momentum_buffer": velocity}

    def reference(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """``torch.optim.SGD``."""
        return torch.optim.SGD(
            parameters,
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            foreach=False,
        )


@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Adam (Kingma & Ba 2015); weight decay is added to the gradient."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    normalizes: ClassVar[bool] = True

    @property
    def slots(self) -> tuple[str, ...]:
        """Running means of the gradient and of its square."""
        return ("exp_avg", "exp_avg_sq")

    def update(self, p: Tensor, g: Tensor, slots: Slots, step: Tensor, lr: Tensor) -> tuple[Tensor, Slots]:
        """See :meth:`Optimizer.update`.

        The bias corrections are computed in double precision, as PyTorch does in Python: at step 1,
        1 - 0.999 in single precision is already wrong by 6e-5 of itself.
        """
        p, g = self._decay(p, g, lr)
        mean = slots["exp_avg"] + (1 - self.beta1) * (g - slots["exp_avg"])
        square = self.beta2 * slots["exp_avg_sq"] + (1 - self.beta2) * (g * g)
        count = step.to(torch.float64)
        correction1 = 1 - torch.pow(self.beta1, count)
        correction2 = 1 - torch.pow(self.beta2, count)
        step_size = (lr.to(torch.float64) / correction1).to(p.dtype)
        denominator = square.sqrt() / correction2.sqrt().to(p.dtype) + self.eps
        return p - step_size * (mean / denominator), {"exp_avg": mean, "exp_avg_sq": square}

    def _decay(self, p: Tensor, g: Tensor, lr: Tensor) -> tuple[Tensor, Tensor]:
        del lr
        return p, (g + self.weight_decay * p if self.weight_decay else g)

    def reference(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """``torch.optim.Adam``."""
        betas = (self.beta1, self.beta2)
        return torch.optim.Adam(
            parameters, lr=self.lr, betas=betas, eps=self.eps, weight_decay=self.weight_decay, foreach=False
        )


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    weight_decay: float = 0.01

    def _decay(self, p: Tensor, g: Tensor, lr: Tensor) -> tuple[Tensor, Tensor]:
        return (p * (1 - lr * self.weight_decay) if self.weight_decay else p), g

    def reference(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """``torch.optim.AdamW``."""
        betas = (self.beta1, self.beta2)
        return torch.optim.AdamW(
            parameters, lr=self.lr, betas=betas, eps=self.eps, weight_decay=self.weight_decay, foreach=False
        )


@dataclass(frozen=True, kw_only=True)
class Adagrad(Optimizer):
    """Adagrad (Duchi et al. 2011)."""

    eps: float = 1e-10

    normalizes: ClassVar[bool] = True

    @property
    def slots(self) -> tuple[str, ...]:
        """The sum of squared gradients."""
        return ("sum",)

    def update(self, p: Tensor, g: Tensor, slots: Slots, step: Tensor, lr: Tensor) -> tuple[Tensor, Slots]:
        """See :meth:`Optimizer.update`; there is no learning-rate decay, so the step number plays no part."""
        del step
        if self.weight_decay:
            g = g + self.weight_decay * p
        total = slots["sum"] + g * g
        return p - lr * (g / (total.sqrt() + self.eps)), {"sum": total}

    def reference(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """``torch.optim.Adagrad``."""
        return torch.optim.Adagrad(
            parameters, lr=self.lr, eps=self.eps, weight_decay=self.weight_decay, foreach=False
        )
