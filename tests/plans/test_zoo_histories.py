"""The model of decayed histories, held against what it is said to be, item by item."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from devicelab.plans.randomness import SeededRandom
from devicelab.plans.zoo.histories import DecayedHistories

Array = np.ndarray[Any, Any]

_ITEMS, _WIDTH = 30, 4


def _plan(**settings: object) -> DecayedHistories:
    sizes = {"items": _ITEMS, "width": _WIDTH, "length": 12, "negatives": 5, "scale": 1.0}
    return DecayedHistories(**{**sizes, **settings})  # type: ignore[arg-type] # any of its arguments


def _model(plan: DecayedHistories) -> nn.Module:
    model = plan.module()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def _scores(model: nn.Module, history: list[int], horizons: tuple[float | None, ...]) -> Array:
    """The formula of the plan's description, one item of the history after the other, in double precision."""
    w_in, w_out, b, a = (
        dict(model.named_parameters())[name].detach().double().numpy()
        for name in ("watched.weight", "score.weight", "score.bias", "mix")
    )
    h = np.zeros(_WIDTH)
    for k, horizon in enumerate(horizons):
        x = np.zeros(_ITEMS)
        for age, item in enumerate(reversed(history)):
            x[item] = 1.0 if horizon is None else math.exp(-age / horizon)
        h += a[k] * (w_in.T @ (x / max(float(np.linalg.norm(x)), 1e-6)))
    scores: Array = w_out @ h + b
    return scores


def _query(
    history: list[int], given: int, target: int, negatives: list[int], protocol: int
) -> dict[str, torch.Tensor]:
    row = history + [0] * (12 - len(history))
    values = {"length": given, "seen": len(history), "target": target, "protocol": protocol}
    return {
        "history": torch.tensor([row]),
        "negatives": torch.tensor([negatives]),
        **{name: torch.tensor([value]) for name, value in values.items()},
    }


def test_the_scores_rank_the_target_as_the_formula_does() -> None:
    plan = _plan()
    model = _model(plan).eval()
    history, target, negatives = [4, 17, 2, 9, 11], 21, [1, 3, 5, 6, 7]
    for given, protocol, suffix in ((4, 0, "a"), (5, 1, "b")):
        scores = _scores(model, history[:given], (3.0, 30.0, None))
        rank = 1 + sum(scores[n] > scores[target] for n in negatives)
        full = 1 + sum(scores[n] > scores[target] for n in range(_ITEMS) if n not in history)
        with torch.no_grad():
            query = _query(history, given, target, negatives, protocol)
            found = plan.metrics(model, query)
            loss = float(plan.loss(model, query))
        candidates = [n for n in range(_ITEMS) if n not in history]
        assert loss == pytest.approx(np.log(np.exp(scores[candidates]).sum()) - scores[target], rel=1e-5)
        assert float(found[f"ndcg@10.{suffix}"][0]) == pytest.approx(1 / math.log2(1 + rank))
        gain = 1 / math.log2(1 + full) if full <= 10 else 0
        assert float(found[f"full_ndcg@10.{suffix}"][0]) == pytest.approx(gain)
        assert float(found[f"full_hr@10.{suffix}"][0]) == (full <= 10)
        assert float(found[f"full_recall@20.{suffix}"][0]) == (full <= 20)
        other = "b" if suffix == "a" else "a"
        assert float(found[f"hr@10.{suffix}"][1]) == 1
        assert float(found[f"hr@10.{other}"][1]) == 0


def test_ties_count_half() -> None:
    plan = _plan()
    model = plan.module().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        query = _query([1, 2, 3], 3, 9, [4, 5, 6, 7, 8], 0)
        found = plan.metrics(model, query)
        assert float(found["ndcg@10.a"][0]) == pytest.approx(1 / math.log2(1 + 1 + 5 / 2))
        # 27 candidates with one score: in the middle of them, the 14th place
        assert float(found["full_hr@10.a"][0]) == 0
        assert float(found["full_recall@20.a"][0]) == 1
        bias = dict(model.named_parameters())["score.bias"]
        bias[1:4], bias[4:17], bias[9] = 5.0, -1.0, 0.0  # what is known is no candidate, however high it scores
        found = plan.metrics(model, query)
        assert float(found["full_ndcg@10.a"][0]) == pytest.approx(1 / math.log2(1 + 8))  # with 14 others


def _training_loss(
    plan: DecayedHistories, model: nn.Module, history: list[int], order: list[int] | None = None
) -> float:
    places = order or list(range(len(history)))
    batch = {"item": torch.tensor([history[p] for p in places]), "position": torch.tensor(places)}
    zero = torch.zeros((), dtype=torch.int64)
    model.train()
    with torch.no_grad(), SeededRandom(zero, zero):
        return float(plan.loss(model, batch))


def test_the_training_loss_is_that_of_the_next_item() -> None:
    plan = _plan(dropout=0.0, cuts=2000)
    model = _model(plan)
    history = [4, 17, 2]
    losses = []
    for cut in (1, 2):
        scores = _scores(model, history[:cut], (3.0, 30.0, None))
        candidates = [n for n in range(_ITEMS) if n not in history[:cut]]
        losses.append(np.log(np.exp(scores[candidates]).sum()) - scores[history[cut]])
    assert min(losses) < _training_loss(plan, model, history) < max(losses)
    assert _training_loss(plan, model, history) == pytest.approx(np.mean(losses), rel=0.05)


def test_the_order_of_rows_does_not_matter_but_their_positions_do() -> None:
    plan = _plan(dropout=0.0, cuts=2000)
    model = _model(plan)
    history = [4, 17, 2, 9]
    there = _training_loss(plan, model, history)
    assert _training_loss(plan, model, history, order=[2, 0, 3, 1]) == pytest.approx(there, rel=0.05)
    assert abs(_training_loss(plan, model, history[::-1]) - there) > 0.2 * there


def test_dropout_leaves_part_of_the_history_out() -> None:
    model = _model(_plan())
    history = [4, 17, 2, 9, 11, 20, 21]
    bias = _scores(model, [], (3.0, 30.0, None))
    (everything,) = {_training_loss(_plan(dropout=1.0, cuts=1), model, history)}
    dropped = [
        np.log(np.exp(np.delete(bias, history[:cut])).sum()) - bias[history[cut]]
        for cut in range(1, len(history))
    ]
    assert any(everything == pytest.approx(each, rel=1e-5) for each in dropped)
    assert _training_loss(_plan(dropout=0.5, cuts=500), model, history) != pytest.approx(
        _training_loss(_plan(dropout=0.0, cuts=500), model, history), rel=1e-3
    )


def test_a_history_of_one_item_teaches_nothing() -> None:
    assert _training_loss(_plan(), _model(_plan()), [7]) == 0
