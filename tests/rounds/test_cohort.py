from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from devicelab.rounds.cohort import cohort_of, ranked

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
