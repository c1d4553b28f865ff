"""The weighted mean of the updates: FedAvg."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from devicelab.aggregation.chunks import CHUNK, flat, spans
from devicelab.aggregation.rule import Admission, finite_result
from devicelab.aggregation.update import ClientUpdate, PartialSum, Tensors
from devicelab.errors import RoundError

__all__ = ["FedAvg"]


class FedAvg:
    """Σ weight · delta / Σ weight (McMahan et al. 2017, "Communication-efficient learning of deep networks …").

    The sum is kept in double precision: the memory of two models of float32, however many updates there are. An
    update is let go of as soon as it is added.

    The product of a float32 with a whole weight below 2^29 is exact in double precision, and a thousand
    additions lose less than a millionth of what the one rounding to float32 at the end does. So the order of
    arrival all but never shows, but "all but" is not never: who wants the same bytes again adds in the same
    order.
    """

    name: ClassVar[str] = "fedavg"
    needs_each: ClassVar[bool] = False
    streaming: ClassVar[bool] = True

    def __init__(self) -> None:
        self._admission = Admission()
        self._sums: dict[str, NDArray[np.float64]] = {}
        self._product = np.empty(CHUNK)
        self._weight = 0.0

    @property
    def minimum(self) -> int:
        """One update makes a mean."""
        return 1

    def add(self, update: ClientUpdate) -> None:
        """Add one client's update; see :meth:`~devicelab.aggregation.rule.Rule.add`."""
        self._admission.check(update.delta, (update.client,), update.device)
        self._add(update.delta, update.weight)
        self._weight += update.weight

    def add_sum(self, part: PartialSum) -> None:
        """Add a device's sum; see :meth:`~devicelab.aggregation.rule.Rule.add_sum`."""
        self._admission.check(part.total, part.clients, part.device)
        self._add(part.total, 1.0)
        self._weight += part.weight

    def _add(self, tensors: Tensors, factor: float) -> None:
        with np.errstate(over="ignore", invalid="ignore"):  # the result is looked at
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

    def result(self) -> dict[str, NDArray[Any]]:
        """The weighted mean; see :meth:`~devicelab.aggregation.rule.Rule.result`."""
        layout = self._admission.layout
        if layout is None:
            raise RoundError("there is no update to average", hint="see why no client finished")
        mean = {name: np.empty(spec.shape, spec.dtype) for name, spec in layout.items()}
        with np.errstate(over="ignore", invalid="ignore"):
            for name, tensor in mean.items():
                numbers, total = flat(tensor), self._sums[name]
                for span in spans(numbers.size):
                    quotient = self._product[: span.stop - span.start]
                    np.divide(total[span], self._weight, out=quotient)
                    numbers[span] = quotient
        return finite_result(mean)
