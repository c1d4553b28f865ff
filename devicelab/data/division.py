"""From one dataset to many clients: what is tested on the host, who owns what, and what each holds out."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from devicelab.config.data import (
    DirichletPartition,
    HeldOut,
    HeldOutFraction,
    IidPartition,
    NaturalPartition,
    Source,
)
from devicelab.data import partition
from devicelab.data.examples import Array, Dataset, Part, Tensors, View, generator, take
from devicelab.errors import DataError

__all__ = ["Division", "client_id", "divide"]

_ID: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Division:
    """Which rows of a dataset go where.

    Attributes:
        tensors: All examples.
        clients: For each client, in order, the rows of its parts; a part without rows is not there.
        test: Examples for evaluation on the host, if there are any.
        view: How rows become what shards hold; None: they hold the rows.
    """

    tensors: Tensors
    clients: Mapping[str, Mapping[Part, Array]]
    test: Tensors | None
    view: View | None = None

    def shards(self) -> Iterator[tuple[str, Part, Tensors]]:
        """Every client's parts, one after the other, so that they need not all be in memory at once."""
        for client, parts in self.clients.items():
            if self.view is not None:
                yield from ((client, part, tensors) for part, tensors in self.view(client, parts))
                continue
            for part, rows in parts.items():
                yield client, part, take(self.tensors, rows)


def divide(dataset: Dataset, config: Source, *, seed: int) -> Division:
    """Set the host's test examples aside, divide the rest among clients, and let each hold some out.

    The same dataset, settings and seed give the same division.

    Raises:
        DataError: The data cannot be divided like that; says why.
    """
    kept, test_rows = _without_test(dataset.examples, config.test, seed)
    tests = [tensors for tensors in (dataset.test,) if tensors is not None]
    if len(test_rows):
        tests.append(take(dataset.tensors, test_rows))
    test = {name: np.concatenate([part[name] for part in tests]) for name in tests[0]} if tests else None
    clients: dict[str, Mapping[Part, Array]] = {}
    for owner, places in _owners(dataset, kept, config, seed):
        client = client_id(owner)
        if client in clients:
            raise DataError(f"two owners are called {client!r}")
        rows = kept[places]
        if dataset.times is not None:
            rows = rows[np.argsort(dataset.times[rows], kind="stable")]
        clients[client] = hold_out(rows, config.held_out, client, seed=seed)
    return Division(dataset.tensors, clients, test, dataset.view)


def client_id(owner: int | str) -> str:
    """A client's id made of whatever its owner is called: the name itself where it can be one.

    Ids are file names on phones: letters, digits, ``.``, ``_`` and ``-``, at most 64, no dot in front. Other
    names become ``x-`` and the beginning of their SHA-256.
    """
    text = str(owner)
    if _ID.fullmatch(text):
        return text
    return f"x-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:24]}"


def _without_test(examples: int, fraction: float, seed: int) -> tuple[Array, Array]:
    """The rows that clients get and those of the host's test set, both ascending."""
    number = round(fraction * examples)
    order = generator(seed, "data/test").permutation(examples)
    return np.sort(order[number:]), np.sort(order[:number])


def _owners(dataset: Dataset, kept: Array, config: Source, seed: int) -> Iterator[tuple[int | str, Array]]:
    """Owners and their places within ``kept``."""
    how = config.partition
    rng = generator(seed, "data/partition")
    if isinstance(how, NaturalPartition):
        if dataset.owners is None:
            raise DataError("nobody owns the examples, so there is no natural partition: give it a `key`")
        yield from partition.natural(dataset.owners[kept], min_examples=how.min_examples).items()
    elif isinstance(how, IidPartition):
        yield from enumerate(partition.iid(len(kept), how.clients, rng))
    elif isinstance(how, DirichletPartition):
        labels = _labels(dataset, how.label)[kept]
        shares = partition.dirichlet(labels, how.clients, how.alpha, rng, min_examples=how.min_examples)
        yield from enumerate(shares)
    else:
        shares = partition.quantity(len(kept), how.clients, how.alpha, rng, min_examples=how.min_examples)
        yield from enumerate(shares)


def _labels(dataset: Dataset, name: str) -> Array:
    if name not in dataset.tensors:
        known = ", ".join(dataset.tensors)
        raise DataError(f"data.partition.label: there is no tensor {name!r}, only {known}")
    labels = dataset.tensors[name]
    if labels.ndim != 1 or labels.dtype.kind not in "iub":
        raise DataError(
            f"data.partition.label: {name!r} is {labels.dtype}{list(labels.shape)}, not one class each"
        )
    return labels


def hold_out(rows: Array, how: HeldOut | None, client: str, *, seed: int) -> dict[Part, Array]:
    """Divide one client's rows into what it trains on, validates on and is evaluated on.

    Fractions are rounded to the nearest number that leaves a row to train on; the rows keep their order.

    Args:
        rows: In order of time, or of the source where there are no times.
        how: What to hold out.
        client: Whose rows they are; a part of the seed, so that clients do not depend on each other.
        seed: The experiment's.

    Raises:
        DataError: The client has too few rows.
    """
    if how is None:
        return {"train": rows}
    if isinstance(how, HeldOutFraction):
        number = min(round(how.fraction * len(rows)), len(rows) - 1)
        validation = min(round(how.validation * len(rows)), len(rows) - 1 - number)
        rows_in_order = generator(seed, "data/held-out", client).permutation(len(rows))
    else:
        number, validation = how.last, how.validation
        if len(rows) <= number + validation:
            raise DataError(
                f"client {client} has {len(rows)} examples, too few to hold {number + validation} out",
                hint=f"data.partition.min_examples: {number + validation + 1} leaves such clients out",
            )
        rows_in_order = np.arange(len(rows))[::-1]
    cuts = np.split(rows_in_order, [number, number + validation])
    parts: dict[Part, Array] = {
        "train": rows[np.sort(cuts[2])],
        "validation": rows[np.sort(cuts[1])],
        "held_out": rows[np.sort(cuts[0])],
    }
    return {part: chosen for part, chosen in parts.items() if len(chosen)}
