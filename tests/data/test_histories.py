from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from devicelab.config import Experiment
from devicelab.data.examples import Array
from devicelab.data.prepare import prepare
from devicelab.data.shards import ShardSet, read_shard
from devicelab.errors import DataError

_ITEMS = 40
_HELD_OUT = {"last": 1, "validation": 1}


def _experiment(path: Path, *, seed: int = 0, **data: Any) -> Experiment:
    settings = {
        "name": "x",
        "seed": seed,
        "plan": {"class": "a:B"},
        "data": {
            "source": "movielens",
            "path": str(path),
            "histories": {"length": 12, "negatives": 5},
            "held_out": _HELD_OUT,
            **data,
        },
        "round": {"rounds": 1},
    }
    return Experiment.model_validate_json(json.dumps(settings))


_TAKEN = {1: [5, 3, 9, 0, 7], 2: [39, 3, 1, 5], 3: list(range(20, 32))}


def _prepared(directory: Path, taken: dict[int, list[int]] = _TAKEN, **settings: Any) -> ShardSet:
    """Shards of users who took up those items in that order.

    Users of one item each see to it that every item has its own number; they are too short to be clients.
    """
    lines = [(user, item, time) for user, items in taken.items() for time, item in enumerate(items)]
    lines += [(900 + item, item, 0) for item in range(_ITEMS)]
    directory.mkdir(exist_ok=True)
    path = directory / "u.data"
    path.write_text("".join(f"{user}\t{item}\t3\t{time}\n" for user, item, time in lines))
    partition = {"by": "natural", "min_examples": 3}
    return prepare(_experiment(path, partition=partition, **settings), directory / "shards")


def _parts(shards: ShardSet, client: str) -> dict[str, dict[str, Array]]:
    return {part: read_shard(shard) for part, shard in shards.clients[client].items()}


def test_a_history_to_train_on_is_items_and_their_places(tmp_path: Path) -> None:
    shards = _prepared(tmp_path)
    assert list(shards.clients) == ["1", "2", "3"]
    train = _parts(shards, "1")["train"]
    assert train["item"].tolist() == [5, 3, 9]
    assert train["position"].tolist() == [0, 1, 2]
    assert shards.clients["3"]["train"].examples == 10
    assert {name: spec.shape for name, spec in shards.tensors.items()} == {"item": (), "position": ()}
    assert shards.tensors["position"].range == (0, 9)


def test_what_is_held_out_comes_as_queries(tmp_path: Path) -> None:
    shards = _prepared(tmp_path)
    parts = _parts(shards, "1")
    validation, held_out = parts["validation"], parts["held_out"]
    assert validation["history"].tolist() == [[5, 3, 9] + [0] * 9]
    assert [int(validation[name][0]) for name in ("length", "seen", "target", "protocol")] == [3, 3, 0, 0]
    assert held_out["history"].tolist() == [[5, 3, 9, 0] + [0] * 8] * 2
    assert held_out["length"].tolist() == [3, 4]
    assert held_out["seen"].tolist() == [4, 4]
    assert held_out["target"].tolist() == [7, 7]
    assert held_out["protocol"].tolist() == [0, 1]
    assert shards.evaluation["negatives"].shape == (5,)
    assert shards.evaluation["seen"].range == (2, 11)


def test_negatives_are_items_that_the_client_left_alone(tmp_path: Path) -> None:
    shards = _prepared(tmp_path)
    for client, items in _TAKEN.items():
        parts = _parts(shards, str(client))
        (first,) = parts["validation"]["negatives"].tolist()
        second, again = parts["held_out"]["negatives"].tolist()
        assert second == again
        assert len({*first, *second} - set(items)) == 10
    drawn = [_parts(_prepared(tmp_path, seed=seed), "1")["held_out"]["negatives"] for seed in (0, 1)]
    assert (drawn[0] != drawn[1]).any()


def test_of_equal_times_the_later_in_the_file_is_the_newer(tmp_path: Path) -> None:
    path = tmp_path / "u.data"
    path.write_text("1\t4\t3\t50\n1\t2\t3\t20\n1\t8\t3\t50\n1\t6\t3\t50\n1\t3\t3\t10\n")
    shards = prepare(_experiment(path, histories={"length": 9, "negatives": 1}, held_out=None), tmp_path / "s")
    found = shards.tensors["item"].range
    assert found == (0, 4)
    assert read_shard(shards.clients["1"]["train"])["item"].tolist() == [1, 0, 2, 4, 3]  # 3, 2, then 4, 8, 6


def test_nothing_that_is_held_out_is_in_what_is_trained_on(tmp_path: Path) -> None:
    others = {1: [5, 3, 9, 30, 31], 2: [39, 3, 11, 12], 3: [*range(20, 30), 2, 6]}
    one, two = _prepared(tmp_path / "one"), _prepared(tmp_path / "two", others)
    assert one.fingerprint != two.fingerprint
    assert one.tensors == two.tensors
    for client in ("1", "2", "3"):
        assert one.clients[client]["train"].sha256 == two.clients[client]["train"].sha256
        assert one.clients[client]["validation"].sha256 != two.clients[client]["validation"].sha256
        assert one.clients[client]["held_out"].sha256 != two.clients[client]["held_out"].sha256


def test_a_test_item_alone_is_nowhere_but_in_its_query(tmp_path: Path) -> None:
    others = {1: [5, 3, 9, 0, 31], 2: [39, 3, 1, 12], 3: [*range(20, 31), 6]}
    one, two = _prepared(tmp_path / "one"), _prepared(tmp_path / "two", others)
    for client in ("1", "2", "3"):
        assert one.clients[client]["train"].sha256 == two.clients[client]["train"].sha256
        first, second = _parts(one, client)["validation"], _parts(two, client)["validation"]
        for name in {*first} - {"negatives"}:
            np.testing.assert_array_equal(first[name], second[name])


def test_without_a_validation_item_both_protocols_give_the_same(tmp_path: Path) -> None:
    parts = _parts(_prepared(tmp_path, held_out={"last": 1}), "1")
    assert set(parts) == {"train", "held_out"}
    assert parts["train"]["item"].tolist() == [5, 3, 9, 0]
    assert parts["held_out"]["length"].tolist() == [4, 4]


@pytest.mark.parametrize(
    ("histories", "message"),
    [
        ({"length": 10, "negatives": 5}, "client 3 has a history of 11 items, and data.histories.length is 10"),
        ({"length": 12, "negatives": 18}, "client 1 left 35 items alone, 36 are needed as negatives"),
    ],
)
def test_what_does_not_fit(histories: dict[str, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        _prepared(tmp_path, histories=histories)


@pytest.mark.parametrize(
    ("data", "where"),
    [
        ({"held_out": {"last": 2}}, "held_out"),
        ({"held_out": {"last": 1, "validation": 2}}, "held_out"),
        ({"held_out": {"fraction": 0.1}}, "held_out"),
        ({"test": 0.1}, "test"),
        ({"partition": {"by": "iid", "clients": 3}}, "partition.by"),
    ],
)
def test_settings_that_contradict_a_history(data: dict[str, Any], where: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError) as caught:
        _experiment(tmp_path, **data)
    assert where in str(caught.value)
