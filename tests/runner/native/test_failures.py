"""Every way to fail has its code, exit code and message, and leaves nothing half-done under a final name."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from devicelab.runner.messages import Hello
from tests.runner.native import graphs
from tests.runner.native.bench import SECONDS, Bench, Exported, own_runner
from tests.runner.native.plans import Line, Table, shard

Export = Callable[..., Exported]
Job = dict[str, Any]


@pytest.fixture
def job(exported: Export, bench: Bench) -> Job:
    return bench.plan(exported("line"), shard(Line(), 20))


def refused(
    bench: Bench, job: Job | str | bytes, code: int, word: str, *, verb: str = "train", **options: Any
) -> str:
    """Run a job that must fail in this way; the message."""
    outcome = bench.run(verb, job, **options)
    assert (outcome.code, outcome.failure.code) == (code, word), outcome
    final = {"update.safetensors", "outputs.safetensors", "result.json"}
    assert final.isdisjoint(bench.names())
    assert not [name for name in bench.names() if name.endswith(".part")]
    return outcome.failure.message


def limited(option: str, amount: int) -> list[str]:
    """Words before a command that set a limit of the shell's ``ulimit``."""
    return ["sh", "-c", f'ulimit {option} {amount}; exec "$@"', "sh"]


def alone(arguments: Sequence[str], bench: Bench) -> subprocess.CompletedProcess[bytes]:
    command = [str(own_runner()), *arguments]
    return subprocess.run(command, env=bench.environment, capture_output=True, timeout=SECONDS, check=False)


def test_info_is_a_hello(bench: Bench) -> None:
    run = alone(["info"], bench)
    assert run.returncode == 0
    [line] = run.stdout.splitlines()
    hello = json.loads(line)
    assert hello["type"] == "hello"
    assert hello["protocol"] == 1
    assert hello["system"] == "linux"
    assert hello["abi"] == os.uname().machine


@pytest.mark.parametrize(
    "arguments",
    [[], ["train"], ["train", "a", "b"], ["info", "x"], ["unknown", "job.json"], ["--help"], ["train", ""]],
)
def test_usage(arguments: list[str], bench: Bench) -> None:
    run = alone(arguments, bench)
    assert run.returncode == 64
    hello, error = map(json.loads, run.stdout.splitlines())
    assert hello["type"] == "hello"
    assert error["code"] == "usage"
    assert "client" not in error


def test_a_missing_engine_is_the_linkers_to_report(bench: Bench, job: Job) -> None:
    (bench.engine / "libonnxruntime.so").unlink()
    outcome = bench.run("train", job)
    assert outcome.code == 127
    assert outcome.lines == []
    assert "libonnxruntime.so" in outcome.errors


def test_a_job_that_is_not_there(bench: Bench) -> None:
    assert bench.run("train").failure.code == "job"
    run = alone(["train", str(bench.root / "nowhere" / "job.json")], bench)
    assert run.returncode == 65


BROKEN: dict[str, Any] = {
    "no JSON": "{",
    "no object": "[]",
    "more after it": '{"protocol":1} {}',
    "not UTF-8": b'{"protocol":1,"job":"\xff"}',
    "a protocol of the future": {"protocol": 2},
    "an unknown field": {"colour": "red"},
    "another verb": {"verb": "evaluate"},
    "an id with a slash": {"job": "a/b"},
    "an id that begins with a dot": {"job": ".a"},
    "an empty id": {"job": ""},
    "a long id": {"job": "x" * 65},
    "no plan": {"plan": None},
    "no parameters": {"parameters": None},
    "no clients": {"clients": None},
    "an empty list of clients": {"clients": []},
    "a client twice": {
        "clients": [{"client": "a", "shard": "s", "seed": 1}, {"client": "a", "shard": "s", "seed": 1}]
    },
    "a client without a seed": {"clients": [{"client": "a", "shard": "s"}]},
    "a negative seed": {"clients": [{"client": "a", "shard": "s", "seed": -1}]},
    "a seed of 64 bits": {"clients": [{"client": "a", "shard": "s", "seed": 2**63}]},
    "a weight of zero": {"clients": [{"client": "a", "shard": "s", "seed": 1, "weight": 0}]},
    "one place for two": {"clients": [{"client": c, "shard": "s", "seed": 1, "kept": "k"} for c in "ab"]},
    "no batch size": {"batch_size": None},
    "a batch size of zero": {"batch_size": 0},
    "epochs and steps": {"steps": 3},
    "neither epochs nor steps": {"epochs": None},
    "half an epoch": {"epochs": 0.5},
    "no way to combine": {"combine": None},
    "an unknown way to combine": {"combine": "median"},
    "a negative norm": {"clip_norm": -1},
    "inputs for training": {"inputs": "x"},
    "no threads": {"threads": 0},
    "too many threads": {"threads": 65},
    "a hyper that the plan lacks": {"hyper": {"mu": 0.1}},
    "a seed for all": {"hyper": {"seed": 3}},
    "a hyper that is no number": {"hyper": {"lr": "high"}},
    "a hyper beyond the type": {"hyper": {"lr": 1e300}},
    "a path with a zero byte": {"plan": "a\0b"},
    "an empty path": {"plan": ""},
}


@pytest.mark.parametrize("fault", BROKEN)
def test_jobs_that_are_not_valid(fault: str, job: Job, bench: Bench) -> None:
    broken = BROKEN[fault]
    message = refused(bench, job | broken if isinstance(broken, dict) else broken, 65, "job")
    assert len(message) > 10


def test_threads_where_the_plan_scatters_with_add(exported: Export, bench: Bench) -> None:
    job = bench.plan(exported("table"), shard(Table(), 20), threads=2)
    assert "threads" in refused(bench, job, 65, "job")


def test_an_update_of_too_many_tensors(job: Job, bench: Bench) -> None:
    client = job["clients"][0]
    many = [client | {"client": f"c{n}", "kept": None} for n in range(40_000)]
    assert "65536" in refused(bench, job | {"clients": many}, 65, "job")


def change_file(name: str, content: bytes | None) -> Callable[[Bench], None]:
    def change(bench: Bench) -> None:
        if content is None:
            (bench.job / name).unlink()
        else:
            (bench.job / name).write_bytes(content)

    return change


def change_tensors(name: str, **arrays: np.ndarray[Any, Any] | None) -> Callable[[Bench], None]:
    def change(bench: Bench) -> None:
        found: dict[str, Any] = {**bench.load(name), **arrays}
        bench.tensors(name, {key: array for key, array in found.items() if array is not None})

    return change


def directory_instead(name: str) -> Callable[[Bench], None]:
    def change(bench: Bench) -> None:
        (bench.job / name).unlink()
        (bench.job / name).mkdir()

    return change


def fifo_instead(name: str) -> Callable[[Bench], None]:
    def change(bench: Bench) -> None:
        (bench.job / name).unlink()
        os.mkfifo(bench.job / name)

    return change


def shorten(name: str) -> Callable[[Bench], None]:
    def change(bench: Bench) -> None:
        path = bench.job / name
        path.write_bytes(path.read_bytes()[:-1])

    return change


SHARD, PARAMETERS = "shard0.safetensors", "parameters.safetensors"
DAMAGED: dict[str, Callable[[Bench], None]] = {
    "no shard": change_file(SHARD, None),
    "an empty shard": change_file(SHARD, b""),
    "a shard that is cut off": shorten(SHARD),
    "a shard that is a directory": directory_instead(SHARD),
    "a shard that is a FIFO": fifo_instead(SHARD),
    "no parameters": change_file(PARAMETERS, None),
    "parameters that are cut off": shorten(PARAMETERS),
    "parameters with one missing": change_tensors(PARAMETERS, **{"param/bias": None}),
    "a parameter of another shape": change_tensors(PARAMETERS, **{"param/bias": np.zeros(4, np.float32)}),
    "a parameter of another type": change_tensors(PARAMETERS, **{"param/bias": np.zeros(3, np.float64)}),
    "data that is missing": change_tensors(SHARD, x=None),
    "data of another type": change_tensors(SHARD, x=np.zeros((20, 4), np.float64)),
    "data of another width": change_tensors(SHARD, x=np.zeros((20, 5), np.float32)),
    "data of another rank": change_tensors(SHARD, x=np.zeros((20,), np.float32)),
    "data of another length": change_tensors(SHARD, x=np.zeros((19, 4), np.float32)),
    "no examples": change_tensors(SHARD, x=np.zeros((0, 4), np.float32), y=np.zeros((0, 3), np.float32)),
    "a plan without a signature": change_file("plan.onnx", graphs.identity(1)),
}


@pytest.mark.parametrize("fault", DAMAGED)
def test_files_that_are_missing_damaged_or_do_not_fit(fault: str, job: Job, bench: Bench) -> None:
    DAMAGED[fault](bench)
    assert len(refused(bench, job, 66, "input")) > 10


@pytest.mark.parametrize("item", [-1, 50, 2**40])
def test_data_outside_its_range_is_refused_before_the_first_step(
    item: int, exported: Export, bench: Bench
) -> None:
    data = shard(Table(), 20)
    data["item"][13] = item
    outcome = bench.run("train", bench.plan(exported("table"), shard(Table(), 4), data))
    assert (outcome.code, outcome.failure.code, outcome.failure.client) == (66, "input", "c1")
    assert str(item) in outcome.failure.message


def signature_of(exported: Export) -> Job:
    document: Job = json.loads(exported("line").signature.to_json())
    return document


SIGNATURES: dict[str, Callable[[Job], object]] = {
    "an input that the graph lacks": lambda s: s["inputs"].append(s["inputs"][-1] | {"name": "hyper/mu"}),
    "an input that the graph has and it lacks": lambda s: s["inputs"].pop(-1),
    "another name": lambda s: s["inputs"][0].update(name="param/other"),
    "another shape": lambda s: s["inputs"][-1].update(shape=[1]),
    "another type": lambda s: s["inputs"][-1].update(dtype="float64"),
    "an output that the graph lacks": lambda s: s["outputs"].pop(0),
    "a version of the future": lambda s: s.update(version=2),
    "an unknown field": lambda s: s.update(colour="red"),
}


@pytest.mark.parametrize("fault", SIGNATURES)
def test_signatures_that_do_not_fit_their_graph(fault: str, job: Job, exported: Export, bench: Bench) -> None:
    import onnx

    document = signature_of(exported)
    SIGNATURES[fault](document)
    model = onnx.load_model_from_string(exported("line").content)
    onnx.helper.set_model_props(model, {"devicelab.signature": json.dumps(document)})
    bench.write("plan.onnx", model.SerializeToString())
    refused(bench, job, 66, "input")


@pytest.mark.parametrize("content", [b"no protobuf at all", b"\x08\x09"])
def test_a_plan_that_the_engine_does_not_take(content: bytes, job: Job, bench: Bench) -> None:
    bench.write("plan.onnx", content)
    refused(bench, job, 70, "engine")


def test_a_plan_that_is_not_there_is_an_input(job: Job, bench: Bench) -> None:
    bench.write("plan.onnx", b"")
    refused(bench, job, 66, "input")
    (bench.job / "plan.onnx").unlink()
    refused(bench, job, 66, "input")


def test_too_little_memory_for_the_values(bench: Bench) -> None:
    size = 1 << 40
    job = {
        "protocol": 1,
        "job": "m",
        "verb": "run",
        "plan": bench.write("graph.onnx", graphs.large_result()),
        "inputs": bench.tensors(
            "inputs.safetensors", {"x": np.zeros(1, np.float32), "shape": np.array([size])}
        ),
    }
    refused(bench, job, 71, "memory", verb="run", prefix=limited("-v", 2 << 20))


@pytest.mark.parametrize("megabytes", [46, 50, 54, 58, 62, 66, 70])
def test_whatever_runs_out_of_memory_says_so(megabytes: int, exported: Export, bench: Bench) -> None:
    job = bench.plan(exported("mlp"), shard(exported("mlp").traced.step.plan, 40))
    outcome = bench.run("train", job, prefix=limited("-v", megabytes << 10))
    assert outcome.code in (0, 71, 127)  # enough, too little, or too little to load the engine at all
    if outcome.code == 71:
        assert outcome.failure.code == "memory"


def test_too_little_memory_for_a_batch(exported: Export, bench: Bench) -> None:
    examples = 4_000_000  # 112 MB, which are mapped and then gathered
    job = bench.plan(exported("line"), shard(Line(), examples), batch_size=examples)
    refused(bench, job, 71, "memory", prefix=limited("-v", 256 << 10))


def test_a_file_that_cannot_become_that_large(job: Job, bench: Bench) -> None:
    message = refused(bench, job, 73, "output", prefix=limited("-f", 0))
    assert "update.safetensors" in message


@pytest.mark.parametrize("name", ["update.safetensors.part", "result.json.part"])
def test_a_directory_that_cannot_be_written_to(name: str, job: Job, bench: Bench) -> None:
    (bench.job / name).mkdir()
    outcome = bench.run("train", job)
    assert (outcome.code, outcome.failure.code) == (73, "output")
    assert "result.json" not in bench.names()


def test_a_full_disk(job: Job, bench: Bench) -> None:
    """A file system of 64 KiB in a namespace of its own, on which there is no room for the update."""
    mounted = bench.root / "disk"
    mounted.mkdir()
    script = (
        f"mount -t tmpfs -o size=64k none {mounted} && cp {bench.job}/* {mounted} && "
        f'head -c 1000000 /dev/zero >{mounted}/rest 2>/dev/null; "$0" train {mounted}/job.json; code=$?; '
        f"ls {mounted} >&2; exit $code"
    )
    bench.ask(job)
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(own_runner())]
    run = subprocess.run(
        command, env={**os.environ, **bench.environment}, capture_output=True, timeout=SECONDS, check=False
    )
    assert run.returncode == 73, run
    error = json.loads(run.stdout.splitlines()[-1])
    assert error["code"] == "output"
    assert "full" in error["message"]
    left = run.stderr.decode().split()
    assert "update.safetensors" not in left
    assert "update.safetensors.part" not in left


def test_stdout_on_a_full_disk(job: Job, bench: Bench) -> None:
    bench.ask(job)
    with Path("/dev/full").open("wb") as full, bench.start("train", stdout=full.fileno()) as process:
        assert process.wait(SECONDS) == 73


def test_a_loss_that_is_not_finite_names_client_and_step(exported: Export, bench: Bench) -> None:
    data = shard(Line(), 20)
    data["x"][:] = 1e30
    job = bench.plan(exported("line"), shard(Line(), 20), data, combine="sum")
    outcome = bench.run("train", job)
    assert (outcome.code, outcome.failure.code, outcome.failure.client) == (76, "not-finite", "c1")
    assert "step 1" in outcome.failure.message
    assert "update.safetensors" not in bench.names()


def test_a_value_that_is_not_finite(job: Job, bench: Bench) -> None:
    data = shard(Line(), 20)
    bench.tensors(SHARD, data | {"x": data["x"] * 1000})
    message = refused(bench, job | {"steps": 1, "epochs": None, "hyper": {"lr": 3e38}}, 76, "not-finite")
    assert "param/" in message


def test_messages_may_hold_anything(job: Job, bench: Bench) -> None:
    name = 'qu"ote\\back\nline\x01\x7f ünï.onnx'
    outcome = bench.run("train", job | {"plan": name})
    assert isinstance(outcome.messages[0], Hello)
    assert json.loads(outcome.lines[-1])["message"].startswith(f"{name}: ")
