"""What may go into an average at all."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from devicelab.aggregation.update import (
    ClientUpdate,
    PartialSum,
    Rows,
    check_finite,
    check_layout,
    layout_of,
)
from devicelab.errors import UpdateError

ONE = {"w": np.ones((2, 3), np.float32)}


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf])
def test_a_weight_is_a_positive_number(weight: float) -> None:
    with pytest.raises(UpdateError, match="weight") as caught:
        ClientUpdate(ONE, weight, 5, "17", "R58M123")
    assert caught.value.device == "R58M123"
    assert "client 17" in caught.value.message
    with pytest.raises(UpdateError, match="weight"):
        PartialSum(ONE, weight, 5, ("17",), "R58M123")


@pytest.mark.parametrize(
    ("tensors", "examples", "words"),
    [
        ({}, 1, "no tensor"),
        ({"n": np.ones(2, np.int64)}, 1, "'n' is int64"),
        ({"n": np.ones(2, np.bool_)}, 1, "'n' is bool"),
        (ONE, -1, "-1 examples"),
    ],
)
def test_tensors_are_of_floating_point_and_examples_are_counted(
    tensors: dict[str, Any], examples: int, words: str
) -> None:
    with pytest.raises(UpdateError, match=words):
        ClientUpdate(tensors, 1.0, examples, "17", "phone")


@pytest.mark.parametrize("clients", [(), ("1", "2", "1")])
def test_a_sum_names_each_of_its_clients_once(clients: tuple[str, ...]) -> None:
    with pytest.raises(UpdateError, match="no client, or one twice"):
        PartialSum(ONE, 1.0, 1, clients, "phone")


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({}, "lacks 'w'"),
        ({"w": np.ones((3, 2), np.float32)}, r"'w' is float32\[3, 2\], not float32\[2, 3\]"),
        ({"w": np.ones((2, 3))}, r"'w' is float64\[2, 3\], not float32"),
        ({**ONE, "../w": np.ones(1)}, "holds '../w', which is not asked for"),
    ],
)
def test_exactly_the_expected_tensors_pass(tensors: dict[str, Any], words: str) -> None:
    layout = layout_of(ONE)
    check_layout({"w": np.zeros((2, 3), np.float32)}, layout, device="phone")
    with pytest.raises(UpdateError, match=words):
        check_layout(tensors, layout, device="phone")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 40_000, 99_999])
def test_one_number_that_is_not_finite_is_found_anywhere(bad: float, place: int) -> None:
    tensor = np.zeros(100_000, np.float32)
    check_finite({"w": tensor}, device="phone")
    tensor[place] = bad
    with pytest.raises(UpdateError, match="'w' holds numbers that are not finite"):
        check_finite({"ok": np.ones(3), "w": tensor.reshape(100, -1)}, device="phone")


@pytest.mark.parametrize(
    "numbers",
    [[], [0, 0], [2, 1], [-1, 2], [4], [[1], [2]], [0.0, 1.0]],
    ids=["none", "one twice", "descending", "negative", "too large", "nested", "not whole"],
)
def test_rows_are_ascending_numbers_of_a_table(numbers: list[Any]) -> None:
    with pytest.raises(ValueError, match="rows are"):
        Rows(np.array(numbers, np.int64 if numbers != [0.0, 1.0] else np.float64), 4)


@pytest.mark.parametrize("tensors", [{"w": np.ones((3, 3))}, {"w": np.asarray(1.0)}, {"v": np.ones((2, 3))}])
def test_an_update_has_the_rows_that_it_is_said_to_have(tensors: dict[str, Any]) -> None:
    rows = {"w": Rows(np.array([1, 3]), 4)}
    assert ClientUpdate(ONE, 1.0, 1, "17", "phone", rows).rows is rows
    with pytest.raises(UpdateError, match="not 2 rows of a table"):
        ClientUpdate(tensors, 1.0, 1, "17", "phone", rows)
    with pytest.raises(UpdateError, match="not 2 rows of a table"):
        PartialSum(tensors, 1.0, 1, ("17",), "phone", rows)
