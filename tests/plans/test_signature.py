"""Signatures: what is written is read back, and what contradicts itself is refused."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devicelab.errors import PlanError
from devicelab.plans.signature import BATCH, Input, Output, Role, Signature

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
    return Signature(draw(_names), "train", (*carried, *data, *hyper, *anchors), tuple(outputs), batch)


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
