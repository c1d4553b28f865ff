"""DP-FedAvg: the mean of clipped deltas with Gaussian noise, private user by user.

McMahan, Ramage, Talwar & Zhang 2018, "Learning differentially private recurrent language models", with their
estimator of the fixed denominator. Each client's delta is at most C long and its weight is one, so a client
that is there or not moves the sum by C at most. N(0, (z·C)²) is added to every number of the sum, and what
comes out is divided by the number of clients that were expected, never by how many came: that number would be
a second thing to hide. What follows (server optimizer, model, checkpoints) is computed from it and needs no
more noise.

**Numbers of finite precision.** A Gaussian added to a number in floating point leaves gaps that can give the
number away (Mironov 2012 for Laplace noise; Jin et al. 2022, "Are we there yet?", for Gaussian), and sums in
floating point move by more than their terms (Casacuberta et al. 2022). Here

- the sum and the noise are both rounded to one grid, 2⁻³⁶ of the noise's standard deviation, and added there as
  whole numbers. Each point of it is hit by very many of the 2¹²⁸ pairs of uniform numbers, so that there are no
  gaps, and the place of the sum between two points is gone;
- the noise is larger by a thousandth than z·C asks for. That covers what rounding adds to a client's share: to
  the clipped delta on the phone and the phone's sum in float32, to what the host accepts (a ten-thousandth),
  and to the grid.

Logarithm, root, sine and cosine are the C library's, a unit in the last place or two from the truth; nothing is
proven of that.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from devicelab.aggregation.chunks import flat, spans
from devicelab.aggregation.fedavg import FedAvg
from devicelab.aggregation.noise import RandomBytes, standard_normal
from devicelab.aggregation.norms import l2_norm, shortened
from devicelab.aggregation.rule import finite_result
from devicelab.aggregation.update import ClientUpdate, Layout, PartialSum, Tensors
from devicelab.errors import ConfigError, UpdateError

__all__ = ["PrivateMean"]

_SLACK: Final = 1e-3  # relative: what rounding may add to a client's share
_GRID: Final = 2.0**-36  # of the noise's standard deviation
_WEIGHT_ROUNDING: Final = 1e-9  # relative; weights come as numbers in JSON


class PrivateMean(FedAvg):
    """One round's aggregation, noise included: made, fed, asked once.

    The bound holds whatever comes in: a client's delta that is too long is shortened to C, a sum over k clients
    to k·C. Within a sum only the phone can bound each client, so a phone is trusted with the privacy of its own
    clients, whose data it has, and of nobody else's.

    Args:
        layout: The tensors of a delta. The result has them even if nobody sent one.
        clip_norm: C, > 0.
        noise_multiplier: z, > 0.
        expected: How many clients a round has on the average, > 0.
        random: Where the noise comes from; ``os.urandom`` for whatever leaves this process.

    Raises:
        ConfigError: A number is not positive, or there is no tensor.
    """

    def __init__(
        self, layout: Layout, *, clip_norm: float, noise_multiplier: float, expected: float, random: RandomBytes
    ) -> None:
        for what, number in (("clip norm", clip_norm), ("noise", noise_multiplier), ("cohort", expected)):
            if not (math.isfinite(number) and number > 0):
                raise ConfigError(f"privacy: the {what} must be a positive number, not {number}")
        if not layout:
            raise ConfigError("privacy: there is no tensor to average")
        super().__init__()
        self._layout = self._admission.layout = layout
        self._clip = clip_norm
        self._deviation = noise_multiplier * clip_norm * (1 + _SLACK)
        self._expected = expected
        self._random = random

    @property
    def minimum(self) -> int:
        """None at all: whether anybody came must not show."""
        return 0

    def add(self, update: ClientUpdate) -> None:
        """Add one client's update, shortened to C; see :meth:`~devicelab.aggregation.rule.Rule.add`.

        Raises:
            UpdateError: As there; also a weight that is not one, or a number that is not finite.
        """
        super().add(replace(update, delta=self._bounded(update.delta, update.weight, 1, update.device)))

    def add_sum(self, part: PartialSum) -> None:
        """Add a device's sum over k clients, shortened to k·C; see :meth:`add`."""
        total = self._bounded(part.total, part.weight, len(part.clients), part.device)
        super().add_sum(replace(part, total=total))

    def _bounded(self, tensors: Tensors, weight: float, clients: int, device: str) -> Tensors:
        if not math.isclose(weight, clients, rel_tol=_WEIGHT_ROUNDING):
            raise UpdateError(
                f"{clients} clients weigh {weight:g}; with privacy each counts one", device=device
            )
        norm, bound = l2_norm(tensors), clients * self._clip
        if not math.isfinite(norm):
            raise UpdateError("the update's norm is not finite", device=device)
        return tensors if norm <= bound else shortened(tensors, bound / norm)

    def result(self) -> dict[str, NDArray[Any]]:
        """The noisy sum over the expected number of clients. To be asked once: again is another noise.

        Raises:
            RoundError: It is too large for the tensors' type.
        """
        grid = 2.0 ** math.floor(math.log2(self._deviation)) * _GRID
        mean = {name: np.empty(spec.shape, spec.dtype) for name, spec in self._layout.items()}
        with np.errstate(over="ignore"):  # the result is looked at
            for name, tensor in mean.items():
                numbers, total = flat(tensor), self._sums.get(name, np.zeros(tensor.size))
                for span in spans(numbers.size):
                    noise = standard_normal(span.stop - span.start, self._random)
                    points = np.rint(total[span] / grid) + np.rint(noise * (self._deviation / grid))
                    numbers[span] = points * (grid / self._expected)
        return finite_result(mean)
