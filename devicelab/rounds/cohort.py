"""The cohort: which clients take part in a round.

Each round gives every client of the experiment a rank, drawn from the seed, the round and the client's name
alone (:mod:`devicelab.seeds`). The cohort is the first ``size`` clients in that order that can take
part: simple random sampling without replacement. A phone that is away costs its own clients their places, and
the next in the order move up; nobody else's chance or order changes.

Private rounds draw otherwise (:mod:`devicelab.rounds.privacy`): each client by itself with the same
probability, Poisson sampling, from a secret in place of the seed, and whether it is there or not.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Iterable
from fractions import Fraction

from devicelab.seeds import draw

__all__ = ["cohort_of", "drawn", "ranked"]


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


def drawn(clients: Iterable[str], probability: float, *, secret: bytes, round_number: int) -> list[str]:
    """Each client with a probability, whoever else is drawn: the first eight bytes of HMAC-SHA-256 decide.

    Args:
        clients: All of the experiment.
        probability: In (0, 1]; the decimal that was written, not its nearest double.
        secret: Whoever knows it knows the cohorts of all rounds.
        round_number: From 1.

    Returns:
        Those that are drawn, by name; there may be none.
    """
    below = Fraction(repr(probability)) * 2**64

    def number(client: str) -> int:
        message = f"devicelab/1\0cohort\0{round_number}\0{client}".encode()
        return int.from_bytes(hmac.digest(secret, message, hashlib.sha256)[:8], "big")

    return sorted(client for client in clients if number(client) < below)
