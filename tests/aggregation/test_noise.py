from __future__ import annotations

import hashlib
import os

import numpy as np
import pytest
from scipy import stats

from devicelab.aggregation.noise import RandomBytes, standard_normal


def repeatable(seed: int) -> RandomBytes:
    """The same bytes whenever a test runs: SHAKE-128 of a counter."""
    drawn = 0

    def random(count: int) -> bytes:
        nonlocal drawn
        drawn += 1
        return hashlib.shake_128(f"{seed}/{drawn}".encode()).digest(count)

    return random


def test_the_numbers_are_normal() -> None:
    numbers = standard_normal(200_001, repeatable(1))
    assert numbers.shape == (200_001,)
    assert stats.kstest(numbers, "norm").pvalue > 0.001
    assert abs(numbers.mean()) < 5 / np.sqrt(numbers.size)
    assert abs(numbers.var() - 1) < 5 * np.sqrt(2 / numbers.size)
    assert abs(stats.kurtosis(numbers)) < 5 * np.sqrt(24 / numbers.size)


def test_neither_half_tells_of_the_other() -> None:
    first, second = standard_normal(200_000, repeatable(2)).reshape(2, -1)
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(first.size)
    assert abs(np.corrcoef(first**2, second**2)[0, 1]) < 5 / np.sqrt(first.size)


@pytest.mark.parametrize("byte", [b"\x00", b"\xff"])
def test_the_extremes_are_finite(byte: bytes) -> None:
    numbers = standard_normal(4, lambda count: byte * count)
    assert np.isfinite(numbers).all()
    assert np.abs(numbers).max() <= 9.5


def test_the_systems_bytes_never_repeat() -> None:
    assert not np.array_equal(standard_normal(8, os.urandom), standard_normal(8, os.urandom))
    assert standard_normal(0, os.urandom).size == 0
