"""A graph on a phone is a function of arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from devicelab import Lab, RemoteRunner
from devicelab.devices.device import Device
from devicelab.errors import ConfigError, DeadlineError, DeviceBusyError, RunnerError
from devicelab.plans.engine import Engine
from devicelab.plans.optimizers import SGD
from devicelab.runner.installation import jobs_on
from devicelab.virtual.desk import VirtualDesk
from tests.runner.work import exported


def model(types: Mapping[str, int], steps: int = 1) -> bytes:
    """y_name = x_name doubled (or turned over, for truth values) for each name; numbers so many times."""
    nodes, inputs, outputs = [], [], []
    for name, kind in types.items():
        inputs.append(helper.make_tensor_value_info(f"x_{name}", kind, ["n", 3]))
        outputs.append(helper.make_tensor_value_info(f"y_{name}", kind, ["n", 3]))
        if kind == TensorProto.BOOL:
            nodes.append(helper.make_node("Not", [f"x_{name}"], [f"y_{name}"]))
            continue
        last = f"x_{name}"
        for step in range(steps):
            result = f"y_{name}" if step == steps - 1 else f"{name}_{step}"
            nodes.append(helper.make_node("Add", [last, last], [result]))
            last = result
    graph = helper.make_graph(nodes, "double", inputs, outputs)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(made)
    return made.SerializeToString()


NUMBERS = {
    "f32": TensorProto.FLOAT,
    "f64": TensorProto.DOUBLE,
    "i64": TensorProto.INT64,
    "flag": TensorProto.BOOL,
}
DTYPES = {"f32": np.float32, "f64": np.float64, "i64": np.int64, "flag": np.bool_}


@pytest.fixture(scope="module")
def lab(module_desk: VirtualDesk) -> Iterator[Lab]:
    module_desk.up(["pixel"])
    with Lab(module_desk.directory.parent, transport="direct") as lab:
        yield lab


@pytest.fixture(scope="module")
def device(lab: Lab) -> Device:
    [device] = lab.discover()
    assert device.ready, device.verdict
    return device


@pytest.fixture(scope="module")
def runner(device: Device) -> RemoteRunner:
    return RemoteRunner(device)


def test_arrays_go_in_and_come_out(runner: RemoteRunner, device: Device) -> None:
    inputs: dict[str, Any] = {
        f"x_{name}": np.arange(12).reshape(4, 3).astype(dtype) for name, dtype in DTYPES.items()
    }
    inputs["x_f32"] = inputs["x_f32"].T.copy().T  # another order in memory
    inputs["x_f64"] = inputs["x_f64"].astype(">f8")  # and the other byte order
    outputs = runner.run(model(NUMBERS), inputs)
    assert set(outputs) == {f"y_{name}" for name in NUMBERS}
    for name, dtype in DTYPES.items():
        x = inputs[f"x_{name}"]
        np.testing.assert_array_equal(outputs[f"y_{name}"], ~x if name == "flag" else x + x)
        assert outputs[f"y_{name}"].dtype == dtype
    assert jobs_on(device) == []


def test_a_plan_is_a_graph_too(lab: Lab, device: Device, tmp_path: Path) -> None:
    plan = exported("mlp", SGD(lr=0.05))
    (tmp_path / "plan.onnx").write_bytes(plan.onnx)
    step = plan.traced.step
    feeds = {**plan.initial, **{f"data/{name}": t.numpy() for name, t in step.example.items()}}
    feeds |= {
        i.name: np.asarray(i.default, i.dtype) for i in plan.signature.inputs if i.name.startswith("hyper/")
    }
    feeds = {i.name: feeds[i.name] for i in plan.signature.inputs}
    expected = Engine(plan.onnx).run(feeds)
    for found in (lab.run(device, tmp_path / "plan.onnx", feeds), device.run(plan.onnx, feeds, threads=2)):
        assert set(found) == set(expected)
        for name, value in expected.items():
            assert found[name].shape == value.shape
            np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)


def test_what_does_not_fit_is_said_by_the_runner(runner: RemoteRunner, device: Device) -> None:
    graph = model({"f32": TensorProto.FLOAT})
    good = np.zeros((1, 3), np.float32)
    for inputs, words in (
        ({}, "x_f32"),
        ({"x_f32": good.astype(np.float64)}, "x_f32"),
        ({"x_f32": good[0]}, "x_f32"),
        ({"x_f32": good, "more": good}, "2 tensors"),
    ):
        with pytest.raises(RunnerError, match=words) as caught:
            runner.run(graph, inputs)
        assert caught.value.code == "input"
        assert caught.value.device == device.serial
    with pytest.raises(RunnerError) as caught:
        runner.run(b"no graph", {})
    assert caught.value.code == "engine"
    assert jobs_on(device) == []


def test_what_no_runner_knows_is_refused_before(runner: RemoteRunner, device: Device, tmp_path: Path) -> None:
    for wrong in (np.array(["text"]), np.zeros(1, np.complex64), np.array([None])):
        with pytest.raises(ConfigError, match="which no runner knows"):
            runner.run(b"", {"x": wrong})
    with pytest.raises(ConfigError, match="cannot be read"):
        runner.run(tmp_path / "missing", {})
    bare = Device(device.serial, None, device.verdict, device.facts, device.transport)
    with pytest.raises(ConfigError, match="only a device that a Lab has found"):
        bare.run(b"", {})


def test_limits_hold(runner: RemoteRunner, device: Device) -> None:
    x = {"x_f32": np.zeros((1000, 3), np.float32)}
    with pytest.raises(RunnerError, match="more than 100"):
        runner.run(model({"f32": TensorProto.FLOAT}), x, max_bytes=100)
    large = {"x_f32": np.zeros((1_000_000, 3), np.float32)}
    with pytest.raises(DeadlineError):
        runner.run(model({"f32": TensorProto.FLOAT}, steps=2000), large, seconds=0.5)
    assert jobs_on(device) == []


def test_a_leased_device_is_not_run_on(lab: Lab, device: Device) -> None:
    with lab.lease(device, "test"), pytest.raises(DeviceBusyError):
        lab.run(device, b"", {})
