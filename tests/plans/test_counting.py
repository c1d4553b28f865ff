from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from devicelab.data.division import Division
from devicelab.data.examples import Array, Part
from devicelab.data.shards import ShardSet, write_shards
from devicelab.errors import ConfigError
from devicelab.plans.build import PlanFile, PlanFiles
from devicelab.plans.counting import with_counts
from devicelab.plans.signature import Input, Output, Role, Signature

_SIGNATURE = Signature(
    name="small",
    kind="train",
    inputs=(
        Input("param/bias", Role.PARAMETER, "float32", (4,)),
        Input("param/table", Role.PARAMETER, "float32", (4, 2)),
        Input("param/own", Role.PRIVATE, "float32", (4,)),
        Input("data/item", Role.DATA, "int64", ("batch",), range=(0, 3)),
    ),
    outputs=(
        Output("loss", Role.LOSS, "float32", ()),
        Output("new/param/bias", Role.PARAMETER, "float32", (4,), replaces="param/bias"),
    ),
)
_PLANS = PlanFiles(
    PlanFile(b"plan", _SIGNATURE),
    None,
    {"param/bias": np.zeros(4, np.float32), "param/table": np.ones((4, 2), np.float32)},
)


def _shards(directory: Path, item: Mapping[str, Mapping[Part, list[int]]]) -> ShardSet:
    rows: list[int] = []
    clients: dict[str, dict[Part, Array]] = {}
    for client, parts in item.items():
        for part, values in parts.items():
            clients.setdefault(client, {})[part] = np.arange(len(rows), len(rows) + len(values))
            rows += values
    tensors = {"item": np.array(rows), "x": np.zeros((len(rows), 2), np.float32)}
    return write_shards(Division(tensors, clients, None), directory, "f")


def test_a_first_value_is_the_log_share_of_what_all_train_on(tmp_path: Path) -> None:
    shards = _shards(
        tmp_path, {"a": {"train": [1, 1, 2], "held_out": [3]}, "b": {"train": [1], "held_out": [0]}}
    )
    found = with_counts(_PLANS, {"bias": "item"}, shards)
    np.testing.assert_allclose(found.initial["param/bias"], np.log(np.array([1, 4, 2, 1]) / 8), rtol=1e-6)
    assert found.initial["param/bias"].dtype == np.float32
    assert found.initial["param/table"] is _PLANS.initial["param/table"]
    assert found.train is _PLANS.train
    assert not _PLANS.initial["param/bias"].any()


def test_nothing_to_count(tmp_path: Path) -> None:
    assert with_counts(_PLANS, {}, _shards(tmp_path, {"a": {"train": [1]}})) is _PLANS


@pytest.mark.parametrize(
    ("counts", "item", "message"),
    [
        ({"bios": "item"}, 1, "the plan shares no parameter 'bios'; did you mean 'bias'"),
        ({"own": "item"}, 1, "the plan shares no parameter 'own'"),
        ({"table": "item"}, 1, r"'table' is float32\[4, 2\], not a row of float32"),
        ({"bias": "items"}, 1, "the data have no 'items'; did you mean 'item'"),
        ({"bias": "x"}, 1, r"'x' is float32\[2\], not one whole number each"),
        ({"bias": "item"}, 4, "'item' holds numbers from 0 to 4, 'bias' has 4 entries"),
        ({"bias": "item"}, -1, "'item' holds numbers from -1 to 0"),
    ],
)
def test_what_cannot_be_counted(counts: dict[str, str], item: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        with_counts(_PLANS, counts, _shards(tmp_path, {"a": {"train": [item, 0]}}))
