"""ONNX graphs that are no plans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

OPSET = [helper.make_opsetid("", 18)]


def graph(
    nodes: Sequence[Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    *,
    metadata: dict[str, str] | None = None,
    check: bool = True,
) -> bytes:
    """A model's file."""
    body = helper.make_graph(list(nodes), "graph", list(inputs), list(outputs))
    model = helper.make_model(body, opset_imports=OPSET, ir_version=9)
    helper.set_model_props(model, metadata or {})
    if check:
        onnx.checker.check_model(model)
    return model.SerializeToString()


def tensor(name: str, shape: Sequence[int | str | None] | None, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def identity(kind: int, rank: int | None = 1) -> bytes:
    """Hands its input on; without a rank it says nothing of its shape."""
    node = helper.make_node("Identity", ["x"], ["y"])
    shape = None if rank is None else [None] * rank
    return graph([node], [tensor("x", shape, kind)], [tensor("y", shape, kind)], check=rank is not None)


def long_loop() -> bytes:
    """Multiplies a matrix by itself as often as it is told: a step that takes as long as one wants."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "state"], ["product"]),
            helper.make_node("Tanh", ["product"], ["next"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [tensor("i", [], TensorProto.INT64), tensor("go", [], TensorProto.BOOL), tensor("state", [128, 128])],
        [tensor("go_on", [], TensorProto.BOOL), tensor("next", [128, 128])],
    )
    node = helper.make_node("Loop", ["times", "", "x"], ["y"], body=body)
    return graph(
        [node], [tensor("times", [], TensorProto.INT64), tensor("x", [128, 128])], [tensor("y", [128, 128])]
    )


def large_result() -> bytes:
    """Makes a tensor of as many numbers as it is told, out of nothing."""
    node = helper.make_node("Expand", ["x", "shape"], ["y"])
    return graph([node], [tensor("x", [1]), tensor("shape", [1], TensorProto.INT64)], [tensor("y", [None])])


def adding_scatter() -> bytes:
    node = helper.make_node("ScatterND", ["x", "i", "u"], ["y"], reduction="add")
    return graph(
        [node],
        [tensor("x", [4]), tensor("i", [2, 1], TensorProto.INT64), tensor("u", [2])],
        [tensor("y", [4])],
    )


LOOP_INPUT = {"x": np.full((128, 128), 0.01, np.float32)}
