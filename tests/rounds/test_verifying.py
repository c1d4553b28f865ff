"""Right numbers are found right, whatever the experiment; a phone that computes something else is named."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from devicelab.config import load_experiment
from devicelab.errors import ConfigError
from devicelab.plans.export import export_files
from devicelab.plans.zoo import MLP
from devicelab.rounds.verifying import Verification, verify_run
from devicelab.store.blobs import sha256_of
from devicelab.store.run import LEDGER
from devicelab.virtual.client import VirtualPhone
from devicelab.virtual.desk import VirtualDesk
from tests.rounds.liar import edited, lying
from tests.rounds.small import experiment_file, lab_of, private_experiment_file

_ROUND = """
    rounds: 2
    clients: {{number: 4}}
    epochs: 2
    batch_size: 16
    hyper: {{lr: 0.2}}
    deadline: 120s
    {more}
"""
_EVALUATION = "every: 1\non: [devices, host]"


@pytest.fixture(scope="module")
def phones(module_desk: VirtualDesk) -> list[VirtualPhone]:
    return module_desk.up(["pixel", "pixel"])


def _experiment(directory: Path, kind: str) -> Path:
    if kind == "private":
        return private_experiment_file(directory, evaluation="every: 0\ntraining_loss: true")
    if kind == "subtables":
        round_ = _ROUND.format(more="subtables: true").replace("number: 4", "fraction: 1.0")
        return private_experiment_file(directory, round=round_)
    changes = {"evaluation": _EVALUATION, "round": _ROUND.format(more="")}
    changes["data"] = """
        source: digits
        partition: {by: dirichlet, clients: 6, alpha: 1.0, min_examples: 20}
        held_out: {fraction: 0.2}
        test: 0.7
    """
    if kind == "median":
        changes["aggregation"] = "rule: median"
    elif kind == "fedadam":
        changes["aggregation"] = "server: {optimizer: fedadam, lr: 0.01, tau: 0.001}"
    elif kind == "clipped":
        changes["round"] = _ROUND.format(more="clip_norm: 0.3")
    elif kind == "noisy":
        more = "clip_norm: 0.3\n    quorum: 1.0"
        changes["round"] = _ROUND.format(more=more).replace("number: 4", "probability: 0.8")
        changes["aggregation"] = "weight: uniform\nprivacy: {noise_multiplier: 0.5, delta: 1.0e-3}"
    elif kind == "steps":
        changes["round"] = _ROUND.format(more="shuffle: false").replace("epochs: 2", "steps: 9")
    elif kind == "torchscript":  # with a fixed batch
        for file in export_files(MLP(), format="torchscript"):
            (directory / file.name).write_bytes(file.content)
        changes["plan"] = "{file: mlp.pt, evaluation: mlp.eval.pt, parameters: mlp.safetensors}"
    return experiment_file(directory, **changes)


def _verified(phones: list[VirtualPhone], path: Path, directory: Path) -> Verification:
    with lab_of(phones, directory / "state") as lab:
        lab.run_round(path)
    return verify_run(directory / "state", load_experiment(path))


_KINDS = ["fedavg", "median", "fedadam", "clipped", "noisy", "steps", "torchscript", "private", "subtables"]


@pytest.mark.parametrize("kind", _KINDS)
def test_right_numbers(phones: list[VirtualPhone], tmp_path: Path, kind: str) -> None:
    found = _verified(phones, _experiment(tmp_path, kind), tmp_path)
    assert found.right
    if kind != "noisy":  # its cohorts are drawn in secret
        assert [each.clients for each in found.rounds] == (
            [6, 6] if kind in ("private", "subtables") else [4, 4]
        )
    for each in found.rounds:
        errors = (each.model, each.updates, each.metrics)
        assert [error is None for error in errors] == [
            kind == "noisy", False, kind in ("private", "subtables")
        ]  # fmt: skip
        assert max(error for error in errors if error is not None) < 1e-5


def test_a_phone_that_only_pretends_to_train(
    phones: list[VirtualPhone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    initial = next(file for file in export_files(MLP()) if file.name.endswith(".safetensors"))
    (tmp_path / initial.name).write_bytes(initial.content)
    nothing = save({name: np.zeros_like(a) for name, a in load_file(tmp_path / initial.name).items()})
    lying(monkeypatch, phones[0].address, nothing, tmp_path)
    found = _verified(phones, _experiment(tmp_path, "fedavg"), tmp_path)
    assert not found.right
    # the round is wrong; what the phone says of itself is not, and nothing else can be held against it
    assert {(one.what, one.device) for each in found.rounds for one in each.differences} == {("model", None)}
    assert all(each.model is not None and each.model > 0.05 for each in found.rounds)


@pytest.mark.parametrize("key", ["norm", "loss_before", "loss_after"])
def test_a_phone_that_makes_up_a_number(
    phones: list[VirtualPhone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    lying(monkeypatch, phones[0].address, edited(rf's/"{key}":[0-9.e-]*/"{key}":0.25/g'), tmp_path)
    found = _verified(phones, _experiment(tmp_path, "fedavg"), tmp_path)
    differences = [one for each in found.rounds for one in each.differences]
    assert {(one.what, one.device, one.said) for one in differences} == {(key, phones[0].address, 0.25)}
    assert all(one.client for one in differences)
    assert all(abs(one.computed - 0.25) > 0.001 for one in differences)


@pytest.fixture(scope="module")
def run(phones: list[VirtualPhone], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("run")
    path = _experiment(directory, "fedavg")
    with lab_of(phones, directory / "state") as lab:
        return path, lab.run_round(path).directory


class TestTampering:
    @pytest.fixture
    def copied(self, run: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
        return run[0], shutil.copytree(run[1], tmp_path / "copied")

    def _verify(self, copied: tuple[Path, Path], tmp_path: Path, tolerance: float = 1e-3) -> Verification:
        path, run = copied
        return verify_run(tmp_path / "none", load_experiment(path), run=str(run), tolerance=tolerance)

    def test_a_copy_is_as_good(self, copied: tuple[Path, Path], tmp_path: Path) -> None:
        assert self._verify(copied, tmp_path).right

    def test_no_tolerance_at_all(self, copied: tuple[Path, Path], tmp_path: Path) -> None:
        found = self._verify(copied, tmp_path, tolerance=0.0)
        assert {one.what for each in found.rounds for one in each.differences} >= {"model"}

    def test_another_model(self, copied: tuple[Path, Path], tmp_path: Path) -> None:
        file = copied[1] / "checkpoints" / "round-0001.safetensors"
        model = load_file(file)
        model["param/4.bias"][3] += 0.01
        file.write_bytes(save(model))
        with sqlite3.connect(copied[1] / LEDGER) as ledger:
            ledger.execute("UPDATE checkpoints SET sha256 = ? WHERE round = 1", (sha256_of(file),))
        ledger.close()
        first, second = self._verify(copied, tmp_path).rounds
        assert first.model is not None
        assert first.model > 1e-3
        assert second.model is not None
        assert second.model > 1e-3  # it began with another model

    @pytest.mark.parametrize(("place", "what"), [("devices", "eval/examples"), ("host", "test/examples")])
    def test_other_examples(self, copied: tuple[Path, Path], tmp_path: Path, place: str, what: str) -> None:
        with sqlite3.connect(copied[1] / LEDGER) as ledger:
            ledger.execute("UPDATE evaluations SET examples = examples + 1 WHERE place = ?", (place,))
        ledger.close()
        found = self._verify(copied, tmp_path)
        assert [[one.what for one in each.differences] for each in found.rounds] == [[what], [what]]

    @pytest.mark.parametrize(("place", "prefix"), [("devices", "eval"), ("host", "test")])
    def test_another_accuracy(self, copied: tuple[Path, Path], tmp_path: Path, place: str, prefix: str) -> None:
        with sqlite3.connect(copied[1] / LEDGER) as ledger:
            (text,) = ledger.execute(
                "SELECT metrics FROM evaluations WHERE place = ? AND round = 2", (place,)
            ).fetchone()
            assert '"accuracy"' in text
            changed = text.replace('"accuracy"', '"precision"')
            ledger.execute("UPDATE evaluations SET metrics = ? WHERE place = ? AND round = 2", (changed, place))
        ledger.close()
        first, second = self._verify(copied, tmp_path).rounds
        assert first.differences == ()
        assert [one.what for one in second.differences] == [f"{prefix}/accuracy"]

    def test_other_data(self, copied: tuple[Path, Path], tmp_path: Path) -> None:
        path, _ = copied
        other = tmp_path / "other.yaml"
        other.write_text(path.read_text().replace("seed: 11", "seed: 12"))
        with pytest.raises(ConfigError, match="seed is not what it was"):
            self._verify((other, copied[1]), tmp_path)


def test_nothing_to_verify(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run of small"):
        verify_run(tmp_path, load_experiment(experiment_file(tmp_path)))
