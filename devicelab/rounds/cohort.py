"""The cohort: which clients take part in a round.

Each round gives every client of the experiment a rank, drawn from the seed, the round and the client's name
alone (:mod:`devicelab.seeds`). The cohort is the first ``size`` clients in that order that can take
part: simple random sampling without replacement. A phone that is away costs its own clients their places, and
the next in the order move up; nobody else's chance or order changes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from devicelab.seeds import draw

__all__ = ["cohort_of", "ranked"]


def ranked(clients: Iterable[str], *, seed: int, round_number: int) -> list[str]:
    """All clients in the order in which this round would take them."""
    return sorted(clients, key=lambda client: (draw(seed, "cohort", round_number, client), client))


def cohort_of(
    clients: Collection[str], available: Collection[str], size: int, *, seed: int, round_number: int
) -> list[str]:
    """The clients that take part.

    Args:
        clients: All of the experiment.
        available: Those whose data can be had now.
        size: How many.
        seed: The experiment's.
        round_number: From 1.

    Returns:
        At most ``size`` of the available ones, in the order of their ranks.
    """
    here = set(available)
    order = ranked(clients, seed=seed, round_number=round_number)
    return [client for client in order if client in here][:size]
