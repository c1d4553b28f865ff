"""Every random choice of a run comes from the experiment's seed, by a hash that anybody can compute.

``draw(seed, purpose, …)`` is the first eight bytes, big-endian, of::

    SHA-256("devicelab/1" NUL purpose NUL seed NUL part NUL part …)

with every number written in decimal. So a choice depends on what it is for and on nothing else: neither on the
order in which choices are made nor on the phones that are there, and any language has the two functions that
it takes.
"""

from __future__ import annotations

import hashlib

__all__ = ["client_seed", "draw"]


def draw(seed: int, purpose: str, *parts: int | str) -> int:
    """A number in [0, 2^64) for one purpose.

    Args:
        seed: The experiment's.
        purpose: A word: two purposes never share numbers.
        parts: What tells this draw from others of its purpose.
    """
    words = ("devicelab/1", purpose, str(seed), *map(str, parts))
    if any("\0" in word for word in words):
        raise ValueError("a NUL character separates the parts, so none may hold one")
    digest = hashlib.sha256("\0".join(words).encode()).digest()
    return int.from_bytes(digest[:8], "big")


def client_seed(seed: int, round_number: int, client: str) -> int:
    """The seed of one client's training in one round, in [0, 2^63) as the runner wants it.

    The same on whatever phone the client is trained.
    """
    return draw(seed, "client", round_number, client) >> 1
