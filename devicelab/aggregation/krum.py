"""Krum and Multi-Krum: the updates that are closest to the others (Blanchard et al. 2017).

"Machine learning with adversaries: Byzantine tolerant gradient descent". An update's score is the sum of its
squared distances to its n − f − 2 nearest neighbours among the n updates, f of which may be Byzantine; the
lowest is best.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from devicelab.aggregation.chunks import CHUNK, flat, spans
from devicelab.aggregation.rule import KeepingRule
from devicelab.aggregation.update import Tensors
from devicelab.errors import ConfigError

__all__ = ["Krum", "squared_distances"]

_BLOCK: Final = 1 << 20  # numbers of all clients together that are multiplied at a time


class Krum(KeepingRule):
    """The plain mean of the updates with the best scores; equal scores go by the clients' names.

    Args:
        byzantine: f, how many of the clients may be faulty or hostile; a round needs 2f + 3 updates at least.
        keep: How many updates are averaged. One is Krum: that update as it is. More are Multi-Krum.

    Raises:
        ConfigError: ``byzantine`` is negative, or ``keep`` below one.
    """

    name: ClassVar[str] = "krum"

    def __init__(self, *, byzantine: int = 1, keep: int = 1) -> None:
        super().__init__()
        if byzantine < 0:
            raise ConfigError(f"krum: byzantine must not be negative, it is {byzantine}")
        if keep < 1:
            raise ConfigError(f"krum: keep must be at least 1, not {keep}")
        self._byzantine = byzantine
        self._keep = keep

    @property
    def minimum(self) -> int:
        """2f + 3, or as many as are to be kept."""
        return max(2 * self._byzantine + 3, self._keep)

    def combine(self, deltas: list[Tensors]) -> dict[str, NDArray[Any]]:
        """The mean of the best."""
        distances = squared_distances(deltas)
        neighbours = len(deltas) - self._byzantine - 2
        # The nearest of all is the update itself, at distance zero: it adds nothing.
        scores = np.sort(distances, axis=1)[:, : neighbours + 1].sum(axis=1)
        best = sorted(np.argsort(scores, kind="stable")[: self._keep].tolist())
        return _mean([deltas[place] for place in best])


def squared_distances(deltas: list[Tensors]) -> NDArray[np.float64]:
    """‖a − b‖² for every two updates, over all of their tensors: (updates, updates), zero on the diagonal.

    By ‖a‖² + ‖b‖² − 2a·b, a matrix product instead of n² passes. That loses small differences between large
    numbers, so the updates' coordinate-wise median is subtracted first. (Their mean would not do: one update
    that is large enough moves it so far that rounding hides what tells the others from each other, and with
    them the next attacker.)
    """
    count = len(deltas)
    gram = np.zeros((count, count))
    step = max(1, min(CHUNK, _BLOCK // count))
    block = np.empty((count, step))
    with np.errstate(over="ignore", invalid="ignore"):
        for name, tensor in deltas[0].items():
            rows = [flat(delta[name]) for delta in deltas]
            for span in spans(tensor.size, step):
                values = block[:, : span.stop - span.start]
                for place, row in enumerate(rows):
                    values[place] = row[span]
                values -= np.sort(values, axis=0)[count // 2]
                gram += values @ values.T
        norms = np.diagonal(gram)
        distances = np.maximum(norms[:, None] + norms[None, :] - 2 * gram, 0.0)
    np.fill_diagonal(distances, 0.0)
    # infinity − infinity: too far away to say
    return np.where(np.isnan(distances), np.inf, distances)


def _mean(deltas: list[Tensors]) -> dict[str, NDArray[Any]]:
    mean = {}
    for name, first in deltas[0].items():
        total = first.astype(np.float64)
        for delta in deltas[1:]:
            total += delta[name]
        total /= len(deltas)
        mean[name] = total.astype(first.dtype)
    return mean
