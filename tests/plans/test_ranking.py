from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from devicelab.errors import PlanError
from devicelab.plans.engine import Engine
from devicelab.plans.plan import TrainingPlan
from devicelab.plans.ranking import OUTPUT, item_factors, ranking_graph
from devicelab.plans.zoo import MLP, DecayedHistories, MatrixFactorization

_ITEMS = 40


def _known(history: list[int], target: int) -> dict[str, np.ndarray[Any, Any]]:
    row = np.array([history + [0] * (12 - len(history))] * 2)
    return {
        "item": np.array(history[:-1]),
        "position": np.arange(len(history) - 1),
        "history": row,
        "length": np.array([len(history) - 1, len(history)]),
        "seen": np.array([len(history)] * 2),
        "target": np.array([target] * 2),
        "negatives": np.zeros((2, 5), np.int64),
        "protocol": np.array([0, 1]),
    }


def _ranked(plan: TrainingPlan, known: dict[str, np.ndarray[Any, Any]], top: int) -> list[int]:
    graph, names = ranking_graph(plan, known, top)
    parameters = {f"param/{name}": p.detach().numpy() for name, p in plan.module().named_parameters()}
    given: dict[str, Any] = {**parameters, **known}
    ranked: list[int] = Engine(graph).run({name: given[name] for name in names})[OUTPUT].tolist()
    return ranked


def _decayed() -> DecayedHistories:
    return DecayedHistories(items=_ITEMS, width=4, length=12, negatives=5, scale=1.0)


def test_the_best_items_of_a_history_and_nothing_of_it() -> None:
    plan = _decayed()
    history, target = [4, 17, 2, 9], 11
    ranked = _ranked(plan, _known(history, target), 5)
    parameters = {name: p.detach().double().numpy() for name, p in plan.module().named_parameters()}
    everything = [*history, target]
    hidden = np.zeros(4)
    for mix, horizon in zip(parameters["mix"], (3.0, 30.0, np.inf), strict=True):
        x = np.zeros(_ITEMS)
        x[everything] = np.exp(-np.arange(len(everything))[::-1] / horizon)
        hidden += mix * (parameters["watched.weight"].T @ (x / np.linalg.norm(x)))
    scores = parameters["score.weight"] @ hidden + parameters["score.bias"]
    scores[everything] = -np.inf
    assert ranked == np.argsort(-scores)[:5].tolist()


def test_without_anything_held_out_it_goes_by_what_is_trained_on() -> None:
    plan = _decayed()
    whole = _known([4, 17, 2, 9], 11)
    trained = {"item": np.array([4, 17, 2, 9, 11]), "position": np.arange(5)}
    assert _ranked(plan, trained, 5) == _ranked(plan, whole, 5)


def test_factorization_ranks_by_the_users_own_factors() -> None:
    plan = MatrixFactorization(users=1, items=_ITEMS, width=3)
    known = {"user": np.zeros(4, np.int64), "item": np.array([1, 5, 6, 30]), "rating": np.ones(4, np.float32)}
    values = {name: p.detach().numpy() for name, p in plan.module().named_parameters()}
    scores = values["item.weight"] @ values["user.weight"][0] + values["item_bias.weight"][:, 0]
    scores[known["item"]] = -np.inf
    assert _ranked(plan, known, 6) == np.argsort(-scores)[:6].tolist()
    assert "param/user.weight" in ranking_graph(plan, known, 6)[1]


def test_item_numbers_are_all_that_comes_out() -> None:
    graph, names = ranking_graph(_decayed(), _known([4, 17, 2], 9), 7)
    model = onnx.load_from_string(graph)
    (output,) = model.graph.output
    assert output.name == OUTPUT
    assert [size.dim_value for size in output.type.tensor_type.shape.dim] == [7]
    assert output.type.tensor_type.elem_type == onnx.TensorProto.INT64
    assert [i.name for i in model.graph.input] == list(names)
    assert not {"negatives", "length", "protocol"} & set(names)


def test_item_factors_need_no_private_parameter() -> None:
    plan = MatrixFactorization(users=1, items=_ITEMS, width=3)
    weight = np.arange(_ITEMS * 3, dtype=np.float32).reshape(_ITEMS, 3)
    np.testing.assert_array_equal(item_factors(plan, {"param/item.weight": weight}), weight)
    assert item_factors(MLP(), {}) is None


def test_a_plan_that_recommends_nothing() -> None:
    with pytest.raises(PlanError, match="the plan mlp recommends nothing"):
        ranking_graph(MLP(), {"x": np.zeros((1, 64), np.float32)}, 3)
