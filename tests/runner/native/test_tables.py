"""Some rows of a table are trained as the whole table would be, and cost what they are."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from devicelab.errors import ConfigError, DataError
from devicelab.plans.optimizers import SGD, Adam, Optimizer
from devicelab.plans.signature import Kind
from devicelab.runner.messages import EvaluateResult, Progress
from tests.runner.native.bench import Bench, Exported, export
from tests.runner.native.plans import Baskets, LargeTable, Ratings, WholeRatings, shard
from tests.runner.native.tables import Arrays, cut, rows_of, some_rows

ITEMS = 211
_SGD = SGD(lr=0.5)


@cache
def factors(optimizer: Optimizer = _SGD, kind: Kind = "train", proximal: float | None = None) -> Exported:
    return export(Ratings(optimizer, proximal), kind)


@cache
def baskets() -> Exported:
    return export(Baskets())


def ratings(*sizes: int) -> list[Arrays]:
    """Shards that name some of the items."""
    plan = factors().traced.step.plan
    return [shard(plan, size, seed=n) for n, size in enumerate(sizes)]


def both(bench: Bench, plan: Exported, shards: list[Arrays], *more: int, **settings: Any) -> Arrays:
    """Train with the whole table and with some rows, which must come to the same; the latter's update."""
    job = bench.plan(plan, *shards, **settings)
    rows = rows_of(shards, *more)
    whole_result = bench.train(job)
    whole = bench.load("update.safetensors")
    bench.forget()
    result = bench.train(cut(bench, plan, job, rows))
    some = bench.load("update.safetensors")
    assert set(some) == set(whole)
    tables = plan.signature.tables["item"].parameters
    changed = False
    for name, array in some.items():
        if name.removeprefix(f"{name.partition('/')[0]}/") in tables or name in tables:
            assert array.shape == (len(rows), *whole[name].shape[1:])
            assert array.tobytes() == whole[name][rows].tobytes()
            assert not np.delete(whole[name], rows, axis=0).any()
            changed = changed or bool(array.any())
        else:
            assert array.tobytes() == whole[name].tobytes()
    assert changed
    for one, other in zip(result.clients, whole_result.clients, strict=True):
        assert (one.norm, one.clipped, one.loss_last) == (other.norm, other.clipped, other.loss_last)
        assert one.metrics == other.metrics
    return some


@pytest.mark.parametrize("optimizer", [_SGD, SGD(lr=0.1, momentum=0.9), Adam(lr=0.01)], ids=repr)
@pytest.mark.parametrize("combine", ["each", "sum"])
def test_rows_learn_what_they_learn_in_the_whole_table(
    optimizer: Optimizer, combine: str, bench: Bench
) -> None:
    both(bench, factors(optimizer), ratings(30, 9, 17), 0, 1, ITEMS - 1, combine=combine, epochs=3)


def test_a_sum_of_one(bench: Bench) -> None:
    both(bench, factors(), ratings(20), combine="sum")


def test_clipping(bench: Bench) -> None:
    update = both(bench, factors(), ratings(30, 20), clip_norm=0.01, epochs=2)
    size = sum(float(np.sum(np.square(each, dtype=np.float64))) for n, each in update.items() if n[0] == "0")
    assert np.sqrt(size) == pytest.approx(0.01, rel=1e-5)


def test_anchors_have_these_rows_as_well(bench: Bench) -> None:
    near = factors(proximal=0.3)
    assert [i.rows for i in near.signature.inputs if i.of == "param/item.weight"] == ["item"]
    both(bench, near, ratings(30, 20), 3, 4, 5, epochs=4)


def test_all_rows_are_the_whole_table(bench: Bench) -> None:
    both(bench, factors(), ratings(30), *range(ITEMS))


def test_one_row(bench: Bench) -> None:
    data = ratings(12)
    data[0] = {**data[0], "item": np.full(12, ITEMS - 1)}
    update = both(bench, factors(), data)
    assert update["0/param/item.weight"].shape == (1, 8)


def test_numbers_of_32_bits_several_for_an_example_in_fixed_batches(bench: Bench) -> None:
    data: list[Arrays] = [shard(Baskets(), size, seed=size) for size in (5, 16, 37)]
    both(bench, baskets(), data, batch_size=None, epochs=2)


@pytest.mark.parametrize("combine", ["each", "sum"])
@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_the_reference_has_these_rows(combine: str, clip_norm: float | None, bench: Bench) -> None:
    plan, shards = factors(SGD(lr=0.1, momentum=0.9)), ratings(30, 9)
    document = bench.plan(plan, *shards, combine=combine, clip_norm=clip_norm, epochs=2)
    rows = rows_of(shards, 7)
    whole = plan.reference(document, shards)
    found = plan.reference(document, shards, parameters=some_rows(plan, plan.initial, rows))
    bench.train(cut(bench, plan, document, rows))
    update = bench.load("update.safetensors")
    assert set(found.update) == set(whole.update) == set(update)
    for name, delta in found.update.items():
        right = whole.update[name]
        np.testing.assert_array_equal(delta, right[rows] if "item" in name else right)
        np.testing.assert_allclose(update[name], delta, rtol=1e-3, atol=2e-6)
    assert [client.norm for client in found.clients] == [client.norm for client in whole.clients]


def test_what_the_reference_refuses_as_well(bench: Bench) -> None:
    plan, shards = factors(), ratings(30)
    job = bench.plan(plan, *shards)
    good = some_rows(plan, plan.initial, rows_of(shards))
    few = some_rows(plan, plan.initial, rows_of(shards)[1:])
    with pytest.raises(DataError, match="c0: 'item'"):
        plan.reference(job, shards, parameters=few)
    with pytest.raises(ConfigError, match="state"):
        plan.reference({**job, "state": "keep"}, shards, parameters=good)


def test_measuring_before_and_after(bench: Bench) -> None:
    plan, shards = factors(), ratings(30, 11)
    job = bench.plan(plan, *shards, epochs=2)
    job["evaluation"] = bench.write("evaluation.onnx", factors(kind="evaluate").content)
    whole = bench.train(job)
    bench.forget()
    some = bench.train(cut(bench, plan, job, rows_of(shards)))
    for one, other in zip(some.clients, whole.clients, strict=True):
        assert one.loss_before is not None
        assert (one.loss_before, one.loss_after) == (other.loss_before, other.loss_after)
        assert (one.loss_after or 0) < one.loss_before


def test_evaluation(bench: Bench) -> None:
    plan, shards = factors(kind="evaluate"), ratings(30, 11)
    job = bench.plan(plan, *shards)
    asked = {name: job[name] for name in job if name not in ("epochs", "combine")} | {"verb": "evaluate"}
    whole = bench.run("evaluate", asked).messages[-1]
    bench.forget()
    some = bench.run("evaluate", cut(bench, plan, asked, rows_of(shards, 9))).messages[-1]
    assert isinstance(whole, EvaluateResult), whole
    assert isinstance(some, EvaluateResult), some
    assert [c.metrics for c in some.clients] == [c.metrics for c in whole.clients]


def test_an_evaluation_plan_that_needs_the_whole_table(bench: Bench) -> None:
    plan, shards = factors(), ratings(30)
    evaluation = export(WholeRatings(_SGD), "evaluate")
    job = bench.plan(plan, *shards) | {"evaluation": bench.write("evaluation.onnx", evaluation.content)}
    assert bench.train(job).clients[0].loss_before is not None  # with whole tables there is nothing wrong
    bench.forget()
    outcome = bench.run("train", cut(bench, plan, job, rows_of(shards)))
    assert (outcome.code, outcome.failure.code) == (66, "input")
    assert "evaluation plan" in outcome.failure.message
    assert '"item"' in outcome.failure.message


ROWS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "of a table that the plan has not": lambda p: {"rows/user": p["rows/item"]},
    "of no table": lambda p: {"rows/": p["rows/item"]},
    "none": lambda _: {"rows/item": np.zeros(0, np.int64)},
    "as numbers of 32 bits": lambda p: {"rows/item": p["rows/item"].astype(np.int32)},
    "as fractions": lambda p: {"rows/item": p["rows/item"].astype(np.float64)},
    "in two dimensions": lambda p: {"rows/item": p["rows/item"][None]},
    "as one number": lambda _: {"rows/item": np.array(3)},
    "from last to first": lambda p: {"rows/item": p["rows/item"][::-1].copy()},
    "one of them twice": lambda p: {"rows/item": np.maximum(p["rows/item"], p["rows/item"][1])},
    "before the first": lambda p: {"rows/item": np.append(-1, p["rows/item"][1:])},
    "after the last": lambda p: {"rows/item": np.append(p["rows/item"][:-1], ITEMS)},
    "far beyond": lambda p: {"rows/item": np.append(p["rows/item"][:-1], 2**63 - 1)},
    "fewer than the tables have": lambda p: {"rows/item": p["rows/item"][1:]},
    "and a whole table": lambda _: {"param/item.weight": factors().initial["param/item.weight"]},
    "and a table without rows": lambda p: {"param/item.weight": p["param/item.weight"][0]},
    "not listed, and still not all": lambda _: {"rows/item": None},
}


@pytest.mark.parametrize("fault", ROWS)
def test_rows_that_cannot_be(fault: str, bench: Bench) -> None:
    plan, shards = factors(), ratings(30)
    job = bench.plan(plan, *shards)
    good = some_rows(plan, plan.initial, rows_of(shards))
    faulty = {name: array for name, array in (good | ROWS[fault](good)).items() if array is not None}
    bench.tensors("parameters.safetensors", faulty)
    outcome = bench.run("train", job)
    assert (outcome.code, outcome.failure.code, outcome.failure.client) == (66, "input", None)
    assert "parameters.safetensors" in outcome.failure.message
    assert "update.safetensors" not in bench.names()
    with pytest.raises(DataError, match=r"item|user|table ''"):
        plan.reference(job, shards, parameters=faulty)


def test_a_row_that_the_job_has_not_names_client_tensor_and_row(bench: Bench) -> None:
    plan, shards = factors(), ratings(30, 20)
    missing = int(shards[1]["item"][13])
    rows = rows_of([{"item": np.setdiff1d(rows_of(shards), missing)}])
    shards[0] = {**shards[0], "item": np.full(30, rows[0])}
    outcome = bench.run("train", cut(bench, plan, bench.plan(plan, *shards), rows))
    assert (outcome.code, outcome.failure.code, outcome.failure.client) == (66, "input", "c1")
    assert f'"item" holds {missing},' in outcome.failure.message
    assert "shard1.safetensors" in outcome.failure.message
    progress = [each for each in outcome.messages if isinstance(each, Progress) and each.client == "c1"]
    assert not any(each.step for each in progress)
    assert "update.safetensors" not in bench.names()


def test_the_range_is_that_of_the_whole_table(bench: Bench) -> None:
    plan, shards = factors(), ratings(30)
    shards[0]["item"][3] = ITEMS
    job = bench.plan(plan, *shards)
    outcome = bench.run("train", cut(bench, plan, job, np.arange(ITEMS)))
    assert (outcome.code, outcome.failure.client) == (66, "c0")
    assert f"holds {ITEMS}, the plan takes 0 to {ITEMS - 1}" in outcome.failure.message


def test_state_is_not_kept_of_some_rows(bench: Bench) -> None:
    plan, shards = factors(SGD(lr=0.1, momentum=0.9)), ratings(30)
    job = bench.plan(plan, *shards, state="keep")
    assert bench.train(job).steps
    bench.forget()
    outcome = bench.run("train", cut(bench, plan, job, rows_of(shards)))
    assert (outcome.code, outcome.failure.code) == (65, "job")
    assert "state" in outcome.failure.message


def test_a_graph_that_fixes_the_rows(bench: Bench) -> None:
    plan = factors()
    fixed = export(WholeRatings(_SGD))
    import onnx

    model = onnx.load_model_from_string(fixed.content)
    onnx.helper.set_model_props(model, {"devicelab.signature": plan.signature.to_json()})
    job = bench.plan(plan, *ratings(30)) | {"plan": bench.write("fixed.onnx", model.SerializeToString())}
    outcome = bench.run("train", job)
    assert (outcome.code, outcome.failure.code) == (66, "input")
    assert "item" in outcome.failure.message


def test_rows_cost_what_they_are(bench: Bench) -> None:
    plan = export(LargeTable())
    data = shard(LargeTable(), 20)
    job = bench.plan(plan, data)
    whole = bench.train(job)
    bench.forget()
    some = bench.train(cut(bench, plan, job, rows_of([data])))
    table = plan.initial["param/weight"].nbytes
    assert some.update.bytes < 2000 < table < whole.update.bytes
    assert (whole.peak_rss_kb - some.peak_rss_kb) * 1024 > 1.5 * table  # it is mapped, and copied to be trained
