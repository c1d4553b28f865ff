"""How long an update is, and what to do with one that is too long.

The norm is the L2 norm over all of an update's tensors together, as the runner computes it on a device.
Clipping to a norm bounds what one client can do to the model; it is a half of DP-FedAvg (McMahan et al. 2018,
"Learning differentially private recurrent language models") and a defence of its own (Sun et al. 2019, "Can you
really backdoor federated learning?").
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devicelab.aggregation.chunks import CHUNK, flat, spans
from devicelab.aggregation.update import ClientUpdate, Tensors
from devicelab.errors import ConfigError, UpdateError

__all__ = ["Clipped", "check_norm", "clip", "l2_norm", "shortened"]


def l2_norm(tensors: Tensors) -> float:
    """√Σx² over all tensors, in double precision; NaN or infinity if one of the numbers is."""
    squares: list[float] = []
    buffer = np.empty(CHUNK)
    for tensor in tensors.values():
        numbers = flat(tensor)
        for span in spans(numbers.size):
            part = buffer[: span.stop - span.start]
            np.copyto(part, numbers[span])
            with np.errstate(over="ignore", invalid="ignore"):
                np.multiply(part, part, out=part)
                # NumPy's pairwise sum, not BLAS, whose result depends on its number of threads
                squares.append(float(part.sum()))
    # fsum refuses to add both infinities, and there is only one here
    return math.sqrt(math.fsum(squares)) if all(map(math.isfinite, squares)) else math.fsum(squares)


@dataclass(frozen=True, slots=True, eq=False)
class Clipped:
    """An update after clipping.

    Attributes:
        update: At most as long as the bound; the very update that came in if it was short enough.
        norm: Its L2 norm before.
        clipped: Whether it was too long.
    """

    update: ClientUpdate
    norm: float
    clipped: bool


def clip(update: ClientUpdate, bound: float) -> Clipped:
    """Scale an update down to an L2 norm of ``bound`` if it is longer.

    Raises:
        ConfigError: The bound is not a positive number.
        UpdateError: The update's norm is not finite.
    """
    _check_bound(bound)
    norm = _finite_norm(update)
    if norm <= bound:
        return Clipped(update, norm, clipped=False)
    return Clipped(replace(update, delta=shortened(update.delta, bound / norm)), norm, clipped=True)


def shortened(tensors: Tensors, scale: float) -> dict[str, NDArray[Any]]:
    """Tensors times a number."""
    return {name: _scaled(tensor, scale) for name, tensor in tensors.items()}


def check_norm(update: ClientUpdate, bound: float) -> float:
    """The update's L2 norm, which must not be above ``bound``.

    Raises:
        ConfigError: The bound is not a positive number.
        UpdateError: The norm is above it, or not finite.
    """
    _check_bound(bound)
    norm = _finite_norm(update)
    if norm > bound:
        raise UpdateError(
            f"the update of client {update.client} has the norm {norm:.6g}, above the bound of {bound:g}",
            device=update.device,
        )
    return norm


def _scaled(tensor: NDArray[Any], scale: float) -> NDArray[Any]:
    # In double precision: a scale below the smallest float32 must not turn into zero before it is used.
    scaled: NDArray[Any] = np.multiply(tensor, scale, dtype=np.float64).astype(tensor.dtype)
    return scaled


def _finite_norm(update: ClientUpdate) -> float:
    norm = l2_norm(update.delta)
    if not math.isfinite(norm):
        raise UpdateError(
            f"the update of client {update.client} has a norm that is not finite", device=update.device
        )
    return norm


def _check_bound(bound: float) -> None:
    if not (math.isfinite(bound) and bound > 0):
        raise ConfigError(f"a norm cannot be bound to {bound}: the bound must be a positive number")
