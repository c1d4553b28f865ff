from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from devicelab.config.data import DataConfig, HeldOutFraction, HeldOutLast, Source
from devicelab.data.division import Division, client_id, divide, hold_out
from devicelab.data.examples import Dataset
from devicelab.errors import DataError

_CONFIG: TypeAdapter[Source] = TypeAdapter(DataConfig)


def _config(**settings: Any) -> Source:
    return _CONFIG.validate_python({"source": "digits", **settings})


def _dataset(examples: int = 100, **others: Any) -> Dataset:
    return Dataset({"x": np.arange(examples, dtype=np.float32), "label": np.arange(examples) % 5}, **others)


def _rows(division: Division) -> list[int]:
    return sorted(int(row) for parts in division.clients.values() for rows in parts.values() for row in rows)


@pytest.mark.parametrize(
    "how",
    [
        {"by": "iid", "clients": 7},
        {"by": "dirichlet", "clients": 7, "alpha": 0.3},
        {"by": "quantity", "clients": 7, "alpha": 0.3},
        {"by": "natural"},
    ],
)
def test_every_example_has_exactly_one_place(how: dict[str, Any]) -> None:
    dataset = _dataset(owners=np.arange(100) % 7)
    config = _config(partition=how, held_out={"fraction": 0.2, "validation": 0.1}, test=0.2)
    division = divide(dataset, config, seed=5)
    assert division.test is not None
    tested = division.test["x"].astype(int).tolist()
    assert len(tested) == 20
    assert sorted(_rows(division) + tested) == list(range(100))
    assert len(division.clients) == 7
    assert all(len(parts["train"]) >= 1 for parts in division.clients.values())


def test_shards_hold_the_rows_of_all_tensors() -> None:
    division = divide(_dataset(), _config(partition={"by": "iid", "clients": 3}), seed=0)
    for client, part, tensors in division.shards():
        assert part == "train"
        rows = division.clients[client][part]
        assert (tensors["x"] == rows).all()
        assert (tensors["label"] == rows % 5).all()


def test_the_seed_decides_everything() -> None:
    config = _config(partition={"by": "iid", "clients": 3}, held_out={"fraction": 0.3}, test=0.1)

    def found(seed: int) -> list[tuple[str, str, list[float]]]:
        division = divide(_dataset(), config, seed=seed)
        return [(c, p, t["x"].tolist()) for c, p, t in division.shards()]

    assert found(1) == found(1)
    assert found(1) != found(2)


def test_the_last_by_time_are_held_out_and_of_equal_times_the_later_in_the_file() -> None:
    dataset = Dataset(
        {"x": np.arange(8, dtype=np.float32)},
        owners=np.array(["a", "a", "b", "a", "b", "b", "a", "a"]),
        times=np.array([9, 9, 1, 2, 1, 1, 9, 3]),
    )
    config = _config(partition={"by": "natural"}, held_out={"last": 1, "validation": 1})
    clients = divide(dataset, config, seed=0).clients
    assert {c: {p: rows.tolist() for p, rows in parts.items()} for c, parts in clients.items()} == {
        "a": {"train": [3, 7, 0], "validation": [1], "held_out": [6]},
        "b": {"train": [2], "validation": [4], "held_out": [5]},
    }


def test_without_times_the_order_of_the_source_counts() -> None:
    parts = hold_out(np.array([2, 5, 9, 11]), HeldOutLast(last=1), "a", seed=0)
    assert {part: rows.tolist() for part, rows in parts.items()} == {"train": [2, 5, 9], "held_out": [11]}


def test_a_client_with_too_little_to_hold_out_is_named() -> None:
    with pytest.raises(DataError, match="client ann has 2 examples, too few to hold 2 out") as caught:
        hold_out(np.arange(2), HeldOutLast(last=1, validation=1), "ann", seed=0)
    assert caught.value.hint == "data.partition.min_examples: 3 leaves such clients out"


@given(st.integers(1, 50), st.floats(0.01, 0.6), st.floats(0, 0.39), st.integers(0, 2**63 - 1))
def test_fractions_leave_something_to_train_on(
    size: int, fraction: float, validation: float, seed: int
) -> None:
    rows = np.arange(100, 100 + size)
    parts = hold_out(rows, HeldOutFraction(fraction=fraction, validation=validation), "a", seed=seed)
    assert len(parts["train"]) >= 1
    assert sorted(np.concatenate(list(parts.values())).tolist()) == rows.tolist()
    assert abs(len(parts.get("held_out", [])) - fraction * size) <= 1
    assert all((np.diff(part) > 0).all() for part in parts.values())


def test_what_a_client_holds_out_does_not_depend_on_the_others() -> None:
    how = HeldOutFraction(fraction=0.5)
    rows = np.arange(40)
    assert (
        hold_out(rows, how, "a", seed=1)["train"].tolist() == hold_out(rows, how, "a", seed=1)["train"].tolist()
    )
    assert (
        hold_out(rows, how, "a", seed=1)["train"].tolist() != hold_out(rows, how, "b", seed=1)["train"].tolist()
    )


_RUNNER_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")  # docs/runner.md: a client's id


@given(st.text() | st.integers())
def test_every_owner_can_be_a_client(owner: str | int) -> None:
    assert _RUNNER_ID.fullmatch(client_id(owner))


def test_names_that_are_ids_already_are_kept() -> None:
    assert [client_id(owner) for owner in (17, "ann", "a.b_c-d", "R58M", "x" * 64)] == [
        "17",
        "ann",
        "a.b_c-d",
        "R58M",
        "x" * 64,
    ]
    others = ["ann@home", "", ".hidden", "é", "x" * 65, "a b", "../x"]
    assert len({client_id(owner) for owner in others}) == len(others)
    assert all(client_id(owner).startswith("x-") for owner in others)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"partition": {"by": "natural"}}, "nobody owns the examples"),
        ({"partition": {"by": "dirichlet", "clients": 2, "label": "kind"}}, "no tensor 'kind', only x, label"),
        ({"partition": {"by": "dirichlet", "clients": 2, "label": "x"}}, "'x' is float32"),
        ({"partition": {"by": "iid", "clients": 101}}, "100 examples are not enough for 101 clients"),
        ({"partition": {"by": "iid", "clients": 90}, "test": 0.2}, "80 examples are not enough for 90 clients"),
    ],
)
def test_what_cannot_be_divided(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        divide(_dataset(), _config(**settings), seed=0)


def test_a_sources_own_test_set_and_examples_set_aside_are_joined() -> None:
    own = {"x": np.array([-1.0], dtype=np.float32), "label": np.array([3])}
    division = divide(_dataset(test=own), _config(partition={"by": "iid", "clients": 2}, test=0.1), seed=0)
    assert division.test is not None
    assert division.test["x"][0] == -1
    assert len(division.test["label"]) == 11
