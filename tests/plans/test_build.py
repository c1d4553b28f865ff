"""Plans built once: what the cache keeps, and what makes it forget."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from devicelab.errors import PlanError
from devicelab.plans.build import plan_files, script_files
from devicelab.plans.cache import Cache, Entry
from devicelab.plans.export import build_plan, build_torchscript
from devicelab.plans.reader import read_plan_bytes
from devicelab.plans.signature import Role
from devicelab.plans.zoo import MatrixFactorization

_MODEL = """
import numpy as np
import torch
from helper import WIDTH
from pathlib import Path
from devicelab.plans.plan import TrainingPlan

class Toy(TrainingPlan):
    name = "toy"

    def module(self):
        model = torch.nn.Linear(WIDTH, 1)
        with torch.no_grad():
            model.weight.copy_(torch.from_numpy(np.load(Path(__file__).with_name("weights.npy"))))
        return model

    def loss(self, model, batch):
        return ((model(batch["x"]) - 1) ** 2).mean()

    def example_batch(self):
        return {"x": torch.randn(8, WIDTH)}
"""
_MAIN = """
import json, sys
sys.path.insert(0, sys.argv[1])
from devicelab.plans.build import plan_files
loaded = []
def load():
    loaded.append(True)
    import toy
    return toy.Toy()
files = plan_files({"plan": "toy:Toy"}, load)
print(json.dumps({
    "built": bool(loaded), "torch": "torch" in sys.modules, "onnx": "onnx" in sys.modules,
    "weight": files.initial["param/weight"].tolist(), "sha256": files.train.sha256,
    "names": sorted(files.initial), "evaluates": files.evaluate is not None,
}))
"""


class Project:
    """A directory with a plan in it, built by processes of their own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.write("toy.py", _MODEL)
        self.write("helper.py", "WIDTH = 3\n")
        self.weights(3, 0.5)

    def write(self, name: str, text: str) -> None:
        (self.directory / name).write_text(text)
        self._age(name)

    def weights(self, width: int, value: float) -> None:
        np.save(self.directory / "weights.npy", np.full((1, width), value, dtype=np.float32))
        self._age("weights.npy")

    def _age(self, name: str) -> None:
        os.utime(self.directory / name, (1e9, 1e9))  # what changes while a process runs is not kept

    def build(self) -> dict[str, object]:
        environment = os.environ | {
            "DEVICELAB_CACHE": str(self.directory / "cache"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _MAIN, str(self.directory)],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
            timeout=120,
        )
        document: dict[str, object] = json.loads(done.stdout)
        return document


def test_a_plan_is_built_once_until_something_it_reads_changes(tmp_path: Path) -> None:
    project = Project(tmp_path)
    first = project.build()
    assert first["built"]
    assert first["names"] == ["param/bias", "param/weight"]
    assert first["evaluates"]
    second = project.build()
    assert second == first | {"built": False, "torch": False, "onnx": False}
    project.weights(3, 0.25)
    third = project.build()
    assert third["built"]
    assert third["weight"] == [[0.25, 0.25, 0.25]]
    assert third["sha256"] == first["sha256"]
    project.write("helper.py", "WIDTH = 2\n")
    project.weights(2, 0.25)
    fourth = project.build()
    assert fourth["built"]
    assert fourth["sha256"] != first["sha256"]


def _entry() -> Entry:
    return Entry({"a": [1, "b"]}, {"x": np.arange(6.0).reshape(2, 3), "scalar": np.array(3, dtype=np.int64)})


def test_an_entry_is_read_back_unless_it_is_damaged_or_asked_otherwise(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    assert cache.get({"q": 1}) is None
    cache.put({"q": 1}, _entry(), {})
    found = cache.get({"q": 1})
    assert found is not None
    assert found.facts == {"a": [1, "b"]}
    for name, array in _entry().tensors.items():
        np.testing.assert_array_equal(found.tensors[name], array)
        assert found.tensors[name].shape == array.shape
    assert cache.get({"q": 2}) is None
    (file,) = tmp_path.glob("*.built")
    data = file.read_bytes()
    for damaged in (b"", data[:40], data[:-1], data[:100] + bytes([data[100] ^ 1]) + data[101:]):
        file.write_bytes(damaged)
        assert cache.get({"q": 1}) is None


def test_the_oldest_entries_go(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for n in range(40):
        cache.put({"q": n}, _entry(), {})
        for file in tmp_path.glob("*.built"):
            os.utime(file, ns=(0, file.stat().st_mtime_ns - 10**9))
    assert len(list(tmp_path.glob("*.built"))) == 32
    assert cache.get({"q": 0}) is None
    assert cache.get({"q": 39}) is not None


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    files = plan_files({"plan": "mf"}, MatrixFactorization, cache=Cache(tmp_path / "file" / "plans"))
    roles = {i.name: i.role for i in files.train.signature.inputs}
    assert set(files.initial) == {n for n, r in roles.items() if r in (Role.PARAMETER, Role.PRIVATE)}
    assert files.evaluate is not None
    assert list(files.initial_for(files.evaluate)) == list(files.initial)
    read_plan_bytes(files.train.content)


def test_a_torchscript_plan_is_converted_once(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    exported = build_plan(MatrixFactorization())
    script, _ = build_torchscript(exported)
    evaluation, _ = build_torchscript(build_plan(MatrixFactorization(), "evaluate"))
    told: list[str] = []
    files = script_files(script, evaluation, cache=cache, progress=told.append)
    assert told
    assert files.train.signature == exported.signature
    assert files.evaluate is not None
    assert files.evaluate.signature.kind == "evaluate"
    for name, array in files.initial.items():
        np.testing.assert_array_equal(array, exported.initial[name])
    told.clear()
    again = script_files(script, evaluation, cache=cache, progress=told.append)
    assert not told
    assert again.train == files.train
    assert again.evaluate == files.evaluate


def test_first_values_of_a_torchscript_plan_must_fit(tmp_path: Path) -> None:
    script, _ = build_torchscript(build_plan(MatrixFactorization()))
    wrong = {"param/user.weight": np.zeros((2, 2), dtype=np.float32)}
    with pytest.raises(
        PlanError, match=r"'param/user.weight' is float32\[2, 2\], the plan wants float32\[943, 32\]"
    ):
        script_files(script, initial=wrong, cache=Cache(tmp_path))
