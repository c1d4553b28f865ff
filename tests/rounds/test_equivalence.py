"""What phones and this host make of an experiment is what a plain simulation makes of it.

Tolerance: after three rounds every parameter is within 2e-5 of the simulation's, and the mean distance within
2e-6. One local step differs by some 1e-7 between ONNX Runtime and eager PyTorch. FedAdam's first step divides
by the root of squared deltas, so there a parameter with almost no gradient may move by up to the server's
learning rate in either direction, and the largest distance may be 2e-3.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from devicelab.config import load_experiment
from devicelab.plans.export import export_files
from devicelab.plans.zoo import MLP
from devicelab.virtual.client import VirtualPhone
from devicelab.virtual.desk import VirtualDesk
from tests.rounds.simulation import simulate
from tests.rounds.small import experiment_file, lab_of, models

ADAM = "server: {optimizer: fedadam, lr: 0.01, tau: 0.001}"


@pytest.fixture(scope="module")
def phones(module_desk: VirtualDesk) -> list[VirtualPhone]:
    return module_desk.up(["pixel", "pixel"])


def torchscript(directory: Path) -> str:
    """The same plan as TorchScript files, as an experiment names them."""
    for file in export_files(MLP(), format="torchscript"):
        (directory / file.name).write_bytes(file.content)
    return "{file: mlp.pt, evaluation: mlp.eval.pt, parameters: mlp.safetensors}"


@pytest.mark.parametrize(
    ("plan", "server", "combine"),
    [
        ("onnx", "none", "sum"),
        ("onnx", "none", "each"),
        ("onnx", "fedadam", "sum"),
        ("onnx", "fedadam", "each"),
        ("torchscript", "none", "sum"),
        ("torchscript", "fedadam", "each"),
    ],
)
def test_the_model_after_each_round(
    phones: list[VirtualPhone], tmp_path: Path, plan: str, server: str, combine: str
) -> None:
    round_ = f"""
        rounds: 3
        clients: {{number: 4}}
        epochs: 1
        batch_size: 16
        hyper: {{lr: 0.2}}
        combine: {combine}
    """
    changes = {"aggregation": ADAM} if server == "fedadam" else {}
    if plan == "torchscript":
        changes["plan"] = torchscript(tmp_path)
    path = experiment_file(tmp_path, round=round_, **changes)
    with lab_of(phones, tmp_path / "state") as lab:
        done = lab.run_round(path)
    simulated = simulate(load_experiment(path), MLP(), 3)
    found = models(done.directory)
    assert len(found) == len(simulated) == 4
    largest, mean = (2e-3, 2e-5) if server == "fedadam" else (2e-5, 2e-6)
    for ours, theirs in zip(found, simulated, strict=True):
        assert ours.keys() == theirs.keys()
        distances = np.concatenate([np.abs(ours[name] - theirs[name]).ravel() for name in ours])
        assert distances.max() < largest
        assert distances.mean() < mean
    moved = max(np.abs(found[-1][name] - found[0][name]).max() for name in found[0])
    assert moved > 0.01
