"""The server's step, against its formulas in plain Python."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from devicelab.aggregation.factory import SERVER_OPTIMIZERS, make_server_optimizer
from devicelab.aggregation.server import FedAdagrad, FedAdam, FedAvgM, FedYogi, ServerAverage, ServerOptimizer
from devicelab.errors import ConfigError, RoundError
from tests.aggregation.updates import same

NAMES = list(SERVER_OPTIMIZERS)


def one(value: float, dtype: str = "float64") -> dict[str, NDArray[Any]]:
    return {"w": np.asarray([value], dtype)}


def walk(optimizer: ServerOptimizer, deltas: list[float], start: float = 1.0) -> list[float]:
    x, trail = one(start), []
    for delta in deltas:
        x = optimizer.step(x, one(delta))
        trail.append(float(x["w"][0]))
    return trail


DELTAS = [0.5, -0.25, 0.125, 3.0, -1.0]


def test_the_plain_average_adds_the_mean() -> None:
    assert walk(ServerAverage(["w"]), DELTAS) == [1.5, 1.25, 1.375, 4.375, 3.375]
    assert walk(ServerAverage(["w"], lr=2.0), [0.5, -0.25]) == [2.0, 1.5]


def test_fedavgm_is_its_formula() -> None:
    x, m, expected = 1.0, 0.0, []
    for delta in DELTAS:
        m = 0.9 * m + delta
        x += 0.5 * m
        expected.append(x)
    assert walk(FedAvgM(["w"], lr=0.5), DELTAS) == pytest.approx(expected, rel=1e-15)
    assert walk(FedAvgM(["w"], momentum=0.0), DELTAS) == walk(ServerAverage(["w"]), DELTAS)


@pytest.mark.parametrize("kind", [FedAdagrad, FedAdam, FedYogi])
@pytest.mark.parametrize("initial", [None, 0.0, 0.3])
def test_the_adaptive_ones_are_their_formulas(
    kind: type[FedAdagrad] | type[FedAdam] | type[FedYogi], initial: float | None
) -> None:
    beta1, beta2, tau, lr = 0.8, 0.95, 1e-2, 0.1
    x, m, v, expected = 1.0, 0.0, tau**2 if initial is None else initial, []
    for delta in DELTAS:
        m = beta1 * m + (1 - beta1) * delta
        if kind is FedAdagrad:
            v = v + delta**2
        elif kind is FedAdam:
            v = beta2 * v + (1 - beta2) * delta**2
        else:
            v = v - (1 - beta2) * delta**2 * math.copysign(1 if v != delta**2 else 0, v - delta**2)
        x += lr * m / (math.sqrt(v) + tau)
        expected.append(x)
    options = {"lr": lr, "beta1": beta1, "tau": tau, "initial": initial}
    if kind is not FedAdagrad:
        options["beta2"] = beta2
    assert walk(make_server_optimizer(kind.name, ["w"], **options), DELTAS) == pytest.approx(
        expected, rel=1e-14
    )


def test_only_optimized_tensors_have_a_memory_and_the_rest_is_averaged_or_left() -> None:
    parameters: dict[str, NDArray[Any]] = {
        "w": np.ones(3, np.float32),
        "running_mean": np.ones(2, np.float32),
        "batches": np.asarray(7, np.int64),
    }
    mean = {"w": np.full(3, 0.5, np.float32), "running_mean": np.full(2, 0.25, np.float32)}
    optimizer = FedAdam(["w"])
    before = {name: tensor.copy() for name, tensor in parameters.items()}
    for _ in range(3):
        new = optimizer.step(parameters, mean)
        assert new["batches"] is parameters["batches"]
        assert new["running_mean"].tolist() == [1.25, 1.25]
    assert same(parameters, before)
    assert sorted(optimizer.state()) == ["m/w", "v/w"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_types_and_shapes_stay(name: str, dtype: str) -> None:
    parameters = {"a": np.ones((2, 3), dtype), "b": np.asarray(1, dtype), "c": np.ones((0,), dtype)}
    mean = {key: np.full_like(tensor, 0.1) for key, tensor in parameters.items()}
    optimizer = make_server_optimizer(name, ["a", "b"])
    for _ in range(2):
        parameters = optimizer.step(parameters, mean)
    for key, tensor in parameters.items():
        assert tensor.dtype == dtype
        assert tensor.shape == mean[key].shape
    assert all(tensor.dtype == dtype for tensor in optimizer.state().values())


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(0, 5))
def test_a_memory_that_is_loaded_goes_on_bit_for_bit(name: str, seed: int, cut: int) -> None:
    generator = np.random.default_rng(seed)
    deltas = [
        {key: generator.standard_normal(4).astype(np.float32) for key in ("w", "v/w", "stat")} for _ in range(6)
    ]
    start = {key: generator.standard_normal(4).astype(np.float32) for key in ("w", "v/w", "stat")}
    whole, first, second = (make_server_optimizer(name, ["w", "v/w"]) for _ in range(3))
    expected = resumed = start
    for delta in deltas:
        expected = whole.step(expected, delta)
    for delta in deltas[:cut]:
        resumed = first.step(resumed, delta)
    second.load_state({key: tensor.copy() for key, tensor in first.state().items()})
    for delta in deltas[cut:]:
        resumed = second.step(resumed, delta)
    assert same(expected, resumed)
    assert same(whole.state(), second.state())


def test_a_state_that_was_handed_out_does_not_change_any_more() -> None:
    optimizer = FedAvgM(["w"])
    optimizer.step(one(1), one(2))
    state = optimizer.state()
    optimizer.step(one(1), one(2))
    assert state["m/w"].tolist() == [2]
    optimizer.load_state(state)
    state["m/w"][:] = 99
    assert optimizer.state()["m/w"].tolist() == [2]


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"m/w": np.zeros(1)}, "'v/w' is missing"),
        ({"m/w": np.zeros(1), "v/w": np.zeros(1), "m/u": np.zeros(1)}, "'m/u' is not expected"),
    ],
)
def test_another_optimizers_memory_is_refused(state: dict[str, NDArray[Any]], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        FedAdam(["w"]).load_state(state)


def test_a_memory_of_another_shape_is_refused() -> None:
    optimizer = FedAvgM(["w"])
    optimizer.load_state({"m/w": np.zeros(3)})
    with pytest.raises(ConfigError, match="'m/w'"):
        optimizer.step(one(1), one(2))


def test_an_empty_memory_means_the_beginning() -> None:
    optimizer = FedAvgM(["w"])
    first = optimizer.step(one(1), one(2))
    optimizer.load_state({})
    assert same(optimizer.step(one(1), one(2)), first)


@pytest.mark.parametrize(
    "mean",
    [
        {},
        {"w": np.zeros(2)},
        {"w": np.zeros(1, np.float32)},
        {"w": np.zeros(1), "u": np.zeros(1)},
    ],
)
def test_a_mean_that_does_not_fit_is_the_callers_mistake(mean: dict[str, NDArray[Any]]) -> None:
    with pytest.raises(ValueError, match="mean update"):
        ServerAverage(["w"]).step(one(1), mean)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_to_infinity_fails_the_round_and_leaves_the_memory(name: str) -> None:
    optimizer = make_server_optimizer(name, ["w"], lr=1e30)
    optimizer.step(one(1, "float32"), one(1e-3, "float32"))
    before = {key: tensor.copy() for key, tensor in optimizer.state().items()}
    with pytest.raises(RoundError, match="'w'"):
        optimizer.step(one(1, "float32"), one(3e38, "float32"))
    assert same(optimizer.state(), before)
