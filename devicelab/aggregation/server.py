"""What the server does with the mean update: the model's next values.

All follow Algorithm 2 of Reddi et al. 2021, "Adaptive federated optimization", in which the mean delta Δ takes
the place of a negative gradient, and FedAvgM follows Hsu et al. 2019, "Measuring the effects of non-identical
data distribution for federated visual classification".

Only the tensors that are named as ``optimized`` (a plan's parameters) go through the optimizer. What else is in
the mean (running statistics) is averaged: Δ is added. What is not in the mean (integer buffers) stays as it is.

Everything is computed in the tensors' own type with operations that IEEE 754 rounds exactly, so the same values
give the same bytes on every machine.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from devicelab.aggregation.chunks import finite
from devicelab.aggregation.update import Tensors
from devicelab.errors import ConfigError, RoundError

__all__ = ["FedAdagrad", "FedAdam", "FedAvgM", "FedYogi", "ServerAverage", "ServerOptimizer"]


class ServerOptimizer(ABC):
    """One run's server side: a step a round, with a memory from round to round.

    Args:
        optimized: Names of the tensors that go through the optimizer.
        lr: The server's learning rate, η.

    Attributes:
        name: As an experiment calls it.
        slots: What it remembers of each optimized tensor, by the paper's letters.

    Raises:
        ConfigError: An option is out of its range.
    """

    name: ClassVar[str]
    slots: ClassVar[tuple[str, ...]] = ()

    def __init__(self, optimized: Collection[str], *, lr: float) -> None:
        self._optimized = frozenset(optimized)
        self._lr = self._positive("lr", lr)
        self._slots: dict[str, tuple[NDArray[Any], ...]] = {}

    def step(self, parameters: Tensors, mean: Tensors) -> dict[str, NDArray[Any]]:
        """The model's values after this round. Neither argument is written to.

        Args:
            parameters: The global values that the clients started from, by name.
            mean: The mean delta; at least the optimized tensors, in the shapes and types of ``parameters``.

        Returns:
            Every tensor of ``parameters``; those that do not change are the very same arrays.

        Raises:
            ValueError: The mean lacks an optimized tensor, or holds one that ``parameters`` does not have so.
            ConfigError: The memory that was loaded is of other shapes or types.
            RoundError: A new value is not finite. The optimizer's memory is as it was.
        """
        if missing := sorted(self._optimized - mean.keys()):
            raise ValueError(f"the mean update lacks {missing[0]!r}")
        new: dict[str, NDArray[Any]] = dict(parameters)
        remembered: dict[str, tuple[NDArray[Any], ...]] = {}
        with np.errstate(over="ignore", invalid="ignore"):  # what comes out is looked at
            for name, delta in mean.items():
                old = parameters.get(name)
                if old is None or (old.dtype, old.shape) != (delta.dtype, delta.shape):
                    raise ValueError(f"the mean update's {name!r} does not fit the parameters")
                if name in self._optimized:
                    before = self._remembered(name, delta)
                    new[name], remembered[name] = self._apply(old, delta, before)
                else:
                    new[name] = old + delta
        for name in mean:
            if not all(map(finite, (new[name], *remembered.get(name, ())))):
                raise RoundError(
                    f"{self.name}: the step makes {name!r} infinite",
                    hint="a smaller server learning rate may help",
                )
        self._slots = remembered
        return new

    def state(self) -> dict[str, NDArray[Any]]:
        """The memory as named tensors, ``<slot>/<tensor>``; empty before the first step.

        The arrays are never written to again. :meth:`load_state` in another process goes on bit for bit.
        """
        return {
            f"{slot}/{name}": value
            for name in sorted(self._slots)
            for slot, value in zip(self.slots, self._slots[name], strict=True)
        }

    def load_state(self, state: Tensors) -> None:
        """Take over a memory; an empty one means before the first step.

        Raises:
            ConfigError: It is not one of this optimizer and these tensors.
        """
        expected = {f"{slot}/{name}" for slot in self.slots for name in self._optimized}
        if state and state.keys() != expected:
            odd = min(state.keys() ^ expected)
            raise ConfigError(
                f"the checkpoint's server state does not fit {self.name}: {odd!r} is "
                f"{'not expected' if odd in state else 'missing'}",
                hint="a run keeps its server optimizer and its parameters; start a new run to change them",
            )
        self._slots = (
            {name: tuple(np.array(state[f"{slot}/{name}"]) for slot in self.slots) for name in self._optimized}
            if state
            else {}
        )

    def _remembered(self, name: str, delta: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        if name not in self._slots:
            return self._fresh(delta)
        for slot, value in zip(self.slots, self._slots[name], strict=True):
            if (value.dtype, value.shape) != (delta.dtype, delta.shape):
                raise ConfigError(f"the checkpoint's server state '{slot}/{name}' does not fit the parameter")
        return self._slots[name]

    def _fresh(self, delta: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        return tuple(np.zeros_like(delta) for _ in self.slots)

    @abstractmethod
    def _apply(
        self, x: NDArray[Any], delta: NDArray[Any], before: tuple[NDArray[Any], ...]
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...]]:
        """New value and new memory of one tensor."""

    def _positive(self, option: str, value: float) -> float:
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{self.name}: {option} must be a positive number, not {value}")
        return float(value)

    def _below_one(self, option: str, value: float) -> float:
        if not 0 <= value < 1:
            raise ConfigError(f"{self.name}: {option} must be at least 0 and below 1, not {value}")
        return float(value)


class ServerAverage(ServerOptimizer):
    """x + η·Δ: plain FedAvg with η = 1 (McMahan et al. 2017)."""

    name: ClassVar[str] = "none"

    def __init__(self, optimized: Collection[str], *, lr: float = 1.0) -> None:
        super().__init__(optimized, lr=lr)

    def _apply(
        self, x: NDArray[Any], delta: NDArray[Any], _before: tuple[NDArray[Any], ...]
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...]]:
        return x + self._lr * delta, ()


class FedAvgM(ServerOptimizer):
    """m ← β·m + Δ, x ← x + η·m (Hsu et al. 2019).

    Args:
        momentum: β.
    """

    name: ClassVar[str] = "fedavgm"
    slots: ClassVar[tuple[str, ...]] = ("m",)

    def __init__(self, optimized: Collection[str], *, lr: float = 1.0, momentum: float = 0.9) -> None:
        super().__init__(optimized, lr=lr)
        self._momentum = self._below_one("momentum", momentum)

    def _apply(
        self, x: NDArray[Any], delta: NDArray[Any], before: tuple[NDArray[Any], ...]
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...]]:
        m = self._momentum * before[0] + delta
        return x + self._lr * m, (m,)


class _Adaptive(ServerOptimizer):
    """m ← β₁·m + (1 − β₁)·Δ, v ← …, x ← x + η·m / (√v + τ). No bias correction, as in the paper.

    Args:
        beta1: Decay of the mean update.
        tau: τ, how adaptive it is: the smaller, the more.
        initial: What v is before the first round; τ², the least that the paper allows, if not given.
    """

    slots: ClassVar[tuple[str, ...]] = ("m", "v")

    def __init__(
        self, optimized: Collection[str], *, lr: float, beta1: float, tau: float, initial: float | None
    ) -> None:
        super().__init__(optimized, lr=lr)
        self._beta1 = self._below_one("beta1", beta1)
        self._tau = self._positive("tau", tau)
        if initial is not None and not (math.isfinite(initial) and initial >= 0):
            raise ConfigError(f"{self.name}: initial must not be negative, it is {initial}")
        self._initial = self._tau**2 if initial is None else float(initial)

    def _fresh(self, delta: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        return np.zeros_like(delta), np.full_like(delta, self._initial)

    def _apply(
        self, x: NDArray[Any], delta: NDArray[Any], before: tuple[NDArray[Any], ...]
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...]]:
        m = self._beta1 * before[0] + (1 - self._beta1) * delta
        v = self._second(before[1], delta * delta)
        return x + self._lr * m / (np.sqrt(v) + self._tau), (m, v)

    @abstractmethod
    def _second(self, v: NDArray[Any], square: NDArray[Any]) -> NDArray[Any]:
        """The next v, from Δ²."""


class FedAdagrad(_Adaptive):
    """v ← v + Δ². The paper tunes η per task; β₁ = 0 there."""

    name: ClassVar[str] = "fedadagrad"

    def __init__(
        self,
        optimized: Collection[str],
        *,
        lr: float = 0.1,
        beta1: float = 0.0,
        tau: float = 1e-3,
        initial: float | None = None,
    ) -> None:
        super().__init__(optimized, lr=lr, beta1=beta1, tau=tau, initial=initial)

    def _second(self, v: NDArray[Any], square: NDArray[Any]) -> NDArray[Any]:
        second: NDArray[Any] = v + square
        return second


class FedAdam(_Adaptive):
    """v ← β₂·v + (1 − β₂)·Δ². The paper tunes η per task; β₁ = 0.9, β₂ = 0.99, τ = 10⁻³ there.

    Args:
        beta2: Decay of the mean square.
    """

    name: ClassVar[str] = "fedadam"

    def __init__(
        self,
        optimized: Collection[str],
        *,
        lr: float = 0.01,
        beta1: float = 0.9,
        beta2: float = 0.99,
        tau: float = 1e-3,
        initial: float | None = None,
    ) -> None:
        super().__init__(optimized, lr=lr, beta1=beta1, tau=tau, initial=initial)
        self._beta2 = self._below_one("beta2", beta2)

    def _second(self, v: NDArray[Any], square: NDArray[Any]) -> NDArray[Any]:
        second: NDArray[Any] = self._beta2 * v + (1 - self._beta2) * square
        return second


class FedYogi(FedAdam):
    """v ← v − (1 − β₂)·Δ²·sign(v − Δ²): like FedAdam, but v moves by no more than Δ² allows."""

    name: ClassVar[str] = "fedyogi"

    def _second(self, v: NDArray[Any], square: NDArray[Any]) -> NDArray[Any]:
        second: NDArray[Any] = v - (1 - self._beta2) * square * np.sign(v - square)
        return second
