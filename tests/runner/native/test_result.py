"""A job that is done is not done again; one that only looks like it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runner.native.bench import Bench, Exported
from tests.runner.native.plans import Line, shard

Export = Callable[..., Exported]


@pytest.fixture
def job(exported: Export, bench: Bench) -> dict[str, Any]:
    return bench.plan(exported("private"), shard(Line(), 20), epochs=2)


def files(bench: Bench) -> dict[str, tuple[int, bytes]]:
    paths = [bench.job / name for name in bench.names() if name != "job.json"]
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def test_the_result_is_the_line(job: dict[str, Any], bench: Bench) -> None:
    outcome = bench.run("train", job)
    content = (bench.job / "result.json").read_bytes()
    assert content == outcome.lines[-1] + b"\n"
    document = json.loads(content)
    assert list(document) == [
        "type",
        "job",
        "examples",
        "weight",
        "peak_rss_kb",
        "steps",
        "ms",
        "update",
        "clients",
    ]
    assert set(document["ms"]) == {"start", "train", "write"}
    assert bench.names() == [
        "job.json",
        "kept/0.safetensors",
        "parameters.safetensors",
        "plan.onnx",
        "result.json",
        "shard0.safetensors",
        "update.safetensors",
    ]


def test_a_job_that_is_done_says_so_once_more(job: dict[str, Any], bench: Bench) -> None:
    first = bench.run("train", job)
    before = files(bench)
    (bench.job / "plan.onnx").unlink()  # not even looked at
    second = bench.run("train")
    assert second.code == 0
    assert second.lines[-1] == first.lines[-1]
    assert len(second.lines) == 2
    before.pop("plan.onnx")
    assert files(bench) == before


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def change(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("update.safetensors", cut),
        ("update.safetensors", change),
        ("update.safetensors", empty),
        ("update.safetensors", Path.unlink),
        ("result.json", cut),
        ("result.json", empty),
        ("result.json", Path.unlink),
    ],
)
def test_damage_makes_it_run_again(
    name: str, damage: Callable[[Path], None], job: dict[str, Any], bench: Bench
) -> None:
    bench.run("train", job)
    update = (bench.job / "update.safetensors").read_bytes()
    damage(bench.job / name)
    result = bench.run("train").trained
    assert (bench.job / "update.safetensors").read_bytes() == update
    assert result.update.bytes == len(update)


def test_the_result_of_another_job_is_none(job: dict[str, Any], bench: Bench) -> None:
    bench.run("train", job)
    outcome = bench.run("train", job | {"job": "test-2"})
    assert outcome.trained.job == "test-2"


def test_leftovers_of_a_killed_run_do_no_harm(job: dict[str, Any], bench: Bench) -> None:
    right = bench.run("train", job).trained.update
    bench.forget()
    for name in ("update.safetensors.part", "result.json.part", "kept/0.safetensors.part"):
        (bench.job / name).write_bytes(b"x" * 100_000)
    assert bench.run("train").trained.update == right
    assert not [name for name in bench.names() if name.endswith(".part")]


def test_one_runner_at_a_time(job: dict[str, Any], bench: Bench) -> None:
    job |= {"epochs": None, "steps": 10_000_000}
    bench.ask(job)
    with bench.start("train") as first:
        assert first.stdout is not None
        while b'"progress"' not in first.stdout.readline():
            pass
        second = bench.run("train")
        assert (second.code, second.failure.code) == (65, "job")
        first.terminate()
        first.communicate()
    assert bench.run("train", job | {"steps": 3}).code == 0
