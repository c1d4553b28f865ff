"""Rules that look at one number of the model at a time, across all clients (Yin et al. 2018).

"Byzantine-robust distributed learning: towards optimal statistical rates": as long as fewer than half of the
clients (the median) or fewer than the trimmed share (the trimmed mean) are faulty or hostile, the result lies
among what the others sent.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from devicelab.aggregation.chunks import flat, spans
from devicelab.aggregation.rule import KeepingRule
from devicelab.aggregation.update import Tensors
from devicelab.errors import ConfigError

__all__ = ["Median", "TrimmedMean"]

_BLOCK: Final = 1 << 18  # numbers of all clients together that are sorted at a time


class _CoordinateRule(KeepingRule):
    """Sorts the clients' values of every coordinate and hands them on."""

    def combine(self, deltas: list[Tensors]) -> dict[str, NDArray[Any]]:
        """Apply :meth:`of_sorted` to every coordinate."""
        step = max(1, _BLOCK // len(deltas))
        mean = {name: np.empty(tensor.shape, tensor.dtype) for name, tensor in deltas[0].items()}
        for name, tensor in mean.items():
            numbers, columns = flat(tensor), [flat(delta[name]) for delta in deltas]
            # a coordinate's values side by side, for the sort
            block = np.empty((min(step, numbers.size), len(deltas)), tensor.dtype)
            for span in spans(numbers.size, step):
                values = block[: span.stop - span.start]
                for place, column in enumerate(columns):
                    values[:, place] = column[span]
                values.sort(axis=1)
                with np.errstate(over="ignore", invalid="ignore"):
                    numbers[span] = self.of_sorted(values)
        return mean

    @abstractmethod
    def of_sorted(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """One number for each coordinate.

        Args:
            values: (coordinates, clients), each row in rising order.
        """


class Median(_CoordinateRule):
    """The median of every coordinate; the mean of the two in the middle where the number of clients is even."""

    name: ClassVar[str] = "median"

    def of_sorted(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """The middle, or the mean of the two there."""
        clients = values.shape[1]
        middle: NDArray[np.float64] = np.mean(
            values[:, (clients - 1) // 2 : clients // 2 + 1], axis=1, dtype=np.float64
        )
        return middle


class TrimmedMean(_CoordinateRule):
    """The mean of every coordinate without its largest and smallest values.

    Args:
        fraction: The share of the clients that is cut off at either end, within [0, 0.5); ⌊fraction · clients⌋
            values.

    Raises:
        ConfigError: ``fraction`` is not within these limits.
    """

    name: ClassVar[str] = "trimmed_mean"

    def __init__(self, *, fraction: float = 0.1) -> None:
        super().__init__()
        if not 0 <= fraction < 0.5:
            raise ConfigError(f"trimmed_mean: fraction must be at least 0 and below 0.5, not {fraction}")
        self._fraction = fraction

    def of_sorted(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """The mean of what is left in the middle."""
        clients = values.shape[1]
        cut = math.floor(self._fraction * clients + 1e-9)  # 0.29 · 100 is 28.999999999999996
        mean: NDArray[np.float64] = np.mean(values[:, cut : clients - cut], axis=1, dtype=np.float64)
        return mean
