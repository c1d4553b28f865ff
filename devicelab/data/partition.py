"""Who gets which examples. Pure functions from sizes, owners or labels to row numbers.

Every function but :func:`natural` gives every example to exactly one client. Rows are in ascending order, so
that a client's shard has the order of the source.

Chance may leave a client with fewer examples than it should have at least. Drawing again until it does not, as
NIID-Bench does (Li et al. 2022), may never end; here the clients that lack examples are given single ones,
chosen at random, by whoever has most at that time. It changes nothing where nobody lacks any.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from devicelab.data.examples import Array
from devicelab.errors import DataError

__all__ = ["dirichlet", "iid", "natural", "quantity"]

Rng = np.random.Generator


def natural(owners: Array, *, min_examples: int = 1) -> dict[int | str, Array]:
    """Everybody's own examples, in ascending order of the owners.

    Args:
        owners: Who each example belongs to: numbers or text, shape (examples,).
        min_examples: Owners with fewer are left out.

    Raises:
        DataError: Nobody has so many.
    """
    names, inverse = np.unique(owners, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    bounds = np.searchsorted(inverse[order], np.arange(1, len(names)))
    groups = np.split(order, bounds)
    found = {name.item(): rows for name, rows in zip(names, groups, strict=True) if len(rows) >= min_examples}
    if not found:
        raise DataError(f"none of {len(names)} owners has {min_examples} examples")
    return found


def iid(examples: int, clients: int, rng: Rng) -> list[Array]:
    """Equal shares at random; sizes differ by at most one.

    Raises:
        DataError: There are fewer examples than clients.
    """
    _check_enough(examples, clients, 1)
    return [np.sort(rows) for rows in np.array_split(rng.permutation(examples), clients)]


def dirichlet(labels: Array, clients: int, alpha: float, rng: Rng, *, min_examples: int = 1) -> list[Array]:
    """Label skew: the examples of each class are divided by proportions drawn from Dir(alpha, …, alpha).

    After Yurochkin et al. 2019 and Li et al. 2022. (Hsu et al. 2019 draw each client's mix of classes instead,
    for clients of one size.)

    Args:
        labels: Each example's class, shape (examples,).
        clients: How many clients there are.
        alpha: Small: few classes a client; large: nearly iid.
        rng: Where the proportions come from.
        min_examples: No client has fewer.

    Raises:
        DataError: There are too few examples.
    """
    _check_enough(len(labels), clients, min_examples)
    shares: list[list[Array]] = [[] for _ in range(clients)]
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        parts = np.split(rows, _bounds(_proportions(clients, alpha, rng), len(rows)))
        for share, part in zip(shares, parts, strict=True):
            share.append(part)
    return _levelled([np.concatenate(share) for share in shares], min_examples, rng)


def quantity(examples: int, clients: int, alpha: float, rng: Rng, *, min_examples: int = 1) -> list[Array]:
    """Size skew: the clients' sizes are drawn from Dir(alpha, …, alpha) (Li et al. 2022).

    Args:
        examples: How many there are.
        clients: How many clients there are.
        alpha: Small: a few clients own nearly all; large: equal shares.
        rng: Where the proportions come from.
        min_examples: No client has fewer.

    Raises:
        DataError: There are too few examples.
    """
    _check_enough(examples, clients, min_examples)
    rows = rng.permutation(examples)
    parts = np.split(rows, _bounds(_proportions(clients, alpha, rng), examples))
    return _levelled(parts, min_examples, rng)


def _check_enough(examples: int, clients: int, min_examples: int) -> None:
    if examples < clients * min_examples:
        each = "one" if min_examples == 1 else str(min_examples)
        raise DataError(f"{examples} examples are not enough for {clients} clients with {each} each")


def _proportions(clients: int, alpha: float, rng: Rng) -> Array:
    """A draw from a symmetric Dirichlet distribution, shape (clients,).

    By way of log-gamma variates (Gamma(a) = Gamma(a + 1) · U^(1/a), Marsaglia & Tsang 2000): for a small alpha
    NumPy's own draws round to zero, all of them, and the proportions to NaN.
    """
    logs = np.log(rng.standard_gamma(alpha + 1, clients)) + np.log1p(-rng.random(clients)) / alpha
    weights: Array = np.exp(logs - logs.max())
    weights /= weights.sum()
    return weights


def _bounds(proportions: Array, examples: int) -> Array:
    """Where to cut ``examples`` rows, so that each part is as long as its proportion says, rounded."""
    cuts: Array = np.rint(np.cumsum(proportions)[:-1] * examples).astype(np.int64)
    return np.clip(cuts, 0, examples)


def _levelled(parts: Sequence[Array], min_examples: int, rng: Rng) -> list[Array]:
    """Give those who lack examples single ones of whoever has most."""
    shares = [part.tolist() for part in parts]
    richest = [(-len(share), client) for client, share in enumerate(shares)]
    heapq.heapify(richest)
    for share in shares:
        while len(share) < min_examples:
            size, client = heapq.heappop(richest)
            donor = shares[client]
            if -size == len(donor) and donor is not share:
                share.append(donor.pop(int(rng.integers(len(donor)))))
            heapq.heappush(richest, (-len(donor), client))
    return [np.sort(np.array(share, dtype=np.int64)) for share in shares]
