"""The cohort: which clients take part in a round.

Each round gives every client of the experiment a rank, drawn from the seed, the round and the client's name
alone (:mod:`devicelab.seeds`). The cohort is the first ``size`` clients in that order that can take
part: simple random sampling without replacement. A phone that is away costs its own clients their places, and
the next in the order move up; nobody else's chance or order changes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fractions import Fraction

from devicelab.seeds import draw

__all__ = ["Sampling", "cohort_of", "ranked"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How many clients a round takes; exactly one of the two is given.

    Attributes:
        fraction: Of all the experiment's clients, in (0, 1]; rounded up, so that it is never none.
        number: So many, or all if there are fewer.
    """

    fraction: float | None = None
    number: int | None = None

    def __post_init__(self) -> None:
        if (self.fraction is None) == (self.number is None):
            raise ValueError("either a fraction or a number of clients")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise ValueError(f"a fraction of {self.fraction:g} of all clients makes no sense")
        if self.number is not None and self.number < 1:
            raise ValueError(f"{self.number} clients make no cohort")

    def size(self, clients: int) -> int:
        """How many of so many clients."""
        if self.number is not None:
            return min(self.number, clients)
        assert self.fraction is not None
        # The decimal that was written, not its nearest double: 0.1 of 50 clients are 5 and not 6.
        return math.ceil(Fraction(repr(self.fraction)) * clients)


def ranked(clients: Iterable[str], *, seed: int, round_number: int) -> list[str]:
    """All clients in the order in which this round would take them."""
    return sorted(clients, key=lambda client: (draw(seed, "cohort", round_number, client), client))


def cohort_of(
    clients: Collection[str], available: Collection[str], sampling: Sampling, *, seed: int, round_number: int
) -> list[str]:
    """The clients that take part.

    Args:
        clients: All of the experiment.
        available: Those whose data can be had now.
        sampling: How many.
        seed: The experiment's.
        round_number: From 1.

    Returns:
        At most ``sampling.size(len(clients))`` of the available ones, in the order of their ranks.
    """
    here = set(available)
    order = ranked(clients, seed=seed, round_number=round_number)
    return [client for client in order if client in here][: sampling.size(len(order))]
