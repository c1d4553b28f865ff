"""Damaged inputs never crash the readers, never hang them, and never make them take much memory."""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from safetensors.numpy import save

from devicelab.errors import PlanError
from devicelab.files import cache_dir
from devicelab.plans.signature import Signature
from devicelab.runner.native import build
from tests.runner.native.bench import Exported
from tests.runner.native.mutations import mutants
from tests.runner.native.plans import PLANS

Export = Callable[..., Exported]
MEGABYTES = 160  # address space of the process, its program and stack included
ACCEPTED, JOB, INPUT, MEMORY = 0, 65, 66, 71


@pytest.fixture(scope="session")
def harness() -> Path:
    return build.refresh_fuzzer(cache_dir() / "runners")


def verdicts(harness: Path, reader: str, inputs: Sequence[bytes]) -> bytes:
    """What the reader says to each input, in one process."""
    stream = b"".join(reader.encode() + struct.pack("<I", len(each)) + each for each in inputs)
    limited = ["sh", "-c", f'ulimit -v {MEGABYTES << 10}; exec "$0"', str(harness)]
    run = subprocess.run(limited, input=stream, capture_output=True, timeout=150, check=False)
    said = run.stdout
    if run.returncode or len(said) != len(inputs):
        raise AssertionError(f"{run.stderr.decode()} on {inputs[len(said)]!r:.2000}")
    return said


def fuzz(harness: Path, reader: str, seeds: Sequence[bytes], count: int) -> list[bytes]:
    """The damaged inputs that were accepted."""
    assert set(verdicts(harness, reader, seeds)) == {ACCEPTED}
    inputs = list(mutants(seeds, count, seed=len(reader) + count))
    said = verdicts(harness, reader, inputs)
    assert set(said) <= {ACCEPTED, JOB if reader == "j" else INPUT, MEMORY}
    accepted = [each for each, verdict in zip(inputs, said, strict=True) if verdict == ACCEPTED]
    assert count // 100 < len(accepted) < count // 2  # some faults do no harm, most do
    return accepted


def test_jobs(harness: Path) -> None:
    client: dict[str, Any] = {"client": "a", "shard": "cache/0", "seed": 3, "weight": 2.5, "kept": "private/a"}
    train = {
        "protocol": 1,
        "job": "r3-ab12",
        "verb": "train",
        "plan": "../cache/plan",
        "threads": 1,
        "parameters": "../cache/parameters",
        "clients": [client, client | {"client": "b\u00e9"[:1], "kept": None, "weight": None}],
        "batch_size": 32,
        "hyper": {"lr": 0.1, "mu": 1e-3},
        "epochs": 2,
        "shuffle": True,
        "state": "keep",
        "combine": "sum",
        "clip_norm": 1.5,
        "evaluation": "ev\u00e4l.onnx",
    }
    evaluate = {key: train[key] for key in ("protocol", "job", "plan", "parameters", "clients", "batch_size")}
    documents = [
        train,
        train | {"epochs": None, "steps": 12, "combine": "each"},
        evaluate | {"verb": "evaluate"},
        {"protocol": 1, "job": "x", "verb": "run", "plan": "p", "inputs": "i"},
    ]
    seeds = [json.dumps(document, ensure_ascii=n % 2 == 0).encode() for n, document in enumerate(documents)]
    for each in fuzz(harness, "j", seeds, 8000):
        json.loads(each.decode())  # what is no JSON for Python is none for the runner


def test_tensors(harness: Path) -> None:
    arrays: dict[str, Any] = {
        "param/weight": np.arange(12, dtype=np.float32).reshape(3, 4),
        "count": np.array(3, dtype=np.int64),
        "flags": np.zeros((2, 0, 3), dtype=np.bool_),
        "bytes": np.arange(5, dtype=np.uint8),
        "half": np.ones((2, 2), dtype=np.float16),
    }
    seeds = [
        save(arrays),
        save(arrays, metadata={"format": "np", "a": "\u00e9"}),
        save({}),
        save({"x": np.ones(1)}),
    ]
    for each in fuzz(harness, "t", seeds, 9000):
        # The format's own reader takes it as well.
        found = dict(safetensors.deserialize(each))  # type: ignore[no-untyped-call] # has no stubs
        assert len(found) <= len(arrays) + 1


def test_signatures(harness: Path, exported: Export) -> None:
    plans = [exported(name) for name in PLANS] + [exported("line", "evaluate")]
    for each in fuzz(harness, "s", [plan.signature.to_json().encode() for plan in plans], 8000):
        Signature.from_json(each.decode())  # by whose rules the runner goes


def test_what_the_signatures_rules_refuse_is_refused(harness: Path, exported: Export) -> None:
    seeds = [exported(name).signature.to_json().encode() for name in ("near", "table")]
    inputs = list(mutants(seeds, 1500, seed=1))
    for each, verdict in zip(inputs, verdicts(harness, "s", inputs), strict=True):
        try:
            Signature.from_json(each.decode())
        except (PlanError, UnicodeDecodeError):
            assert verdict != ACCEPTED, each


def test_graphs(harness: Path, exported: Export) -> None:
    fuzz(harness, "g", [exported(name).content for name in ("line", "table")], 3000)


def test_documents_that_are_long_rather_than_damaged(harness: Path) -> None:
    deep = b"[" * 1_000_000
    wide = b'{"protocol":1,' + b'"x":1,' * 100_000 + b'"y":2}'
    names = b'{"' + b"a" * 10_000_000 + b'":1}'
    escapes = b'{"' + b"\\u0041" * 1_000_000 + b'":1}'
    digits = b'{"protocol":' + b"1" * 1_000_000 + b"}"
    documents = [deep, wide, names, escapes, digits, b'{"hyper":' + b'{"lr":' * 100_000]
    assert set(verdicts(harness, "j", documents)) == {JOB}
    assert set(verdicts(harness, "s", documents)) == {INPUT}
    headers = [struct.pack("<Q", len(each)) + each for each in documents]
    headers += [struct.pack("<Q", 2**63), struct.pack("<Q", 99_999_999), struct.pack("<Q", 100_000_001) + b"{}"]
    assert set(verdicts(harness, "t", headers)) == {INPUT}


def test_as_many_tensors_as_there_may_be(harness: Path) -> None:
    def header(count: int) -> bytes:
        entries = (f'"t{n}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for n in range(count))
        text = ("{" + ",".join(entries) + "}").encode()
        return struct.pack("<Q", len(text)) + text

    assert verdicts(harness, "t", [header(65_536), header(65_537)]) == bytes([ACCEPTED, INPUT])
