from __future__ import annotations

import pytest

from devicelab.data.shards import TensorSpec
from devicelab.errors import DataError
from devicelab.plans.fitting import check_data
from devicelab.plans.signature import Input, Output, Role, Signature

_SIGNATURE = Signature(
    name="small",
    kind="train",
    inputs=(
        Input("param/w", Role.PARAMETER, "float32", (3,)),
        Input("data/x", Role.DATA, "float32", ("batch", 3)),
        Input("data/label", Role.DATA, "int64", ("batch",), range=(0, 9)),
    ),
    outputs=(
        Output("loss", Role.LOSS, "float32", ()),
        Output("new/param/w", Role.PARAMETER, "float32", (3,), replaces="param/w"),
    ),
)
_GOOD = {"x": TensorSpec("float32", (3,), None), "label": TensorSpec("int64", (), (0, 9))}


def test_data_that_fit() -> None:
    check_data(_SIGNATURE, _GOOD)
    check_data(_SIGNATURE, _GOOD | {"label": TensorSpec("int64", (), (3, 4))})


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"x": _GOOD["x"]}, "'label' is missing"),
        (
            {"x": _GOOD["x"], "labels": _GOOD["label"]},
            "'label' is missing; did you mean 'labels'?; 'labels' is nothing",
        ),
        (_GOOD | {"x": TensorSpec("float64", (3,), None)}, "'x' is float64[3], not float32[3]"),
        (_GOOD | {"x": TensorSpec("float32", (4,), None)}, "'x' is float32[4], not float32[3]"),
        (
            _GOOD | {"label": TensorSpec("int64", (), (0, 10))},
            "'label' holds numbers from 0 to 10, the plan takes 0 to 9",
        ),
        (_GOOD | {"more": _GOOD["x"]}, "'more' is nothing the plan takes"),
    ],
)
def test_data_that_do_not_fit(tensors: dict[str, TensorSpec], message: str) -> None:
    with pytest.raises(DataError) as caught:
        check_data(_SIGNATURE, tensors)
    assert message in str(caught.value)
    assert caught.value.hint == "the plan takes x float32[3], label int64[]"
