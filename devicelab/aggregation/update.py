"""What goes into an average: one client's delta, or a device's weighted sum over several clients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from devicelab.aggregation.chunks import finite
from devicelab.errors import UpdateError

__all__ = ["ClientUpdate", "Layout", "PartialSum", "Tensors", "check_finite", "check_layout", "layout_of"]

Tensors = Mapping[str, NDArray[Any]]


class Spec(NamedTuple):
    """Element type (NumPy's name) and shape of a tensor."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


Layout = Mapping[str, Spec]


@dataclass(frozen=True, slots=True, eq=False)
class ClientUpdate:
    """What one client learned.

    Attributes:
        delta: Trained − global by tensor name; floating-point tensors only. Held, not copied: it must not be
            written to as long as a rule may look at it.
        weight: How much it counts, > 0; usually the number of examples.
        examples: How many examples it was trained on.
        client: Whose it is.
        device: How the phone is called that it came from.

    Raises:
        UpdateError: On construction: the weight is not a positive number, the examples are negative, there is
        no
            tensor, or one is not of floating point.
    """

    delta: Tensors
    weight: float
    examples: int
    client: str
    device: str

    def __post_init__(self) -> None:
        _check(self.delta, self.weight, self.examples, f"the update of client {self.client}", self.device)


@dataclass(frozen=True, slots=True, eq=False)
class PartialSum:
    """What several clients of one device learned, added up there (a job with ``combine: sum``).

    Attributes:
        total: Σ weight · delta by tensor name; floating-point tensors only. Held, not copied.
        weight: Σ weight, > 0.
        examples: Σ examples.
        clients: Whose deltas are in it.
        device: How the phone is called that it came from.

    Raises:
        UpdateError: On construction, as with :class:`ClientUpdate`; or there is no client in it, or one twice.
    """

    total: Tensors
    weight: float
    examples: int
    clients: tuple[str, ...]
    device: str

    def __post_init__(self) -> None:
        _check(self.total, self.weight, self.examples, f"the sum over {len(self.clients)} clients", self.device)
        if not self.clients or len(set(self.clients)) != len(self.clients):
            raise UpdateError("the sum names no client, or one twice", device=self.device)


def _check(tensors: Tensors, weight: float, examples: int, what: str, device: str) -> None:
    if not (math.isfinite(weight) and weight > 0):
        raise UpdateError(f"{what} has the weight {weight}, not a positive number", device=device)
    if examples < 0:
        raise UpdateError(f"{what} is said to stand for {examples} examples", device=device)
    if not tensors:
        raise UpdateError(f"{what} holds no tensor", device=device)
    for name, tensor in tensors.items():
        if not np.issubdtype(tensor.dtype, np.floating):
            raise UpdateError(f"{what}: {name!r} is {tensor.dtype}, not of floating point", device=device)


def layout_of(tensors: Tensors) -> dict[str, Spec]:
    """Types and shapes, to compare others with."""
    return {name: Spec(str(tensor.dtype), tensor.shape) for name, tensor in tensors.items()}


def check_layout(tensors: Tensors, layout: Layout, *, device: str) -> None:
    """Make sure that exactly these tensors are there, with these types and shapes.

    Raises:
        UpdateError: They are not; names the first that differs.
    """
    for name, spec in layout.items():
        if name not in tensors:
            raise UpdateError(f"the update lacks {name!r}", device=device)
        found = Spec(str(tensors[name].dtype), tensors[name].shape)
        if found != spec:
            raise UpdateError(f"the update's {name!r} is {found}, not {spec}", device=device)
    for name in tensors:
        if name not in layout:
            raise UpdateError(f"the update holds {name!r:.200}, which is not asked for", device=device)


def check_finite(tensors: Tensors, *, device: str) -> None:
    """Make sure that no number is NaN or infinite.

    Raises:
        UpdateError: One is; names the tensor.
    """
    for name, tensor in tensors.items():
        if not finite(tensor):
            raise UpdateError(f"the update's {name!r} holds numbers that are not finite", device=device)
