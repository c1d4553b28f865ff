"""``devicelab export-plan`` as users run it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from devicelab.plans.reader import read_plan
from tests.cli.command import devicelab, document

_EXPERIMENT = """
name: toy
plan: {plan}
data: {{source: digits, partition: {{by: iid, clients: 4}}}}
round: {{rounds: 1, epochs: 1, batch_size: 8}}
"""


def _experiment(directory: Path, plan: str = "{class: devicelab.plans.zoo:MLP}") -> Path:
    path = directory / "toy.yaml"
    path.write_text(_EXPERIMENT.format(plan=plan))
    return path


def _program(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "devicelab", *words],
        capture_output=True,
        text=True,
        timeout=150,
        cwd=cwd,
        env=os.environ | {"COLUMNS": "200", "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )


def test_a_plan_is_exported_and_looked_at(tmp_path: Path) -> None:
    out = tmp_path / "made" / "here"
    done = _program("export-plan", str(_experiment(tmp_path)), "--json", "-o", str(out), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    files: list[dict[str, Any]] = json.loads(done.stdout)["files"]
    assert [Path(f["path"]).name for f in files] == ["mlp.onnx", "mlp.eval.onnx", "mlp.safetensors"]
    assert [f["kind"] for f in files] == ["train", "evaluate", "initial"]
    assert all(f["worst_difference"] < 5e-7 for f in files[:2])
    assert all(Path(f["path"]).stat().st_size == f["bytes"] for f in files)
    assert "tracing the training step" in done.stderr
    assert "Warning" not in done.stderr
    assert set(load_file(out / "mlp.safetensors")) == {
        i.name for i in read_plan(out / "mlp.onnx").signature.inputs if i.name.startswith("param/")
    }

    seen = document("export-plan", "--inspect", str(out / "mlp.onnx"), "--batch", "16")
    assert seen["signature"]["name"] == "mlp"
    assert seen["signature"]["kind"] == "train"
    assert seen["roles"]["parameter"] == {"inputs": 6, "bytes": 4 * (64 * 128 + 128 * 128 + 128 * 10 + 266)}
    assert seen["roles"]["data"]["bytes"] == 16 * (64 * 4 + 8)
    assert seen["examples"] == 16
    assert seen["needs_runtime"] == "1.14"
    assert {row["target"] for row in seen["engines"]} >= {"android-arm64-v8a", "linux-x86_64"}
    assert all(row["runs"] for row in seen["engines"])

    words = devicelab("export-plan", "--inspect", str(out / "mlp.onnx")).stdout
    for expected in (
        "the plan mlp, which trains on batches of any size",
        "ONNX Runtime 1.14",
        "Gemm",
        "android-arm64-v8a",
    ):
        assert expected in words


def test_torchscript_is_written_and_converted_back(tmp_path: Path) -> None:
    plan = "{class: devicelab.plans.zoo:MatrixFactorization, args: {users: 20, items: 30}}"
    done = devicelab("export-plan", str(_experiment(tmp_path, plan)), "--format", "both", "-o", str(tmp_path))
    for name in ("mf.onnx", "mf.eval.onnx", "mf.pt", "mf.eval.pt", "mf.safetensors"):
        assert (tmp_path / name).is_file()
        assert name in done.stdout
    before = (tmp_path / "mf.onnx").read_bytes()
    seen = document("export-plan", "--inspect", str(tmp_path / "mf.pt"))
    assert seen["signature"] == read_plan(tmp_path / "mf.onnx").signature.as_dict()
    assert seen["single_threaded"]
    assert seen["tables"] == {
        "item": {"rows": 30, "row_bytes": 132, "carried_row_bytes": 264, "data": ["item"]}
    }
    words = devicelab("export-plan", "--inspect", str(tmp_path / "mf.onnx")).stdout
    assert "rows named by" in words
    assert re.search(r"file +[\d.]+ kB of ONNX, operator set", words)
    translated = devicelab("export-plan", "--inspect", str(tmp_path / "mf.pt")).stdout
    assert re.search(r"file +TorchScript, translated to [\d.]+ kB of ONNX, operator set", translated)
    files = "{file: mf.pt, evaluation: mf.eval.pt, parameters: mf.safetensors}"
    converted = tmp_path / "converted"
    devicelab("export-plan", str(_experiment(tmp_path, files)), "-o", str(converted))
    assert read_plan(converted / "mf.onnx").signature == read_plan(tmp_path / "mf.onnx").signature
    assert read_plan(converted / "mf.eval.onnx").signature.kind == "evaluate"
    assert (tmp_path / "mf.onnx").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        ([], 2, "give an experiment to export, or --inspect a plan file"),
        (["toy.yaml", "--inspect", "x.onnx"], 2, "one of the two"),
        (["none.yaml"], 2, "none.yaml cannot be read"),
        (["toy.yaml", "-o", "toy.yaml/x"], 2, "is no directory"),
        (["toy.yaml", "--format", "tflite"], 2, "'tflite' is not one of"),
        (["--inspect", "none.onnx"], 5, "none.onnx cannot be read"),
        (["--inspect", "toy.yaml"], 5, "is not a valid plan"),
        (["--inspect", "foreign.pt"], 5, "no TorchScript file"),
        (["broken.yaml", "-o", "out"], 5, "cannot be traced"),
        (["file.yaml"], 2, "is an ONNX file already"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    _experiment(tmp_path)
    (tmp_path / "foreign.pt").write_bytes(b"PK not really")
    (tmp_path / "here.onnx").write_bytes(b"x")
    (tmp_path / "here.safetensors").write_bytes(b"x")
    (tmp_path / "broken_plan.py").write_text(
        "import torch\nfrom devicelab.plans.zoo import MLP\n\n\nclass Broken(MLP):\n"
        "    def loss(self, model, batch):\n        return model(batch['x']).sum() * float(batch['x'].sum())\n"
    )
    (tmp_path / "broken.yaml").write_text(_EXPERIMENT.format(plan="{class: broken_plan:Broken}"))
    (tmp_path / "file.yaml").write_text(
        _EXPERIMENT.format(plan="{file: here.onnx, parameters: here.safetensors}")
    )
    before = sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__")
    done = devicelab("export-plan", *words, code=code)
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == before
