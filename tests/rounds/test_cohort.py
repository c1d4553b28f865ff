from __future__ import annotations

import statistics
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devicelab.rounds.cohort import cohort_of, drawn, ranked

_CLIENTS = [f"c{n}" for n in range(40)]


def test_the_same_seed_and_round_give_the_same_order_whatever_order_they_came_in() -> None:
    assert ranked(_CLIENTS, seed=1, round_number=2) == ranked(reversed(_CLIENTS), seed=1, round_number=2)
    assert ranked(_CLIENTS, seed=1, round_number=2) != ranked(_CLIENTS, seed=1, round_number=3)
    assert ranked(_CLIENTS, seed=1, round_number=2) != ranked(_CLIENTS, seed=2, round_number=2)


@given(st.sets(st.sampled_from(_CLIENTS)), st.integers(1, 40), st.integers(1, 1000))
def test_who_is_away_changes_nobody_elses_place(away: set[str], number: int, round_number: int) -> None:
    here = [client for client in _CLIENTS if client not in away]
    everybody = cohort_of(_CLIENTS, _CLIENTS, number, seed=3, round_number=round_number)
    chosen = cohort_of(_CLIENTS, here, number, seed=3, round_number=round_number)
    assert len(chosen) == min(number, len(here))
    assert not away & set(chosen)
    still = [client for client in everybody if client not in away]
    assert chosen[: len(still)] == still


def test_over_many_rounds_everybody_is_taken_equally_often() -> None:
    taken: Counter[str] = Counter()
    for round_number in range(1, 1001):
        taken.update(cohort_of(_CLIENTS, _CLIENTS, 4, seed=5, round_number=round_number))
    # Binomial(1000, 0.1): 100 ± 9.5; five deviations either way.
    assert all(53 <= taken[client] <= 147 for client in _CLIENTS)


def test_a_secret_draw_takes_each_by_itself_and_always_the_same() -> None:
    secret = bytes(range(32))
    taken: Counter[str] = Counter()
    sizes: list[int] = []
    for round_number in range(1, 2001):
        found = drawn(reversed(_CLIENTS), 0.1, secret=secret, round_number=round_number)
        assert found == drawn(_CLIENTS, 0.1, secret=secret, round_number=round_number)
        taken.update(found)
        sizes.append(len(found))
    # Binomial(2000, 0.1): 200 ± 13.4; five deviations either way. Of 40, 4 ± 1.9: not always the same number.
    assert all(133 <= taken[client] <= 267 for client in _CLIENTS)
    assert statistics.fmean(sizes) == pytest.approx(4, abs=5 * 1.9 / 2000**0.5)
    assert statistics.stdev(sizes) == pytest.approx(1.9, rel=0.1)
    assert 0 in sizes


def test_nobody_else_changes_whether_one_is_drawn() -> None:
    secret = bytes(32)
    everybody = drawn(_CLIENTS, 0.3, secret=secret, round_number=5)
    for away in _CLIENTS:
        others = [client for client in _CLIENTS if client != away]
        assert drawn(others, 0.3, secret=secret, round_number=5) == [c for c in everybody if c != away]


def test_another_secret_is_another_draw_and_certainty_takes_all() -> None:
    draws = [drawn(_CLIENTS, 0.5, secret=bytes([n]) * 32, round_number=1) for n in (1, 2)]
    assert draws[0] != draws[1]
    assert drawn(_CLIENTS, 1.0, secret=bytes(32), round_number=9) == sorted(_CLIENTS)
