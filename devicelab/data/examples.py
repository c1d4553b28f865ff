"""Examples as named NumPy arrays, and what must be true of them before anything else is done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import numpy as np

from devicelab.errors import DataError

__all__ = [
    "DTYPES",
    "PARTS",
    "Array",
    "Dataset",
    "Part",
    "Tensors",
    "View",
    "check_alike",
    "checked",
    "count",
    "generator",
    "take",
]

Array = np.ndarray[Any, Any]
Tensors = Mapping[str, Array]
"""Arrays by the name of the plan's data input; the first dimension of each is the examples."""

Part = Literal["train", "validation", "held_out"]
PARTS: Final[tuple[Part, ...]] = ("train", "validation", "held_out")

DTYPES: Final = ("float32", "float64", "int64", "int32", "bool")
_MAX_RANK: Final = 8
_MAX_NAME: Final = 1000


class View(Protocol):
    """How a client's rows become what its shards hold, where that is more than the rows themselves."""

    def __call__(self, client: str, parts: Mapping[Part, Array]) -> Iterable[tuple[Part, Tensors]]:
        """The tensors of each part, ``train`` first; the other parts hold tensors of their own.

        What ``train`` holds must depend on the client's rows of that part alone.

        Args:
            client: Its id.
            parts: The rows of each part, in order of time.

        Raises:
            DataError: The rows cannot be seen like that.
        """


@dataclass(frozen=True, slots=True)
class Dataset:
    """What a source yields.

    Attributes:
        tensors: All examples.
        owners: Who each example belongs to (numbers or text), shape (examples,); None if nobody.
        times: When each example came about, shape (examples,); None if that is not known.
        test: Further examples, for evaluation on the host.
        view: How rows become what shards hold; None: they hold the rows.
    """

    tensors: Tensors
    owners: Array | None = None
    times: Array | None = None
    test: Tensors | None = None
    view: View | None = None

    @property
    def examples(self) -> int:
        """How many there are, the test's not counted."""
        return count(self.tensors)


def count(tensors: Tensors) -> int:
    """How many examples there are."""
    return len(next(iter(tensors.values())))


def take(tensors: Tensors, rows: Array) -> dict[str, Array]:
    """Copies of some examples, in the order of ``rows``."""
    return {name: np.ascontiguousarray(array[rows]) for name, array in tensors.items()}


def checked(tensors: Tensors, what: str) -> dict[str, Array]:
    """The tensors, once they can become shards.

    Args:
        tensors: What a source made.
        what: What it is made of, for messages: a path, "the digits".

    Raises:
        DataError: There are none, they are ragged or empty, or hold NaN, infinities or a type no plan takes.
    """
    if not tensors:
        raise DataError(f"{what}: there are no tensors")
    for name, array in tensors.items():
        if not 0 < len(name) <= _MAX_NAME or name == "__metadata__" or not name.isprintable():
            raise DataError(f"{what}: {name!r:.80} cannot be a tensor's name")
        if array.dtype.name not in DTYPES:
            raise DataError(
                f"{what}: {name!r} holds {array.dtype}, plans take {', '.join(DTYPES)}",
                hint="give it a `dtype`" if array.dtype.kind in "iufb" else None,
            )
        if not 1 <= array.ndim <= _MAX_RANK:
            raise DataError(f"{what}: {name!r} has {array.ndim} dimensions, not 1 to {_MAX_RANK}")
    lengths = {name: len(array) for name, array in tensors.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DataError(f"{what}: the tensors hold different numbers of examples: {listed}")
    if 0 in lengths.values():
        raise DataError(f"{what}: there are no examples")
    for name, array in tensors.items():
        if array.size == 0:
            raise DataError(f"{what}: {name!r} has the empty shape {list(array.shape)}")
        _check_finite(name, array, what)
    return dict(tensors)


def _check_finite(name: str, array: Array, what: str) -> None:
    if array.dtype.kind != "f":
        return
    bad = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"{what}: {name!r} is NaN or infinite in {int(bad.sum())} of {len(array)} examples, first in "
            f"number {first} (from 0)"
        )


def check_alike(first: Tensors, second: Tensors, what: str) -> None:
    """Whether two sets of tensors can be fed to the same plan.

    Raises:
        DataError: They differ in names, types or shapes.
    """

    def kinds(tensors: Tensors) -> dict[str, tuple[str, tuple[int, ...]]]:
        return {name: (array.dtype.name, array.shape[1:]) for name, array in tensors.items()}

    if kinds(first) != kinds(second):
        raise DataError(f"{what}: the test set has other tensors: {_listed(second)} and not {_listed(first)}")


def _listed(tensors: Tensors) -> str:
    return ", ".join(f"{n} {a.dtype}{list(a.shape[1:])}" for n, a in sorted(tensors.items()))


def generator(seed: int, purpose: str, *parts: int | str) -> np.random.Generator:
    """Chance for one purpose, the same for the same experiment; see :func:`devicelab.seeds.draw`.

    NumPy may change its distributions in a later release (NEP 19), and with them the division of the data:
    shards are known by their content, so that is noticed.
    """
    from devicelab.seeds import draw  # noqa: PLC0415

    return np.random.Generator(np.random.Philox(key=draw(seed, purpose, *parts)))
