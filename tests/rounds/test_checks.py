"""What of an experiment, its plan and its data does not go together is said before anything is sent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from devicelab.data.shards import TensorSpec
from devicelab.errors import ConfigError, DataError
from devicelab.plans.signature import Input, Role, Signature
from devicelab.rounds.checks import check_hyper, check_subtables
from tests.rounds.catalogue import experiment, plans, shards, signature

ITEMS_ONLY = {"param/item": "item", "param/bias": "item", "data/item": "item", "data/seen": "item"}
OTHERS: dict[str, dict[str, str]] = {
    "none at all": {},
    "another table's": ITEMS_ONLY,
    "of fewer parameters": {"param/item": "item", "data/item": "item", "data/seen": "item"},
    "by fewer data": {"param/item": "item", "param/bias": "item", "data/item": "item"},
    "under another name": dict.fromkeys(ITEMS_ONLY, "film"),
}


def test_a_plan_with_tables_goes(tmp_path: Path) -> None:
    check_subtables(experiment(), plans(), shards(tmp_path))


def test_a_plan_without_tables_is_refused(tmp_path: Path) -> None:
    bare = plans(signature(tables={}), signature("evaluate", tables={}))
    with pytest.raises(ConfigError, match=r"round\.subtables: the plan shop has no table"):
        check_subtables(experiment(), bare, shards(tmp_path))
    check_subtables(experiment(round={"subtables": False}), bare, shards(tmp_path))


@pytest.mark.parametrize("how", OTHERS)
def test_an_evaluation_plan_measures_training_shards_only_with_the_same_rows(how: str, tmp_path: Path) -> None:
    made = plans(evaluate=signature("evaluate", tables=OTHERS[how]))
    with pytest.raises(ConfigError, match=r"evaluation\.training_loss: .* the table '(item|kind)'"):
        check_subtables(experiment(), made, shards(tmp_path))
    check_subtables(experiment(evaluation={"training_loss": False}), made, shards(tmp_path))
    check_subtables(experiment(), replace(made, evaluate=None), shards(tmp_path))


def test_an_evaluation_plan_need_not_have_a_table_at_all(tmp_path: Path) -> None:
    whole = signature("evaluate")
    without = tuple(i for i in whole.inputs if i.rows != "kind")
    made = plans(evaluate=Signature("shop", "evaluate", without, whole.outputs))
    check_subtables(experiment(), made, shards(tmp_path))


@pytest.mark.parametrize("limits", [(0, 40), (-1, 3)])
@pytest.mark.parametrize("of", ["tensors", "evaluation"])
def test_data_name_rows_that_are_there(of: str, limits: tuple[int, int], tmp_path: Path) -> None:
    made = shards(tmp_path)
    odd = {**made.tensors, "item": TensorSpec("int64", (), limits)}
    changed = replace(made, tensors=odd) if of == "tensors" else replace(made, evaluation=odd)
    with pytest.raises(DataError, match=f"from {limits[0]} to {limits[1]}, the table 'item' has 40 rows"):
        check_subtables(experiment(), plans(), changed)


@pytest.mark.parametrize(
    ("dtype", "good", "bad"),
    [
        ("float32", [0.1, -3.4e38], [1e300]),
        ("float64", [1e300], []),
        ("int32", [7.0, -3.0], [0.5, 2.0**31]),
        ("int64", [2.0**53], [2.0**60]),
        ("bool", [0.0, 1.0], [2.0]),
    ],
)
def test_a_hyper_is_what_its_input_can_hold(dtype: str, good: list[float], bad: list[float]) -> None:
    whole = signature()
    made = plans(replace(whole, inputs=(*whole.inputs, Input("hyper/lr", Role.HYPER, dtype, ()))))
    for value in good:
        check_hyper(experiment(round={"hyper": {"lr": value}}), made)
    for value in bad:
        with pytest.raises(ConfigError, match=rf"round\.hyper\.lr: .* is no number for .* a {dtype}"):
            check_hyper(experiment(round={"hyper": {"lr": value}}), made)
