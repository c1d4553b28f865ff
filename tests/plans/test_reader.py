"""Files that are no plans, or lie about themselves, are refused with the reason."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from devicelab.errors import PlanError
from devicelab.plans.aliasing import in_place_outputs
from devicelab.plans.export import ExportedPlan
from devicelab.plans.facts import TableFacts
from devicelab.plans.inspection import inspect_plan
from devicelab.plans.reader import read_plan, read_plan_bytes
from devicelab.plans.signature import METADATA_KEY, Signature

Export = Callable[..., ExportedPlan]


def _changed(plan: ExportedPlan, change: Callable[[onnx.ModelProto], None]) -> bytes:
    model = onnx.load_from_string(plan.onnx)
    change(model)
    return model.SerializeToString()


def _with_signature(plan: ExportedPlan, signature: Signature) -> bytes:
    return _changed(plan, lambda m: helper.set_model_props(m, {METADATA_KEY: signature.to_json()}))


def test_a_plan_is_read_back(export: Export, tmp_path: Path) -> None:
    exported = export("mf")
    path = tmp_path / "mf.onnx"
    path.write_bytes(exported.onnx)
    plan = read_plan(path)
    assert plan.signature == exported.signature
    assert plan.opset == 18
    seen = inspect_plan(plan)
    assert seen.roles["private"] == {"inputs": 2, "bytes": 943 * 33 * 4}
    assert seen.single_threaded
    assert seen.needs_runtime == (1, 14)
    assert seen.runs_on("1.14.1")
    assert seen.runs_on("1.29.0")
    assert not seen.runs_on("1.9.0")
    assert seen.operators["ScatterND"] == 4
    assert seen.carried_bytes == (943 + 1682) * 33 * 4 + 2 * 4  # tables once, the mean twice
    assert seen.tables == {"item": TableFacts(1682, 33 * 4, 33 * 4, ("item",))}
    assert (
        inspect_plan(read_plan_bytes(export("mf", "adam").onnx)).tables["item"].carried_row_bytes == 6 * 33 * 4
    )
    assert 0 < seen.step_bytes < 200_000
    assert inspect_plan(plan, examples=320).step_bytes > 5 * seen.step_bytes


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"none\.onnx cannot be read: No such file"):
        read_plan(tmp_path / "none.onnx")
    (tmp_path / "x.onnx").write_bytes(b"hello")
    with pytest.raises(PlanError, match=r"x\.onnx is not a valid plan: it is no ONNX file"):
        read_plan(tmp_path / "x.onnx")


def test_every_truncation_is_refused(export: Export) -> None:
    data = export("mf").onnx
    for length in [0, 1, 2, 3, *random.Random(1).sample(range(4, len(data)), 60)]:
        with pytest.raises(PlanError):
            read_plan_bytes(data[:length])


def test_damage_is_refused_or_harmless(export: Export) -> None:
    data = export("mf").onnx
    chance = random.Random(2)
    for _ in range(150):
        damaged = bytearray(data)
        for _ in range(chance.randint(1, 8)):
            damaged[chance.randrange(len(data))] = chance.randrange(256)
        with suppress(PlanError):  # any other error fails the test
            read_plan_bytes(bytes(damaged))


def test_a_foreign_model_is_refused() -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [value],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    model = helper.make_model(graph, producer_name="somebody", opset_imports=[helper.make_opsetid("", 18)])
    with pytest.raises(PlanError, match=r"made by somebody.*without the metadata") as caught:
        read_plan_bytes(model.SerializeToString())
    assert caught.value.hint


def test_shapes_that_differ_from_the_graph_are_refused(export: Export) -> None:
    exported = export("mlp")
    signature = exported.signature
    first = dataclasses.replace(signature.inputs[0], shape=(128, 65))
    outputs = tuple(
        dataclasses.replace(o, shape=(128, 65)) if o.replaces == first.name else o for o in signature.outputs
    )
    lying = dataclasses.replace(signature, inputs=(first, *signature.inputs[1:]), outputs=outputs)
    with pytest.raises(PlanError, match=r"shape \[128, 64\] in the graph, \[128, 65\] in the signature"):
        read_plan_bytes(_with_signature(exported, lying))


def test_shapes_that_graph_and_signature_both_lie_about_are_refused(export: Export) -> None:
    exported = export("mlp")
    signature = exported.signature
    data = dataclasses.replace(signature.input("data/x"), shape=("batch", 63))
    inputs = tuple(data if i.name == data.name else i for i in signature.inputs)

    def lie(model: onnx.ModelProto) -> None:
        value = next(v for v in model.graph.input if v.name == data.name)
        value.type.tensor_type.shape.dim[1].dim_value = 63
        helper.set_model_props(model, {METADATA_KEY: dataclasses.replace(signature, inputs=inputs).to_json()})

    with pytest.raises(PlanError, match="contradict each other"):
        read_plan_bytes(_changed(exported, lie))


def test_types_and_names_that_differ_are_refused(export: Export) -> None:
    exported = export("mlp")

    def retype(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE

    with pytest.raises(PlanError, match="is float64 in the graph, float32 in the signature"):
        read_plan_bytes(_changed(exported, retype))
    fewer = dataclasses.replace(exported.signature, outputs=exported.signature.outputs[:-1])
    with pytest.raises(PlanError, match="the signature lacks"):
        read_plan_bytes(_with_signature(exported, fewer))


def test_a_false_promise_of_sharing_memory_is_refused(export: Export) -> None:
    exported = export("mlp")
    outputs = tuple(dataclasses.replace(o, in_place=o.replaces is not None) for o in exported.signature.outputs)
    with pytest.raises(PlanError, match="may be updated in place, the graph does not"):
        read_plan_bytes(_with_signature(exported, dataclasses.replace(exported.signature, outputs=outputs)))


def test_constants_in_other_files_are_refused(export: Export) -> None:
    def externalize(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.data_location = TensorProto.EXTERNAL
        tensor.ClearField("raw_data")
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "/etc/passwd"

    with pytest.raises(PlanError):
        read_plan_bytes(_changed(export("mf"), externalize))


def _scatter_model(*extra: onnx.NodeProto, rows: str = "rows") -> onnx.ModelProto:
    nodes = [*extra, helper.make_node("ScatterND", ["p", rows, "u"], ["new"], reduction="add")]
    inputs = [
        helper.make_tensor_value_info("p", TensorProto.FLOAT, [9, 2]),
        helper.make_tensor_value_info("rows", TensorProto.INT64, ["batch", 1]),
        helper.make_tensor_value_info("u", TensorProto.FLOAT, ["batch", 2]),
    ]
    outputs = [helper.make_tensor_value_info("new", TensorProto.FLOAT, [9, 2])]
    shape = numpy_helper.from_array(np.array([18], dtype=np.int64), "flat")
    return helper.make_model(helper.make_graph(nodes, "g", inputs, outputs, [shape]))


@pytest.mark.parametrize(
    ("nodes", "safe"),
    [
        ([], True),
        ([helper.make_node("ReduceSum", ["p"], ["s"]), helper.make_node("Add", ["u", "s"], ["v"])], False),
        ([helper.make_node("Reshape", ["p", "flat"], ["w"]), helper.make_node("Relu", ["w"], ["z"])], False),
    ],
)
def test_memory_is_shared_only_where_every_reader_comes_first(nodes: list[onnx.NodeProto], safe: bool) -> None:
    assert in_place_outputs(_scatter_model(*nodes), {"new": "p"}) == ({"new"} if safe else set())


def test_a_reader_that_the_scatter_waits_for_does_no_harm() -> None:
    sizes = helper.make_node("Gather", ["p", "rows"], ["looked"])
    used = helper.make_node("ReduceSum", ["looked"], ["total"], keepdims=0)
    grown = helper.make_node("Mul", ["total", "total"], ["square"])
    cast = helper.make_node("Cast", ["square"], ["whole"], to=TensorProto.INT64)
    rows = helper.make_node("Add", ["rows", "whole"], ["moved"])
    model = _scatter_model(sizes, used, grown, cast, rows, rows="moved")
    assert in_place_outputs(model, {"new": "p"}) == {"new"}
