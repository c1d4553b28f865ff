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
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from devicelab.errors import PlanError
from devicelab.files import cache_dir
from devicelab.plans.optimizers import Adam
from devicelab.plans.signature import BATCH, Input, Output, Role, Signature
from devicelab.runner.native import build
from tests.runner.native.bench import Exported, export
from tests.runner.native.mutations import mutants
from tests.runner.native.plans import PLANS, Baskets, Ratings

Export = Callable[..., Exported]
MEGABYTES = 160  # address space of the process, its program and stack included
ACCEPTED, JOB, INPUT, MEMORY = 0, 65, 66, 71

SOME_ROWS = Signature(
    "rows",
    "train",
    (
        Input("param/table", Role.PARAMETER, "float32", (10, 2), rows="item"),
        Input("state/m", Role.STATE, "float32", (10, 2), rows="item"),
        Input("anchor/table", Role.ANCHOR, "float32", (10, 2), of="param/table", rows="item"),
        Input("data/items", Role.DATA, "int32", (BATCH, 3), range=(0, 9), rows="item"),
        Input("data/more", Role.DATA, "int64", (BATCH,), rows="item"),
    ),
    (
        Output("loss", Role.LOSS, "float32", ()),
        Output("new/table", Role.PARAMETER, "float32", (10, 2), replaces="param/table", in_place=True),
        Output("new/m", Role.STATE, "float32", (10, 2), replaces="state/m"),
    ),
)


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


def fuzz(harness: Path, reader: str, seeds: Sequence[bytes], count: int, *, before: bytes = b"") -> list[bytes]:
    """The damaged inputs that were accepted; what is before each is whole."""
    assert set(verdicts(harness, reader, [before + seed for seed in seeds])) == {ACCEPTED}
    inputs = [before + each for each in mutants(seeds, count, seed=len(reader) + count)]
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
    plans += [export(Ratings(Adam(lr=0.01))), export(Baskets())]
    for each in fuzz(harness, "s", [plan.signature.to_json().encode() for plan in plans], 8000):
        Signature.from_json(each.decode())  # by whose rules the runner goes


def test_what_the_signatures_rules_refuse_is_refused(harness: Path, exported: Export) -> None:
    plans = [exported("near"), exported("table"), export(Baskets())]
    seeds = [*(plan.signature.to_json().encode() for plan in plans), SOME_ROWS.to_json().encode()]
    inputs = list(mutants(seeds, 2500, seed=1))
    for each, verdict in zip(inputs, verdicts(harness, "s", inputs), strict=True):
        try:
            Signature.from_json(each.decode())
        except (PlanError, UnicodeDecodeError):
            assert verdict != ACCEPTED, each


def signature_first() -> bytes:
    """What the harness has before some rows of a table and a shard in one file."""
    signature = SOME_ROWS.to_json().encode()
    return struct.pack("<I", len(signature)) + signature


def test_some_rows(harness: Path) -> None:
    table = np.ones((3, 2), np.float32)
    numbers = np.array([[9, 2, 2], [5, 9, 5]], np.int32)
    good: dict[str, Any] = {
        "param/table": table,
        "rows/item": np.array([2, 5, 9]),
        "items": numbers,
        "more": np.array([2, 9]),
    }
    whole = {"param/table": np.ones((10, 2), np.float32), "items": numbers, "more": np.array([0, 1])}
    fuzz(
        harness, "r", [save(good), save(good | {"state/m": table}), save(whole)], 9000, before=signature_first()
    )


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(-1, 10), max_size=5) | st.sets(st.integers(0, 9), min_size=1).map(sorted),
            st.lists(st.integers(0, 9), min_size=3, max_size=9),
            st.integers(-1, 1) | st.just(0),
        ),
        min_size=1,
        max_size=60,
    )
)
@settings(max_examples=60, deadline=None)
def test_rows_are_renumbered_or_refused(harness: Path, cases: list[tuple[list[int], list[int], int]]) -> None:
    """The harness itself looks whether each place is that of its row."""
    inputs, expected = [], []
    for rows, numbers, more in cases:
        examples = len(numbers) // 3
        items = np.array(numbers[: 3 * examples], np.int32).reshape(examples, 3)
        arrays: dict[str, Any] = {
            "param/table": np.ones((max(0, len(rows) + more), 2), np.float32),
            "rows/item": np.array(rows, np.int64),
            "items": items,
            "more": np.resize(np.array(rows[-1:] or [0], np.int64), examples),
        }
        ascending = len(rows) > 0 and rows == sorted(set(rows)) and rows[0] >= 0 and rows[-1] < 10
        good = ascending and more == 0 and set(items.ravel().tolist()) <= set(rows)
        inputs.append(signature_first() + save(arrays))
        expected.append(ACCEPTED if good else INPUT)
    assert verdicts(harness, "r", inputs) == bytes(expected)


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
