"""Median and trimmed mean, number by number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devicelab.aggregation.coordinates import Median, TrimmedMean
from devicelab.aggregation.rule import Rule
from devicelab.aggregation.update import ClientUpdate, Rows, Tensors
from devicelab.errors import ConfigError, RoundError, UpdateError
from tests.aggregation.updates import of, partial, random_updates, same, some_updates, update

RULES: list[Callable[[], Rule]] = [Median, TrimmedMean, lambda: TrimmedMean(fraction=0.0)]


def result_of(rule: Rule, updates: list[ClientUpdate]) -> Tensors:
    for each in updates:
        rule.add(each)
    return rule.result()


def test_the_median_is_the_middle_or_the_mean_of_the_two_there() -> None:
    three = [update("a", [1, 9]), update("b", [2, 7]), update("c", [60, 8])]
    assert result_of(Median(), three)["w"].tolist() == [2, 8]
    assert result_of(Median(), [*three, update("d", [4, -1e9])])["w"].tolist() == [3, 7.5]


def test_the_median_is_numpys_on_large_tensors() -> None:
    updates = random_updates(11, size=200_000)
    found = result_of(Median(), updates)
    for name in found:
        assert np.array_equal(found[name], np.median(np.stack([u.delta[name] for u in updates]), axis=0))


def test_the_trimmed_mean_leaves_out_the_ends() -> None:
    updates = [update(str(n), [value]) for n, value in enumerate([-1e9, 1, 2, 3, 1e9])]
    assert result_of(TrimmedMean(fraction=0.2), updates)["w"].tolist() == [2]
    assert result_of(TrimmedMean(fraction=0.49), updates)["w"].tolist() == [2]
    assert result_of(TrimmedMean(fraction=0.19), updates)["w"].tolist() == [np.float32(1.2)]


@pytest.mark.parametrize(
    ("fraction", "clients", "cut"), [(0.1, 30, 3), (0.29, 100, 29), (0.1, 9, 0), (0.45, 20, 9)]
)
def test_the_share_is_cut_as_written(fraction: float, clients: int, cut: int) -> None:
    updates = [update(f"{n:03}", [2.0**n if n < 40 else 2.0**40]) for n in range(clients)]
    kept = sorted(float(u.delta["w"][0]) for u in updates)[cut : clients - cut]
    found = float(result_of(TrimmedMean(fraction=fraction), updates)["w"][0])
    assert found == pytest.approx(float(np.mean(kept)), rel=1e-6)


@pytest.mark.parametrize("fraction", [-0.1, 0.5, 1.0, float("nan")])
def test_a_share_that_leaves_nothing_is_refused(fraction: float) -> None:
    with pytest.raises(ConfigError, match="fraction"):
        TrimmedMean(fraction=fraction)


@pytest.mark.parametrize("make", RULES)
@given(updates=some_updates(), random=st.randoms())
def test_the_order_of_arrival_does_not_show(
    make: Callable[[], Rule], updates: list[ClientUpdate], random: Random
) -> None:
    shuffled = list(updates)
    random.shuffle(shuffled)
    assert same(result_of(make(), updates), result_of(make(), shuffled))


@pytest.mark.parametrize("make", RULES)
@given(updates=some_updates())
def test_every_number_lies_among_what_the_clients_sent(
    make: Callable[[], Rule], updates: list[ClientUpdate]
) -> None:
    found = result_of(make(), updates)
    for name in found:
        values = np.stack([u.delta[name] for u in updates])
        assert np.all(found[name] >= values.min(axis=0))
        assert np.all(found[name] <= values.max(axis=0))


@given(some_updates(3), st.floats(-(2.0**100), 2.0**100, width=32))
def test_a_minority_cannot_move_the_median_out_of_the_others(updates: list[ClientUpdate], lie: float) -> None:
    liars = (len(updates) - 1) // 2
    honest = updates[liars:]
    attack = [of(u.client, {n: np.full_like(t, lie) for n, t in u.delta.items()}) for u in updates[:liars]]
    found = result_of(Median(), attack + honest)
    for name in found:
        values = np.stack([u.delta[name] for u in honest])
        assert np.all(found[name] >= values.min(axis=0))
        assert np.all(found[name] <= values.max(axis=0))


@pytest.mark.parametrize("make", RULES)
def test_weights_do_not_count(make: Callable[[], Rule]) -> None:
    updates = random_updates(9)
    unweighted = [of(u.client, u.delta) for u in updates]
    assert same(result_of(make(), updates), result_of(make(), unweighted))


@pytest.mark.parametrize("make", RULES)
def test_sums_nonsense_and_emptiness_are_refused(make: Callable[[], Rule]) -> None:
    rule = make()
    assert rule.needs_each
    assert not rule.streaming
    with pytest.raises(RoundError, match="at least 1 update"):
        rule.result()
    with pytest.raises(ConfigError, match="phone sent a sum of 2") as caught:
        rule.add_sum(partial([update("a", [1]), update("b", [1])]))
    assert "combine: each" in str(caught.value.hint)
    rule.add(update("a", [1]))
    for odd, words in [
        (update("a", [2]), "counted already"),
        (update("b", [1, 2]), "'w' is"),
        (update("b", [np.nan]), "not finite"),
    ]:
        with pytest.raises(UpdateError, match=words):
            rule.add(odd)
    assert rule.result()["w"].tolist() == [1]


@pytest.mark.parametrize("make", RULES)
def test_some_rows_of_a_table_are_refused(make: Callable[[], Rule]) -> None:
    some = replace(update("a", [[1, 2]]), rows={"w": Rows(np.array([1]), 4)})
    with pytest.raises(ConfigError, match="client a sent some of the rows") as caught:
        make().add(some)
    assert "round.subtables" in str(caught.value.hint)
