"""Histories: what somebody took up, in order of time, and how well what came next is foreseen.

To train on, an example is one item of the history and its place in it: ``item`` and ``position``, int64, so
that a batch that holds the whole shard is the whole history, and what a client counts for is how much it has
seen.

To evaluate on, an example is a history, filled up to a fixed length, and the item that came next:

=============  =================  ==========================================================================
``history``    int64 [length]     items in order of time; 0 from ``seen`` on
``length``     int64              how many of them are given as input
``seen``       int64              how many of them are known, so that they are no candidates for the next item
``target``     int64              the item that came next
``negatives``  int64 [negatives]  items to rank it among: some that the client never took up at all
``protocol``   int64              0 or 1, see below
=============  =================  ==========================================================================

The part ``validation`` holds one example: from the items to train on to the first item held out. The part
``held_out`` asks for the last item of all by two protocols, which must not be compared with each other: **A**
(0) gives the items to train on as input, **B** (1) the validation item as well. In both, the validation item is
no candidate.

A negative says of an item that the client did not take it up, held-out ones included; so negatives are for
evaluation only, and no shard to train on depends on anything that is held out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from devicelab.data.examples import Array, Part, Tensors, generator
from devicelab.errors import DataError

__all__ = ["PROTOCOL_A", "PROTOCOL_B", "HistoryView"]

PROTOCOL_A: Final = 0
PROTOCOL_B: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Query:
    """One evaluation example: which of the known items are given, and what came next."""

    given: int
    known: Array
    target: int
    negatives: Array
    protocol: int


@dataclass(frozen=True, slots=True)
class HistoryView:
    """Sees a client's rows as a history.

    Args:
        item: The item of every row, int64 (rows,), in [0, items).
        items: How many there are.
        length: Of ``history`` at evaluation.
        negatives: How many for one target.
        seed: The experiment's, to draw negatives with.
    """

    item: Array
    items: int
    length: int
    negatives: int
    seed: int

    def __call__(self, client: str, parts: Mapping[Part, Array]) -> Iterator[tuple[Part, Tensors]]:
        """The history to train on, and the queries of what is held out.

        Raises:
            DataError: The history is too long, or leaves too few items to draw negatives from.
        """
        items = {part: self.item[rows] for part, rows in parts.items()}
        train = items["train"]
        yield "train", {"item": train, "position": np.arange(len(train))}
        if "held_out" not in items:
            return
        for_validation, for_test = self._negatives(client, np.concatenate(list(items.values())))
        known = train
        if "validation" in items:
            (target,) = items["validation"]
            query = _Query(
                given=len(train),
                known=train,
                target=target,
                negatives=for_validation,
                protocol=PROTOCOL_A,
            )
            yield "validation", self._tensors(client, [query])
            known = np.append(train, target)
        (target,) = items["held_out"]
        yield (
            "held_out",
            self._tensors(
                client,
                [
                    _Query(given=given, known=known, target=target, negatives=for_test, protocol=protocol)
                    for given, protocol in ((len(train), PROTOCOL_A), (len(known), PROTOCOL_B))
                ],
            ),
        )

    def _negatives(self, client: str, touched: Array) -> tuple[Array, Array]:
        """For the validation item and for the last one, without an item in common."""
        pool = np.setdiff1d(np.arange(self.items), touched)
        if len(pool) < 2 * self.negatives:
            raise DataError(
                f"client {client} left {len(pool)} items alone, {2 * self.negatives} are needed as negatives",
                hint="set data.histories.negatives to fewer",
            )
        rng = generator(self.seed, "data/negatives", client)
        drawn = rng.choice(pool, 2 * self.negatives, replace=False)
        return drawn[: self.negatives], drawn[self.negatives :]

    def _tensors(self, client: str, queries: list[_Query]) -> Tensors:
        longest = max(len(query.known) for query in queries)
        if longest > self.length:
            raise DataError(
                f"client {client} has a history of {longest} items, and data.histories.length is {self.length}",
                hint=f"set it, and the plan's length, to {longest} or more",
            )
        history = np.zeros((len(queries), self.length), np.int64)
        for row, query in zip(history, queries, strict=True):
            row[: len(query.known)] = query.known
        return {
            "history": history,
            "length": np.array([query.given for query in queries]),
            "seen": np.array([len(query.known) for query in queries]),
            "target": np.array([query.target for query in queries]),
            "negatives": np.stack([query.negatives for query in queries]),
            "protocol": np.array([query.protocol for query in queries]),
        }
