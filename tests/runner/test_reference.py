"""The reference itself, held against ONNX Runtime in a loop of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from devicelab.plans.engine import Engine
from devicelab.plans.optimizers import SGD, Adam
from devicelab.plans.signature import Role
from devicelab.runner.shuffle import batches, epoch_order
from tests.runner.work import Work


def trained_by_engine(work: Work, job: Any, client: int, state: dict[str, Any] | None = None) -> dict[str, Any]:
    """A client's values after its steps, by feeding a session's outputs back in."""
    engine, signature = Engine(work.plan.onnx), work.plan.signature
    asked = job.clients[client]
    shard = work.shards[asked.client]
    values = {**work.plan.initial, **work.parameters, **(state or {})}
    hyper = {
        i.name: np.asarray(job.hyper.get(i.label, i.default), i.dtype) for i in signature.with_role(Role.HYPER)
    }
    hyper["hyper/seed"] = np.asarray(asked.seed)
    for _, rows in batches(len(next(iter(shard.values()))), job, signature, asked.seed):
        data = {i.name: shard[i.label][rows] for i in signature.with_role(Role.DATA)}
        out = engine.run({**values, **data, **hyper})
        values |= {i: out[o] for o, i in signature.replacements.items()}
    return values


@pytest.mark.parametrize(
    ("model", "optimizer", "changes"),
    [
        ("mf", SGD(lr=0.05), {}),
        ("mlp", SGD(lr=0.05, momentum=0.9), {"hyper": {"lr": 0.01}, "steps": 7, "shuffle": False}),
        ("mlp", Adam(lr=0.01), {"state": "keep"}),
    ],
)
def test_it_is_what_the_engine_computes(model: str, optimizer: Any, changes: dict[str, Any]) -> None:
    work = Work(model, optimizer=optimizer)
    job = work.job("x", **changes)
    found = work.reference(job)
    for index, client in enumerate(found.clients):
        values = trained_by_engine(work, job, index)
        assert set(found.update) >= {f"{index}/{name}" for name in client.delta}
        for name, delta in client.delta.items():
            np.testing.assert_allclose(delta, values[name] - work.parameters[name], rtol=1e-3, atol=2e-6)
        for name, kept in client.kept.items():
            np.testing.assert_allclose(kept, values[name], rtol=1e-3, atol=2e-6)
    if model == "mf":
        assert set(found.clients[0].kept) == {i.name for i in work.plan.signature.with_role(Role.PRIVATE)}
        assert not set(found.clients[0].kept) & set(found.clients[0].delta)


def test_kept_state_goes_on_where_it_was() -> None:
    work = Work("mlp", sizes=(16,), optimizer=Adam(lr=0.01))
    job = work.job("x", state="keep", shuffle=False, epochs=1)
    first = work.reference(job).clients[0]
    second = work.reference(job, {"c0": first.kept}).clients[0]
    values = trained_by_engine(work, job, 0, state=first.kept)
    for name, delta in second.delta.items():
        np.testing.assert_allclose(delta, values[name] - work.parameters[name], rtol=1e-3, atol=2e-6)


def test_sums_weights_and_clipping() -> None:
    work = Work("mlp")
    each = work.reference(work.job("x"))
    summed = work.reference(work.job("x", combine="sum"))
    for name, total in summed.update.items():
        expected = sum(c.weight * c.delta[name].astype(np.float64) for c in each.clients)
        np.testing.assert_array_equal(total, np.asarray(expected).astype(np.float32))
    norm = each.clients[0].norm
    clipped = work.reference(work.job("x", clip_norm=norm / 2)).clients[0]
    assert clipped.norm == pytest.approx(norm)
    length = np.sqrt(sum(np.square(d.astype(np.float64)).sum() for d in clipped.delta.values()))
    assert length == pytest.approx(norm / 2)


def test_ragged_and_filled_batches() -> None:
    work = Work("mlp")
    ragged = [rows for _, rows in batches(13, work.job("x"), work.plan.signature, 5)]
    assert [len(rows) for rows in ragged] == [8, 5, 8, 5]
    assert sorted(np.concatenate(ragged[:2])) == list(range(13))
    np.testing.assert_array_equal(np.concatenate(ragged[2:]), epoch_order(13, 5, 1))
    steps = [begins for begins, _ in batches(13, work.job("x", steps=5), work.plan.signature, 5)]
    assert steps == [True, False, True, False, True]
