"""Krum: who is closest to the others."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devicelab.aggregation.krum import Krum, squared_distances
from devicelab.aggregation.update import ClientUpdate, Tensors
from devicelab.errors import ConfigError, RoundError
from tests.aggregation.updates import of, random_updates, same, some_updates, update

# Of 7 updates, 2 of them Byzantine, 3 neighbours count: scores 14.25 (of 0), 5.25, 2.75, 2.25, 7.25.
CROWD = [0.0, 2.0, 2.5, 3.0, 4.0]


def result_of(rule: Krum, updates: list[ClientUpdate]) -> Tensors:
    for each in updates:
        rule.add(each)
    return rule.result()


def test_distances_are_those_of_the_definition() -> None:
    updates = random_updates(8, size=150_000)
    found = squared_distances([u.delta for u in updates])
    for i, one in enumerate(updates):
        for j, other in enumerate(updates):
            exact = sum(
                float(np.sum((one.delta[n].astype(np.float64) - other.delta[n]) ** 2)) for n in one.delta
            )
            assert found[i, j] == pytest.approx(exact, rel=1e-12)


def test_one_enormous_update_does_not_blur_the_distances_of_the_others() -> None:
    near: list[Tensors] = [{"w": np.asarray([1, 2, 3 + n * 1e-3], np.float32)} for n in range(5)]
    found = squared_distances([*near, {"w": np.full(3, 1e30, np.float32)}])
    assert found[:5, :5] == pytest.approx(squared_distances(near), rel=1e-9, abs=1e-20)
    assert np.all(found[5, :5] > 1e59)


def test_krum_picks_the_middle_of_the_crowd_as_it_is() -> None:
    crowd = [update(str(n), [1 + place, 2]) for n, place in enumerate(CROWD)]
    liars = [update("x", [1e6, 0]), update("y", [-1e20, 1])]
    found = result_of(Krum(byzantine=2), liars + crowd)
    assert same(found, crowd[3].delta)


def test_multi_krum_averages_the_best() -> None:
    crowd = [update(str(n), [place], weight=n + 1) for n, place in enumerate(CROWD)]
    liars = [update("x", [1e6]), update("y", [-1e20])]
    assert result_of(Krum(byzantine=2, keep=5), crowd + liars)["w"].tolist() == pytest.approx([2.3])
    assert result_of(Krum(byzantine=2, keep=3), crowd + liars)["w"].tolist() == [2.5]
    assert same(result_of(Krum(byzantine=2, keep=1), crowd + liars), crowd[3].delta)


def test_equal_scores_go_by_the_name() -> None:
    places = {"d": [0, 0], "b": [0, 1], "c": [1, 0], "a": [1, 1]}
    corners = [update(name, place) for name, place in places.items()]
    assert result_of(Krum(byzantine=0), corners)["w"].tolist() == [1, 1]


@given(some_updates(5), st.randoms(), st.integers(1, 5))
def test_the_order_of_arrival_does_not_show(updates: list[ClientUpdate], random: Random, keep: int) -> None:
    shuffled = list(updates)
    random.shuffle(shuffled)
    one = result_of(Krum(byzantine=1, keep=keep), updates)
    assert same(one, result_of(Krum(byzantine=1, keep=keep), shuffled))


@given(some_updates(5))
def test_krums_answer_is_one_of_the_updates(updates: list[ClientUpdate]) -> None:
    found = result_of(Krum(byzantine=1), updates)
    assert any(same(found, u.delta) for u in updates)


def test_liars_of_every_size_are_not_chosen() -> None:
    honest = random_updates(9, size=500)
    for size in (1e1, 1e5, 1e30):
        liars = [
            of(f"x{n}", {k: np.full_like(t, size ** (1 + n)) for k, t in honest[0].delta.items()})
            for n in range(1)
        ] + [of("y", {k: np.full_like(t, 50) for k, t in honest[0].delta.items()})]
        for rule in (Krum(byzantine=2), Krum(byzantine=2, keep=9)):
            found = result_of(rule, liars + honest)
            assert all(float(np.abs(t).max()) < 10 for t in found.values())


def test_too_few_updates_are_a_failed_round_that_says_how_many_it_takes() -> None:
    assert Krum(byzantine=2).minimum == 7
    assert Krum(byzantine=0, keep=9).minimum == 9
    with pytest.raises(RoundError, match="krum needs at least 7 updates, there are 6"):
        result_of(Krum(byzantine=2), random_updates(6))


@pytest.mark.parametrize("options", [{"byzantine": -1}, {"byzantine": 0, "keep": 0}])
def test_options_out_of_range_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        Krum(**options)
