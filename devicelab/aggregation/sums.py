"""A running sum in double precision: the memory of two models of float32, however many are added."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from devicelab.aggregation.chunks import CHUNK, flat, spans
from devicelab.aggregation.update import Tensors

__all__ = ["RunningSum"]


class RunningSum:
    """Σ factor · tensors, by name. What is added is let go of at once."""

    def __init__(self) -> None:
        self._sums: dict[str, NDArray[np.float64]] = {}
        self._product = np.empty(CHUNK)

    def add(self, tensors: Tensors, factor: float) -> None:
        """Add some tensors times a number; what is not finite stays so, without a warning."""
        with np.errstate(over="ignore", invalid="ignore"):
            for name, tensor in tensors.items():
                total = self._sums.get(name)
                if total is None:
                    total = self._sums[name] = np.zeros(tensor.size)
                numbers = flat(tensor)
                for span in spans(numbers.size):
                    product = self._product[: span.stop - span.start]
                    np.copyto(product, numbers[span])
                    np.multiply(product, factor, out=product)
                    np.add(total[span], product, out=total[span])

    def of(self, name: str, size: int) -> NDArray[np.float64]:
        """One tensor's sum in one dimension; zeros of this size if nothing was added."""
        found = self._sums.get(name)
        return np.zeros(size) if found is None else found
