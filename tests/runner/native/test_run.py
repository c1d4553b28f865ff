"""Any graph, run once."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from devicelab.runner.messages import RunResult
from tests.runner.native.bench import Bench
from tests.runner.native.graphs import adding_scatter, graph, identity, tensor

TYPES = {
    np.float32: TensorProto.FLOAT,
    np.float64: TensorProto.DOUBLE,
    np.float16: TensorProto.FLOAT16,
    np.int64: TensorProto.INT64,
    np.int32: TensorProto.INT32,
    np.int16: TensorProto.INT16,
    np.int8: TensorProto.INT8,
    np.uint64: TensorProto.UINT64,
    np.uint32: TensorProto.UINT32,
    np.uint16: TensorProto.UINT16,
    np.uint8: TensorProto.UINT8,
    np.bool_: TensorProto.BOOL,
}


def job(bench: Bench, content: bytes, inputs: dict[str, np.ndarray[Any, Any]], **more: Any) -> dict[str, Any]:
    return {
        "protocol": 1,
        "job": "run-1",
        "verb": "run",
        "plan": bench.write("graph.onnx", content),
        "inputs": bench.tensors("inputs.safetensors", inputs),
        **more,
    }


@pytest.mark.parametrize("dtype", TYPES, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("shape", [(), (3,), (2, 0, 4), (1, 2, 1, 2, 1, 2, 1, 3)], ids=str)
def test_all_types_and_shapes(dtype: type, shape: tuple[int, ...], bench: Bench) -> None:
    values: np.ndarray[Any, Any] = (np.arange(np.prod(shape)).reshape(shape) % 2).astype(dtype)
    outcome = bench.run("run", job(bench, identity(TYPES[dtype], len(shape)), {"x": values}))
    result = outcome.messages[-1]
    assert isinstance(result, RunResult), outcome
    found = bench.load("outputs.safetensors")["y"]
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)
    assert result.outputs.bytes == (bench.job / "outputs.safetensors").stat().st_size


def test_a_graph_that_does_not_tell_its_shapes(bench: Bench) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert bench.run("run", job(bench, identity(TensorProto.FLOAT, None), {"x": values})).code == 0
    np.testing.assert_array_equal(bench.load("outputs.safetensors")["y"], values)


def test_bfloat16(bench: Bench) -> None:
    header = b'{"x":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}} '
    content = struct.pack("<Q", len(header)) + header + b"\x80\x3f\x00\x40"
    asked = job(bench, identity(TensorProto.BFLOAT16), {})
    bench.write("inputs.safetensors", content)
    assert bench.run("run", asked).code == 0
    assert (bench.job / "outputs.safetensors").read_bytes().endswith(b"\x80\x3f\x00\x40")


def test_several_inputs_and_outputs(bench: Bench) -> None:
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Mul", ["a", "b"], ["product"])]
    content = graph(
        nodes, [tensor("a", ["n"]), tensor("b", ["n"])], [tensor("sum", ["n"]), tensor("product", ["n"])]
    )
    a, b = np.arange(5, dtype=np.float32), np.full(5, 3, np.float32)
    assert bench.run("run", job(bench, content, {"b": b, "a": a})).code == 0
    outputs = bench.load("outputs.safetensors")
    np.testing.assert_array_equal(outputs["sum"], a + b)
    np.testing.assert_array_equal(outputs["product"], a * b)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, "lacks"),
        ({"x": np.zeros(3, np.float64)}, "F64"),
        ({"x": np.zeros((3, 1), np.float32)}, "[3,1]"),
        ({"x": np.zeros(4, np.float32)}, "[4]"),
        ({"x": np.zeros(3, np.float32), "z": np.zeros(1)}, "2 tensors"),
    ],
)
def test_inputs_that_do_not_fit(inputs: dict[str, Any], words: str, bench: Bench) -> None:
    content = graph([helper.make_node("Abs", ["x"], ["y"])], [tensor("x", [3])], [tensor("y", [3])])
    outcome = bench.run("run", job(bench, content, inputs))
    assert (outcome.code, outcome.failure.code) == (66, "input")
    assert words in outcome.failure.message
    assert "outputs.safetensors" not in bench.names()


def _sum(bench: Bench, inputs: Any) -> Any:
    content = graph(
        [helper.make_node("Add", ["a", "b"], ["sum"])],
        [tensor("a", ["n"]), tensor("b", ["n"])],
        [tensor("sum", ["n"])],
    )
    return bench.run("run", job(bench, content, {}) | {"inputs": inputs})


def test_inputs_from_several_files_are_taken_from_the_first_that_has_them(bench: Bench) -> None:
    one, two = np.ones(2, np.float32), np.full(2, 5, np.float32)
    first = bench.tensors("first.safetensors", {"a": one, "unread": np.zeros(3, np.int64)})
    second = bench.tensors("second.safetensors", {"b": two, "a": two, "unread": np.zeros(1)})
    assert _sum(bench, [first, second]).code == 0
    assert bench.load("outputs.safetensors")["sum"].tolist() == [6, 6]


def test_inputs_that_no_file_has(bench: Bench) -> None:
    files = [bench.tensors(f"{n}.safetensors", {"a": np.ones(2, np.float32)}) for n in range(2)]
    outcome = _sum(bench, files)
    assert (outcome.code, outcome.failure.code) == (66, "input")
    assert 'none of 2 files of inputs has "b"' in outcome.failure.message


@pytest.mark.parametrize("inputs", [[], ["x"] * 5, [1], [["x"]], {}, ""])
def test_lists_of_inputs_that_are_none(inputs: Any, bench: Bench) -> None:
    outcome = _sum(bench, inputs)
    assert (outcome.code, outcome.failure.code) == (65, "job")


def test_a_graph_with_words_is_refused(bench: Bench) -> None:
    outcome = bench.run("run", job(bench, identity(TensorProto.STRING), {"x": np.zeros(1)}))
    assert (outcome.code, outcome.failure.code) == (66, "input")


def test_a_graph_whose_output_is_no_tensor_is_refused(bench: Bench) -> None:
    sequence = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    content = graph([helper.make_node("SequenceConstruct", ["x"], ["y"])], [tensor("x", [1])], [sequence])
    outcome = bench.run("run", job(bench, content, {"x": np.zeros(1, np.float32)}))
    assert (outcome.code, outcome.failure.code) == (66, "input")


def test_a_scatter_that_adds_runs_in_one_thread(bench: Bench) -> None:
    inputs = {"x": np.zeros(4, np.float32), "i": np.array([[1], [1]]), "u": np.ones(2, np.float32)}
    outcome = bench.run("run", job(bench, adding_scatter(), inputs, threads=2))
    assert (outcome.code, outcome.failure.code) == (65, "job")
    assert bench.run("run", job(bench, adding_scatter(), inputs, threads=1)).code == 0
    np.testing.assert_array_equal(bench.load("outputs.safetensors")["y"], [0, 2, 0, 0])
    assert (
        bench.run(
            "run", job(bench, identity(TensorProto.FLOAT), {"x": np.zeros(1, np.float32)}, threads=2)
        ).code
        == 0
    )


def test_an_operator_that_fails_is_the_engines_failure(bench: Bench) -> None:
    content = graph(
        [helper.make_node("MatMul", ["x", "x"], ["y"])], [tensor("x", ["a", "b"])], [tensor("y", ["a", "c"])]
    )
    outcome = bench.run("run", job(bench, content, {"x": np.zeros((2, 3), np.float32)}))
    assert (outcome.code, outcome.failure.code) == (70, "engine")
    assert "ONNX Runtime" in outcome.failure.message
