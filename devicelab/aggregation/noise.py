"""Gaussian noise from random bytes that nobody can guess.

NumPy's generators are made for simulations: from a few of their numbers all others can be computed. Here every
number comes from bytes that the caller hands in; for privacy they are the operating system's own
(``os.urandom``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["RandomBytes", "standard_normal"]

RandomBytes = Callable[[int], bytes]
"""So many bytes, unpredictable and never the same again: ``os.urandom``."""

_STEP: Final = 2.0**-64


def standard_normal(count: int, random: RandomBytes) -> NDArray[np.float64]:
    """Independent numbers of the standard normal distribution (Box & Muller 1958).

    Uniform numbers have 64 bits, so the tails end at 9.4 standard deviations; what is beyond has a probability
    of 10⁻²⁰ for each number, which changes no δ that anybody would ask for.

    Args:
        count: How many.
        random: Where 8 bytes for each of them come from, 8 more if they are odd in number.
    """
    pairs = (count + 1) // 2
    words = np.frombuffer(random(16 * pairs), "<u8").astype(np.float64).reshape(2, pairs)
    radius = np.sqrt(-2.0 * np.log((words[0] + 1.0) * _STEP))  # of (0, 1]: never the log of nothing
    angle = words[1] * (2.0 * np.pi * _STEP)
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
