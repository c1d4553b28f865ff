"""Signatures: what is written is read back, and what contradicts itself is refused."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devicelab.errors import PlanError
from devicelab.plans.signature import BATCH, Input, Output, Role, Signature, Table

_names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
_dtypes = st.sampled_from(["float32", "float64", "int64", "int32", "bool"])
_shapes = st.lists(st.integers(0, 1 << 20), max_size=4).map(tuple)


@st.composite
def signatures(draw: st.DrawFn) -> Signature:
    batch = draw(st.none() | st.integers(1, 512))
    roles = [Role.PARAMETER, Role.PRIVATE, Role.BUFFER, Role.STATE]
    carried = [
        Input(f"v/{name}", draw(st.sampled_from(roles)), draw(_dtypes), draw(_shapes))
        for name in draw(st.lists(_names, min_size=1, max_size=5, unique=True))
    ]
    data = []
    for name in draw(st.lists(_names, min_size=1, max_size=3, unique=True)):
        dtype = draw(_dtypes)
        limits = draw(st.none() | st.tuples(st.integers(-9, 0), st.integers(0, 99))) if "int" in dtype else None
        data.append(Input(f"d/{name}", Role.DATA, dtype, (batch or BATCH, *draw(_shapes)), range=limits))
    hyper = [
        Input(f"h/{name}", Role.HYPER, "float32", (), draw(st.none() | st.floats(-1e6, 1e6)))
        for name in draw(st.lists(_names, max_size=3, unique=True))
    ]
    anchors = [
        Input(f"a/{i.name}", Role.ANCHOR, i.dtype, i.shape, of=i.name)
        for i in carried
        if i.role in (Role.PARAMETER, Role.PRIVATE) and draw(st.booleans())
    ]
    replaced = draw(st.lists(st.sampled_from(carried), min_size=1, unique=True))
    outputs = [Output("loss", Role.LOSS, "float32", ())]
    outputs += [
        Output(f"n/{i.name}", i.role, i.dtype, i.shape, replaces=i.name, in_place=draw(st.booleans()))
        for i in replaced
    ]
    for metric in draw(st.lists(_names, max_size=2, unique=True)):
        outputs.append(Output(f"m/{metric}/s", Role.METRIC, "float32", (), metric=metric, part="sum"))
        outputs.append(Output(f"m/{metric}/c", Role.METRIC, "float32", (), metric=metric, part="count"))
    inputs = (*carried, *data, *hyper, *anchors, *(draw(_table_inputs(batch)) if draw(st.booleans()) else ()))
    return Signature(draw(_names), "train", inputs, tuple(outputs), batch)


@st.composite
def _table_inputs(draw: st.DrawFn, batch: int | None) -> list[Input]:
    table = draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}", fullmatch=True))
    rows = draw(st.integers(1, 1 << 40))
    inputs = []
    for n in range(draw(st.integers(1, 3))):
        role = Role.STATE if n and draw(st.booleans()) else Role.PARAMETER
        shape = (rows, *draw(_shapes))
        inputs.append(Input(f"t/{n}", role, "float32", shape, rows=table))
        if role is Role.PARAMETER and draw(st.booleans()):
            inputs.append(Input(f"t/{n}/anchor", Role.ANCHOR, "float32", shape, of=f"t/{n}", rows=table))
    for n in range(draw(st.integers(1, 2))):
        dtype, last = draw(st.sampled_from(["int64", "int32"])), draw(st.integers(0, rows - 1))
        limits = draw(st.none() | st.just((0, last)))
        sizes = (batch or BATCH, *draw(_shapes))
        inputs.append(Input(f"i/{n}", Role.DATA, dtype, sizes, range=limits, rows=table))
    return inputs


@given(signatures())
def test_json_and_back(signature: Signature) -> None:
    assert Signature.from_json(signature.to_json()) == signature


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(_json | st.fixed_dictionaries({"version": st.just(1), "name": _json, "kind": _json, "inputs": _json}))
def test_any_other_json_is_refused_politely(document: Any) -> None:
    with pytest.raises(PlanError):
        Signature.from_json(json.dumps(document))


@given(signatures(), st.data())
def test_a_signature_with_one_thing_changed_is_still_valid_or_refused_politely(
    signature: Signature, data: st.DataObject
) -> None:
    document = json.loads(signature.to_json())
    place: Any = document
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
            place = place[key]
            continue
        if data.draw(st.booleans()):
            place[key] = data.draw(_json)
        else:
            del place[key]
        break
    with suppress(PlanError):  # any other error fails the test
        Signature.from_json(json.dumps(document))


@given(st.text(max_size=40))
def test_text_is_refused_politely(text: str) -> None:
    with pytest.raises(PlanError):
        Signature.from_json(text)


def _valid() -> dict[str, Any]:
    return {
        "version": 1,
        "name": "x",
        "kind": "train",
        "batch": None,
        "inputs": [
            {"name": "p", "role": "parameter", "dtype": "float32", "shape": [2]},
            {"name": "d", "role": "data", "dtype": "int64", "shape": ["batch", 3]},
            {"name": "h", "role": "hyper", "dtype": "float32", "shape": [], "default": 0.1},
        ],
        "outputs": [
            {"name": "loss", "role": "loss", "dtype": "float32", "shape": []},
            {"name": "q", "role": "parameter", "dtype": "float32", "shape": [2], "replaces": "p"},
        ],
    }


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (["version"], 2, "version 2, this program reads version 1"),
        (["version"], True, "version True"),
        (["kind"], "guess", "'train' or 'evaluate'"),
        (["batch"], 0, "batch must be positive"),
        (["batch"], 4, "fixed batch"),
        (["extra"], 1, "unknown fields: extra"),
        (["inputs"], [], "replaces 'p', which is no input"),
        (["inputs", 0, "role"], "data", "first size must be 'batch'"),
        (["inputs", 0, "role"], "loss", "cannot have the role 'loss'"),
        (["inputs", 0, "role"], "wizard", "unknown role 'wizard'"),
        (["inputs", 0, "role"], "private", "is a parameter, but 'p', which it replaces, is a private"),
        (["inputs", 0, "dtype"], "complex64", "element type 'complex64'"),
        (["inputs", 0, "shape"], [3], r"is float32\[2\], but 'p', which it replaces, is float32\[3\]"),
        (["inputs", 0, "shape"], ["batch"], "only the first size of data may be 'batch'"),
        (["inputs", 0, "shape"], [-1], "size -1"),
        (["inputs", 0, "shape"], [True], "size True"),
        (["inputs", 0, "name"], "d", "input 'd' occurs twice"),
        (["inputs", 1, "range"], [5, 2], "is empty"),
        (["inputs", 2, "shape"], [1], "not a single number"),
        (["inputs", 2, "default"], "big", "'default' is 'big'"),
        (["outputs", 0, "in_place"], True, "cannot be in place"),
        (["outputs", 0, "shape"], [1], "not a single number"),
        (["outputs", 1, "replaces"], "z", "replaces 'z', which is no input"),
        (["outputs", 0, "role"], "metric", "exactly metrics say"),
    ],
)
def test_contradictions_are_named(path: list[Any], value: Any, reason: str) -> None:
    document = _valid()
    place: Any = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(PlanError, match=reason):
        Signature.from_json(json.dumps(document))


def test_the_example_is_valid() -> None:
    assert Signature.from_json(json.dumps(_valid())).input("d").range is None


def _with_tables() -> dict[str, Any]:
    inputs: list[dict[str, Any]] = [
        {"name": "param/a", "role": "parameter", "dtype": "float32", "shape": [9, 4], "rows": "item"},
        {"name": "param/b", "role": "parameter", "dtype": "float64", "shape": [9], "rows": "item"},
        {"name": "param/c", "role": "parameter", "dtype": "float32", "shape": [9, 4]},
        {"name": "param/w", "role": "parameter", "dtype": "float32", "shape": [5, 2], "rows": "word"},
        {"name": "state/a", "role": "state", "dtype": "float32", "shape": [9, 4], "rows": "item"},
        {"name": "anchor/a", "role": "anchor", "dtype": "float32", "shape": [9, 4], "of": "param/a"},
        {"name": "data/i", "role": "data", "dtype": "int64", "shape": ["batch"], "range": [0, 8]},
        {"name": "data/j", "role": "data", "dtype": "int32", "shape": ["batch", 3], "rows": "item"},
        {"name": "data/w", "role": "data", "dtype": "int64", "shape": ["batch"], "rows": "word"},
    ]
    inputs[5]["rows"] = inputs[6]["rows"] = "item"
    new = {"name": "new/a", "role": "parameter", "dtype": "float32", "shape": [9, 4], "replaces": "param/a"}
    return _valid() | {"inputs": inputs, "outputs": [_valid()["outputs"][0], new]}


def test_tables_are_parameters_and_data_of_one_name() -> None:
    signature = Signature.from_json(json.dumps(_with_tables()))
    assert signature.tables == {
        "item": Table(9, ("param/a", "param/b"), ("i", "j")),
        "word": Table(5, ("param/w",), ("w",)),
    }
    assert list(signature.tables) == ["item", "word"]
    assert Signature.from_json(signature.to_json()) == signature
    assert Signature.from_json(json.dumps(_valid())).tables == {}


@pytest.mark.parametrize(
    ("position", "changes", "reason"),
    [
        (0, {"role": "private"}, "private 'param/a' cannot have rows of a table"),
        (2, {"role": "buffer", "rows": "item"}, "with the role 'buffer' cannot belong to a table"),
        (0, {"rows": ""}, "'' is no name for a table"),
        (0, {"rows": "a b"}, "'a b' is no name for a table"),
        (0, {"rows": 1}, "'rows' is 1, not str"),
        (0, {"rows": "word"}, "anchor 'anchor/a' and its parameter 'param/a' are not of the same table"),
        (1, {"shape": [8]}, "different numbers of rows: 9 in 'anchor/a' and 8 in 'param/b'"),
        (1, {"shape": []}, "parameter 'param/b' has no rows"),
        (3, {"shape": [0, 2]}, "parameter 'param/w' has no rows"),
        (3, {"rows": "item"}, "different numbers of rows"),
        (3, {"role": "state"}, "table 'word' has no parameter"),
        (4, {"shape": [8, 4]}, "different numbers of rows"),
        (5, {"rows": "word"}, "are not of the same table"),
        (6, {"range": [-1, 8]}, "data 'data/i' name rows that table 'item' has not, which has 9"),
        (6, {"range": [0, 9]}, "data 'data/i' name rows that table 'item' has not, which has 9"),
        (7, {"dtype": "float32"}, "data 'data/j' is float32, row numbers of table 'item' are whole numbers"),
        (8, {"rows": "item"}, "table 'word' has no data"),
        (8, {"rows": "words"}, "table 'word' has no data"),
        (2, {"rows": "other"}, "table 'other' has no data"),
        (2, {"name": "rows/c"}, "parameter 'rows/c': names that begin with rows/ are for lists of rows"),
        (4, {"name": "rows/item"}, "state 'rows/item': names that begin with rows/ are for lists of rows"),
    ],
)
def test_contradictions_about_tables_are_named(position: int, changes: dict[str, Any], reason: str) -> None:
    document = _with_tables()
    document["inputs"][position] |= changes
    document["outputs"][1]["role"] = document["inputs"][0]["role"]  # so that only the table is wrong
    with pytest.raises(PlanError, match=re.escape(reason)):
        Signature.from_json(json.dumps(document))
