from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devicelab.data.examples import Array, generator
from devicelab.data.partition import dirichlet, iid, natural, quantity
from devicelab.errors import DataError

_SEEDS = st.integers(0, 2**63 - 1)
_ALPHAS = st.sampled_from([1e-6, 1e-3, 0.05, 0.5, 5.0, 1e4])


def _once_each(parts: Sequence[Array], examples: int) -> bool:
    return sorted(np.concatenate(parts).tolist()) == list(range(examples))


def _ascending(parts: Sequence[Array]) -> bool:
    return all((np.diff(part) > 0).all() for part in parts)


@given(st.integers(1, 30), st.integers(0, 300), st.integers(0, 2**63 - 1))
def test_iid_shares_are_equal_and_complete(clients: int, more: int, seed: int) -> None:
    examples = clients + more
    parts = iid(examples, clients, generator(seed, "test"))
    assert len(parts) == clients
    assert _once_each(parts, examples)
    assert _ascending(parts)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(
    st.integers(1, 20), st.integers(1, 4), st.integers(0, 300), _ALPHAS, st.tuples(_SEEDS, st.integers(1, 12))
)
def test_dirichlet_gives_every_example_once_and_nobody_too_few(
    clients: int, least: int, more: int, alpha: float, draw: tuple[int, int]
) -> None:
    examples = clients * least + more
    seed, classes = draw
    labels = generator(seed, "labels").integers(classes, size=examples)
    parts = dirichlet(labels, clients, alpha, generator(seed, "test"), min_examples=least)
    assert len(parts) == clients
    assert _once_each(parts, examples)
    assert _ascending(parts)
    assert min(map(len, parts)) >= least


@given(st.integers(1, 20), st.integers(1, 4), st.integers(0, 300), _ALPHAS, _SEEDS)
def test_quantity_gives_every_example_once_and_nobody_too_few(
    clients: int, least: int, more: int, alpha: float, seed: int
) -> None:
    examples = clients * least + more
    parts = quantity(examples, clients, alpha, generator(seed, "test"), min_examples=least)
    assert len(parts) == clients
    assert _once_each(parts, examples)
    assert _ascending(parts)
    assert min(map(len, parts)) >= least


@given(st.lists(st.integers(-5, 5) | st.integers(), min_size=1, max_size=60))
def test_natural_owners_own_what_is_theirs(owners: list[int]) -> None:
    array = np.array([owner % 2**40 for owner in owners])
    parts = natural(array)
    assert list(parts) == sorted(set(array.tolist()))
    assert _once_each(list(parts.values()), len(owners))
    for owner, rows in parts.items():
        assert (array[rows] == owner).all()
        assert (np.diff(rows) > 0).all()


def test_natural_owners_may_be_words_and_those_with_little_are_left_out() -> None:
    parts = natural(np.array(["bo", "ann", "bo", "cy", "ann"]), min_examples=2)
    assert {owner: rows.tolist() for owner, rows in parts.items()} == {"ann": [1, 4], "bo": [0, 2]}
    with pytest.raises(DataError, match="none of 3 owners has 3 examples"):
        natural(np.array(["a", "b", "c"]), min_examples=3)


def test_the_same_seed_gives_the_same_shares_and_another_does_not() -> None:
    labels = np.arange(500) % 10

    def parts(seed: int) -> list[list[int]]:
        return [part.tolist() for part in dirichlet(labels, 8, 0.5, generator(seed, "x"))]

    assert parts(3) == parts(3)
    assert parts(3) != parts(4)


def _skew(alpha: float) -> float:
    """How far a client's classes are from those of all, as total variation, on average over clients."""
    labels = np.arange(4000) % 10
    parts = dirichlet(labels, 20, alpha, generator(1, "x"))
    mixes = [np.bincount(labels[part], minlength=10) / len(part) for part in parts]
    return float(np.mean([np.abs(mix - 0.1).sum() / 2 for mix in mixes]))


def test_a_small_alpha_means_few_classes_and_a_large_one_nearly_iid() -> None:
    assert _skew(0.01) > 0.7
    assert 0.2 < _skew(0.5) < 0.7
    assert _skew(1000) < 0.05


def test_dirichlet_sizes_follow_the_distribution() -> None:
    # The share of one of n clients has the variance (n - 1) / (n^2 (n alpha + 1)).
    clients, alpha = 5, 0.7
    rng = generator(1, "x")
    shares = [len(part) / 2000 for _ in range(400) for part in quantity(2000, clients, alpha, rng)]
    variance = (clients - 1) / (clients**2 * (clients * alpha + 1))
    assert np.mean(shares) == pytest.approx(1 / clients, rel=1e-9)
    assert np.var(shares) == pytest.approx(variance, rel=0.15)


@pytest.mark.parametrize("make", [lambda r: iid(3, 4, r), lambda r: quantity(7, 4, 1.0, r, min_examples=2)])
def test_too_few_examples_are_refused(make: object) -> None:
    assert callable(make)
    with pytest.raises(DataError, match="examples are not enough for 4 clients"):
        make(generator(0, "x"))
