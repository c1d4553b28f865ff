"""What goes into an average: one client's delta, or a device's weighted sum over several clients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from devicelab.aggregation.chunks import finite
from devicelab.errors import UpdateError

__all__ = [
    "ClientUpdate",
    "Layout",
    "PartialSum",
    "Rows",
    "Tensors",
    "check_finite",
    "check_layout",
    "layout_of",
]

Tensors = Mapping[str, NDArray[Any]]


class Spec(NamedTuple):
    """Element type (NumPy's name) and shape of a tensor."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


Layout = Mapping[str, Spec]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Which rows of a table a tensor holds; every other row of the table is as it was.

    Attributes:
        numbers: Their numbers in the table, int64, shape (rows of the tensor,), strictly ascending.
        of: How many rows the whole table has.

    Raises:
        ValueError: On construction: these are no rows of such a table, or they are not in order.
    """

    numbers: NDArray[np.int64]
    of: int

    def __post_init__(self) -> None:
        numbers = self.numbers
        if numbers.dtype != np.int64 or numbers.ndim != 1 or not numbers.size:
            raise ValueError(f"rows are a list of int64, not {numbers.dtype}{list(numbers.shape)}")
        if not (numbers[0] >= 0 and numbers[-1] < self.of and bool(np.all(numbers[1:] > numbers[:-1]))):
            raise ValueError(f"the rows are not ascending, or not in a table of {self.of}")


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
        rows: Of the tensors that are only some rows of a table: which.

    Raises:
        UpdateError: On construction: the weight is not a positive number, the examples are negative, there is
            no tensor, one is not of floating point, or one has not the rows that it is said to have.
    """

    delta: Tensors
    weight: float
    examples: int
    client: str
    device: str
    rows: Mapping[str, Rows] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self.delta, self.weight, self.examples, f"the update of client {self.client}", self.device)
        _check_rows(self.delta, self.rows, self.device)


@dataclass(frozen=True, slots=True, eq=False)
class PartialSum:
    """What several clients of one device learned, added up there (a job with ``combine: sum``).

    Attributes:
        total: Σ weight · delta by tensor name; floating-point tensors only. Held, not copied.
        weight: Σ weight, > 0.
        examples: Σ examples.
        clients: Whose deltas are in it.
        device: How the phone is called that it came from.
        rows: As with :class:`ClientUpdate`.

    Raises:
        UpdateError: On construction, as with :class:`ClientUpdate`; or there is no client in it, or one twice.
    """

    total: Tensors
    weight: float
    examples: int
    clients: tuple[str, ...]
    device: str
    rows: Mapping[str, Rows] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self.total, self.weight, self.examples, f"the sum over {len(self.clients)} clients", self.device)
        _check_rows(self.total, self.rows, self.device)
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


def _check_rows(tensors: Tensors, rows: Mapping[str, Rows], device: str) -> None:
    for name, which in rows.items():
        if name not in tensors or tensors[name].shape[:1] != which.numbers.shape:
            found = list(tensors[name].shape) if name in tensors else "missing"
            raise UpdateError(f"{name!r} is {found}, not {len(which.numbers)} rows of a table", device=device)


def layout_of(tensors: Tensors, rows: Mapping[str, Rows] | None = None) -> dict[str, Spec]:
    """Types and shapes, to compare others with; those of the whole table where there are only some rows."""
    return {name: _spec(tensor, (rows or {}).get(name)) for name, tensor in tensors.items()}


def _spec(tensor: NDArray[Any], rows: Rows | None) -> Spec:
    shape = tensor.shape if rows is None else (rows.of, *tensor.shape[1:])
    return Spec(str(tensor.dtype), shape)


def check_layout(
    tensors: Tensors, layout: Layout, *, device: str, rows: Mapping[str, Rows] | None = None
) -> None:
    """Make sure that exactly these tensors are there, with these types and shapes.

    Args:
        tensors: An update's.
        layout: What is expected.
        device: How the phone is called that they came from.
        rows: Of the tensors that are only some rows of a table: which. The layout has the whole table.

    Raises:
        UpdateError: They are not; names the first that differs.
    """
    for name, spec in layout.items():
        if name not in tensors:
            raise UpdateError(f"the update lacks {name!r}", device=device)
        found = _spec(tensors[name], (rows or {}).get(name))
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
