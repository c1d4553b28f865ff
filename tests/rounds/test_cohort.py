from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devicelab.rounds.cohort import Sampling, cohort_of, ranked

_CLIENTS = [f"c{n}" for n in range(40)]


def test_a_fraction_is_of_all_clients_and_rounded_up() -> None:
    assert Sampling(fraction=0.1).size(943) == 95
    assert Sampling(fraction=0.1).size(50) == 5  # 0.1 as a double is a little more than a tenth
    assert Sampling(fraction=0.001).size(10) == 1
    assert Sampling(fraction=1.0).size(7) == 7


def test_a_number_is_at_most_all() -> None:
    assert Sampling(number=5).size(100) == 5
    assert Sampling(number=5).size(3) == 3


@pytest.mark.parametrize(("fraction", "number"), [(None, None), (0.5, 3), (0.0, None), (1.5, None), (None, 0)])
def test_what_makes_no_sense_is_refused(fraction: float | None, number: int | None) -> None:
    with pytest.raises(ValueError):
        Sampling(fraction, number)


def test_the_same_seed_and_round_give_the_same_order_whatever_order_they_came_in() -> None:
    assert ranked(_CLIENTS, seed=1, round_number=2) == ranked(reversed(_CLIENTS), seed=1, round_number=2)
    assert ranked(_CLIENTS, seed=1, round_number=2) != ranked(_CLIENTS, seed=1, round_number=3)
    assert ranked(_CLIENTS, seed=1, round_number=2) != ranked(_CLIENTS, seed=2, round_number=2)


@given(st.sets(st.sampled_from(_CLIENTS)), st.integers(1, 40), st.integers(1, 1000))
def test_who_is_away_changes_nobody_elses_place(away: set[str], number: int, round_number: int) -> None:
    sampling = Sampling(number=number)
    here = [client for client in _CLIENTS if client not in away]
    everybody = cohort_of(_CLIENTS, _CLIENTS, sampling, seed=3, round_number=round_number)
    chosen = cohort_of(_CLIENTS, here, sampling, seed=3, round_number=round_number)
    assert len(chosen) == min(number, len(here))
    assert not away & set(chosen)
    still = [client for client in everybody if client not in away]
    assert chosen[: len(still)] == still


def test_over_many_rounds_everybody_is_taken_equally_often() -> None:
    taken: Counter[str] = Counter()
    for round_number in range(1, 1001):
        taken.update(cohort_of(_CLIENTS, _CLIENTS, Sampling(fraction=0.1), seed=5, round_number=round_number))
    # Binomial(1000, 0.1): 100 ± 9.5; five deviations either way.
    assert all(53 <= taken[client] <= 147 for client in _CLIENTS)
