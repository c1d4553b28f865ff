"""The weighted mean, streaming."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from fractions import Fraction
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devicelab.aggregation.fedavg import FedAvg
from devicelab.aggregation.update import ClientUpdate, Rows, Tensors
from devicelab.errors import RoundError, UpdateError
from tests.aggregation.updates import (
    Partly,
    of,
    partial,
    partly_updates,
    random_updates,
    same,
    some_updates,
    update,
)


def mean_of(updates: list[ClientUpdate]) -> Tensors:
    rule = FedAvg()
    for each in updates:
        rule.add(each)
    return rule.result()


def test_the_mean_is_weighted() -> None:
    mean = mean_of([update("a", [1, 2], weight=1), update("b", [5, 10], weight=3)])
    assert mean["w"].dtype == np.float32
    assert mean["w"].tolist() == [4, 8]


def test_a_lone_update_is_its_own_mean() -> None:
    (alone,) = random_updates(1)
    assert same(mean_of([alone]), alone.delta)


def test_the_mean_of_many_is_right_to_the_last_bit() -> None:
    updates = random_updates(300, size=50)
    mean = mean_of(updates)
    weight = sum(int(u.weight) for u in updates)
    for name in mean:
        for place, found in np.ndenumerate(mean[name]):
            exact = sum(Fraction(float(u.delta[name][place])) * int(u.weight) for u in updates) / weight
            assert found == np.float32(float(exact)), (name, place)


def test_sums_from_devices_count_as_their_clients_do() -> None:
    updates = random_updates(12, size=100_000)
    rule = FedAvg()
    rule.add_sum(partial(updates[:5], "one"))
    rule.add(updates[5])
    rule.add_sum(partial(updates[6:], "two"))
    for name, tensor in mean_of(updates).items():
        np.testing.assert_allclose(rule.result()[name], tensor, rtol=1e-5, atol=1e-7)


@given(some_updates(), st.randoms())
def test_the_order_of_arrival_shows_in_the_last_bit_at_most(
    updates: list[ClientUpdate], random: Random
) -> None:
    shuffled = list(updates)
    random.shuffle(shuffled)
    one, other = mean_of(updates), mean_of(shuffled)
    for name in one:
        largest = max((float(np.abs(u.delta[name]).max(initial=0)) for u in updates), default=0)
        np.testing.assert_allclose(one[name], other[name], rtol=1.2e-7, atol=largest * 1e-12)


@given(some_updates())
def test_the_mean_lies_among_the_updates(updates: list[ClientUpdate]) -> None:
    mean = mean_of(updates)
    for name in mean:
        values = np.stack([u.delta[name] for u in updates]).astype(np.float64)
        slack = np.abs(values).max(initial=0) * 1e-7 + 1e-40
        assert np.all(mean[name] >= values.min(axis=0) - slack)
        assert np.all(mean[name] <= values.max(axis=0) + slack)


@given(some_updates(), st.sampled_from([0.25, 2.0, 1024.0]))
def test_only_the_proportion_of_the_weights_counts(updates: list[ClientUpdate], factor: float) -> None:
    scaled = [of(u.client, u.delta, weight=u.weight * factor) for u in updates]
    assert same(mean_of(updates), mean_of(scaled))


def test_empty_tensors_and_single_numbers_have_a_mean() -> None:
    tensors: Tensors = {"none": np.zeros((0, 4), np.float32), "one": np.asarray(2.0, np.float64)}
    mean = mean_of([of("a", tensors), of("b", tensors)])
    assert mean["none"].shape == (0, 4)
    assert mean["one"].shape == ()
    assert mean["one"] == 2.0


def test_a_tensor_in_any_memory_order_is_read_right() -> None:
    table = np.arange(60, dtype=np.float32).reshape(6, 10)
    for view in (table.T, table[::2, 1::3], np.asfortranarray(table)):
        assert np.array_equal(mean_of([of("a", {"w": view})])["w"], view)


def test_a_client_counts_once() -> None:
    rule = FedAvg()
    rule.add(update("a", [2]))
    rule.add_sum(partial([update("b", [4]), update("c", [6])]))
    for again in ("a", "b", "c"):
        with pytest.raises(UpdateError, match=f"client {again} has been counted already"):
            rule.add(update(again, [100]))
        with pytest.raises(UpdateError, match=f"client {again} has been counted already"):
            rule.add_sum(partial([update("new", [100]), update(again, [100])]))
    rule.add(update("new", [0]))
    assert rule.result()["w"].tolist() == [3]


def test_what_does_not_fit_is_refused_and_leaves_no_trace() -> None:
    rule = FedAvg()
    rule.add(update("a", [1, 2]))
    for odd in (update("b", [1, 2, 3]), update("b", [1, 2], dtype="float64"), of("b", {"v": np.ones(2)})):
        with pytest.raises(UpdateError, match="update"):
            rule.add(odd)
    rule.add(update("b", [3, 4]))
    assert rule.result()["w"].tolist() == [2, 3]


def test_no_update_is_no_mean() -> None:
    with pytest.raises(RoundError, match="no update") as caught:
        FedAvg().result()
    assert caught.value.exit_code == 6


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_mean_that_is_not_finite_never_leaves(bad: float) -> None:
    rule = FedAvg()
    rule.add(update("a", [1, 2]))
    rule.add(update("b", [1, bad]))
    with pytest.raises(RoundError, match="'w' is not finite"):
        rule.result()


def test_numbers_near_the_largest_do_not_overflow() -> None:
    largest = float(np.finfo(np.float32).max)
    assert mean_of([update(str(n), [largest], weight=1e6) for n in range(9)])["w"] == np.float32(largest)


def test_the_memory_is_that_of_two_models_whatever_the_number_of_clients() -> None:
    size = 1_000_000
    model = 4 * size
    rule, tensor = FedAvg(), np.ones(size, np.float32)
    tracemalloc.start()
    try:
        for client in range(40):
            rule.add(update(str(client), tensor))
        _, most = tracemalloc.get_traced_memory()
        assert most < 2.2 * model
        rule.result()
        _, most = tracemalloc.get_traced_memory()
        assert most < 3.2 * model
    finally:
        tracemalloc.stop()


def rows(*numbers: int, of: int) -> dict[str, Rows]:
    return {"w": Rows(np.array(numbers, np.int64), of)}


@given(partly_updates())
def test_some_rows_count_as_the_whole_table_would(updates: Partly) -> None:
    assert same(mean_of(updates.whole), mean_of(updates.some))


@given(partly_updates(), st.data())
def test_some_rows_and_whole_tables_may_come_together(updates: Partly, data: st.DataObject) -> None:
    mixed = [data.draw(st.sampled_from(pair)) for pair in zip(updates.whole, updates.some, strict=True)]
    assert same(mean_of(updates.whole), mean_of(mixed))


@given(partly_updates())
def test_a_sum_of_some_rows_counts_as_one_of_whole_tables(updates: Partly) -> None:
    found = []
    for each in (updates.whole, updates.some):
        rule = FedAvg()
        for client in each:
            rule.add_sum(partial([client], f"phone-{client.client}"))
        found.append(rule.result())
    assert same(*found)


def test_a_row_that_nobody_sent_stays_and_weights_are_those_of_all() -> None:
    rule = FedAvg()
    rule.add(replace(update("a", [[4, 8]], weight=1), rows=rows(1, of=4)))
    rule.add(replace(update("b", [[4, 8], [1, 1]], weight=3), rows=rows(1, 2, of=4)))
    assert rule.result()["w"].tolist() == [[0, 0], [4, 8], [0.75, 0.75], [0, 0]]


def test_tables_of_other_sizes_do_not_go_together() -> None:
    rule = FedAvg()
    rule.add(replace(update("a", [[1, 2]]), rows=rows(1, of=4)))
    for odd in (
        replace(update("b", [[1, 2]]), rows=rows(1, of=5)),
        replace(update("b", [[1, 2, 3]]), rows=rows(1, of=4)),
        update("b", [[1, 2]]),
    ):
        with pytest.raises(UpdateError, match=r"not float32\[4, 2\]"):
            rule.add(odd)


def test_rows_cost_what_they_are_and_not_what_the_table_is() -> None:
    height, width = 200_000, 16
    rule = FedAvg()
    rule.add(replace(update("first", np.ones((1, width))), rows=rows(0, of=height)))
    some = {"w": Rows(np.arange(0, height, 1000, dtype=np.int64), height)}
    tracemalloc.start()
    try:
        for client in range(40):
            rule.add(replace(update(str(client), np.ones((200, width))), rows=some))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < height * width  # a table of bytes, where a copy would take four or eight times as much
