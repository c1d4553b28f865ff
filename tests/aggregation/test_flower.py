"""Our averages are those of Flower on the same updates."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from devicelab.aggregation.factory import make_rule, make_server_optimizer
from devicelab.aggregation.server import ServerOptimizer
from devicelab.aggregation.update import ClientUpdate
from tests.flower import flower_environment, flower_python

SIDE = Path(__file__).with_name("flower_side.py")
CLIENTS, ROUNDS = 11, (1, 2, 3)
SHAPES = {"a/weight": (30, 20), "b/bias": (20,), "c/table": (100, 8)}

Arrays = dict[str, NDArray[Any]]


def generated() -> Arrays:
    """A model and updates of it in double precision, where rounding cannot hide a difference of rules."""
    generator = np.random.default_rng(20_26)
    arrays: Arrays = {f"global/{name}": generator.standard_normal(shape) for name, shape in SHAPES.items()}
    arrays["examples"] = generator.integers(1, 400, CLIENTS)
    for number in ROUNDS:
        for client in range(CLIENTS):
            for name, shape in SHAPES.items():
                size = 0.1 * (1 + client % 4)
                arrays[f"delta/{number}/{client}/{name}"] = size * generator.standard_normal(shape)
    return arrays


@pytest.fixture(scope="module")
def given() -> Arrays:
    return generated()


@pytest.fixture(scope="module")
def flower(given: Arrays, tmp_path_factory: pytest.TempPathFactory) -> Arrays:
    """What Flower's strategies made of them."""
    source, target = (tmp_path_factory.mktemp("flower") / name for name in ("in.npz", "out.npz"))
    np.savez(source, **given)  # type: ignore[arg-type]
    ended = subprocess.run(
        [flower_python(), str(SIDE), str(source), str(target)],
        env=flower_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return dict(np.load(target))


def updates_of(given: Arrays, number: int, *, equal: bool = False) -> list[ClientUpdate]:
    return [
        ClientUpdate(
            {name: given[f"delta/{number}/{client}/{name}"] for name in SHAPES},
            1.0 if equal else float(examples),
            int(examples),
            f"{client:02}",
            "phone",
        )
        for client, examples in enumerate(given["examples"])
    ]


def mean_of(updates: list[ClientUpdate], rule: str, **options: object) -> Arrays:
    made = make_rule(rule, **options)
    for update in updates:
        made.add(update)
    return made.result()


def compare(flower: Arrays, label: str, number: int, ours: Arrays) -> None:
    for name in SHAPES:
        np.testing.assert_allclose(ours[name], flower[f"{label}/{number}/{name}"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("label", "rule", "options"),
    [
        ("fedavg", "fedavg", {}),
        ("fedavg-not-in-place", "fedavg", {}),
        ("median", "median", {}),
        ("trimmed-mean", "trimmed_mean", {"fraction": 0.2}),
        ("krum", "krum", {"byzantine": 2}),
        ("multi-krum", "krum", {"byzantine": 2, "keep": 4}),
    ],
)
def test_rules_agree(given: Arrays, flower: Arrays, label: str, rule: str, options: dict[str, object]) -> None:
    current = {name: given[f"global/{name}"] for name in SHAPES}
    for number in ROUNDS:
        mean = mean_of(updates_of(given, number), rule, **options)
        current = {name: current[name] + mean[name] for name in SHAPES}
        compare(flower, label, number, current)


@pytest.mark.parametrize(
    ("label", "options"),
    [
        ("fedavgm", {"lr": 0.7, "momentum": 0.9}),
        ("fedadagrad", {"lr": 0.1, "initial": 0.0}),
        ("fedyogi", {"lr": 0.01, "initial": 0.0}),
    ],
)
def test_server_optimizers_agree(given: Arrays, flower: Arrays, label: str, options: dict[str, float]) -> None:
    optimizer = make_server_optimizer(label, SHAPES, **options)
    current = {name: given[f"global/{name}"] for name in SHAPES}
    for number in ROUNDS:
        current = optimizer.step(current, mean_of(updates_of(given, number), "fedavg"))
        compare(flower, label, number, current)


def test_fedadam_agrees_but_for_flowers_own_bias_correction(given: Arrays, flower: Arrays) -> None:
    """The paper has none; Flower scales the learning rate of round t by √(1 − β₂^(t+1)) / (1 − β₁^(t+1))."""
    current, before = {name: given[f"global/{name}"] for name in SHAPES}, None
    for number in ROUNDS:
        lr = 0.01 * math.sqrt(1 - 0.99 ** (number + 1)) / (1 - 0.9 ** (number + 1))
        optimizer: ServerOptimizer = make_server_optimizer("fedadam", SHAPES, lr=lr, initial=0.0)
        if before is not None:
            optimizer.load_state(before.state())
        current = optimizer.step(current, mean_of(updates_of(given, number), "fedavg"))
        compare(flower, "fedadam", number, current)
        before = optimizer
