"""Everything that the runner asks of ONNX Runtime's C API, of the oldest release that it takes."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from devicelab.plans.signature import Role
from devicelab.runner.messages import Hello, Progress
from devicelab.runner.parsing import parse_message
from tests.runner.native.bench import SECONDS, Bench, Exported, outcome
from tests.runner.native.graphs import LOOP_INPUT, identity, long_loop
from tests.runner.native.learning import trained
from tests.runner.native.oldest import VERSION, oldest_engine
from tests.runner.native.plans import Line, shard

Export = Callable[..., Exported]
pytestmark = pytest.mark.timeout(1000)  # a slow network is no failure


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, oldest_engine())


@pytest.mark.parametrize("model", ["mf", "mlp", "normalized", "adam", "near", "private"])
def test_it_learns_what_pytorch_learns(model: str, exported: Export, bench: Bench) -> None:
    plan = exported(model)
    evaluation = bench.write("evaluation.onnx", exported(model, "evaluate").content)
    data = [shard(plan.traced.step.plan, examples, seed=examples) for examples in (30, 13)]
    result = trained(bench, plan, data, epochs=2, evaluation=evaluation)
    for client in result.clients:
        assert client.loss_before is not None
        assert client.loss_after is not None
        assert client.loss_after < client.loss_before
    if plan.signature.with_role(Role.PRIVATE):
        assert bench.run("commit").document["committed"] == len(data)


def test_any_graph(bench: Bench) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    job = {
        "protocol": 1,
        "job": "run-1",
        "verb": "run",
        "plan": bench.write("graph.onnx", identity(TensorProto.FLOAT, None)),
        "inputs": bench.tensors("inputs.safetensors", {"x": values}),
    }
    done = bench.run("run", job)
    assert done.code == 0, done
    hello = done.messages[0]
    assert isinstance(hello, Hello)
    assert hello.engine == VERSION
    np.testing.assert_array_equal(bench.load("outputs.safetensors")["y"], values)


def test_what_it_refuses_has_its_words(exported: Export, bench: Bench) -> None:
    job = bench.plan(exported("line"), shard(Line(), 20))
    bench.write("plan.onnx", b"\x08\x09")
    refused = bench.run("train", job)
    assert (refused.code, refused.failure.code) == (70, "engine")
    assert VERSION in refused.failure.message


def test_a_step_without_an_end_is_ended(bench: Bench) -> None:
    inputs = {**LOOP_INPUT, "times": np.array(1 << 40)}
    bench.ask(
        {
            "protocol": 1,
            "job": "loop",
            "verb": "run",
            "plan": bench.write("graph.onnx", long_loop()),
            "inputs": bench.tensors("inputs.safetensors", inputs),
        }
    )
    with bench.start("run") as process:
        assert process.stdout is not None
        assert isinstance(parse_message(process.stdout.readline()), Hello)
        for _ in range(2):
            assert isinstance(parse_message(process.stdout.readline()), Progress)
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=SECONDS)
    stopped = outcome(process.returncode, out, errors)
    assert stopped.code == 75
    assert b'"stopped"' in stopped.lines[-1]
