"""Local training equals eager PyTorch's; the whole zoo is trained on virtual phones, in test_runner.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.runner.native.bench import Bench, Exported, clients, export
from tests.runner.native.learning import trained
from tests.runner.native.plans import FixedLine, LargeTable, Line, shard

Export = Callable[..., Exported]


@pytest.mark.parametrize("model", ["mf", "mlp", "near", "normalized", "table", "adam", "private"])
def test_what_is_learned_is_what_pytorch_learns(model: str, exported: Export, bench: Bench) -> None:
    plan = exported(model)
    trained(bench, plan, [shard(plan.traced.step.plan, 30)], epochs=3)


@pytest.mark.parametrize("length", [{"epochs": 3}, {"steps": 1}, {"steps": 2}, {"steps": 8}])
@pytest.mark.parametrize("examples", [1, 7, 8, 9, 24])
def test_epochs_and_steps_with_ragged_batches(
    length: dict[str, int], examples: int, exported: Export, bench: Bench
) -> None:
    trained(bench, exported("line"), [shard(Line(), examples)], **{"epochs": None, **length})


@pytest.mark.parametrize("examples", [3, 16, 35])
def test_a_fixed_batch_is_filled_up_from_the_start(examples: int, exported: Export, bench: Bench) -> None:
    data = shard(FixedLine(), examples)
    trained(bench, exported("fixed"), [data], epochs=2, batch_size=3)  # the plan knows better


def test_the_shards_order_is_kept_where_the_job_says_so(exported: Export, bench: Bench) -> None:
    trained(bench, exported("line"), [shard(Line(), 20)], epochs=2, shuffle=False)


def test_hypers_are_the_jobs(exported: Export, bench: Bench) -> None:
    slow = trained(bench, exported("line"), [shard(Line(), 20)], hyper={"lr": 0.02})
    bench.forget()
    fast = trained(bench, exported("line"), [shard(Line(), 20)], hyper={"lr": 0.2})
    assert (fast.clients[0].norm or 0) > 3 * (slow.clients[0].norm or 0)
    bench.forget()
    trained(bench, exported("near"), [shard(Line(), 20)], hyper={"mu": 2.0}, epochs=3)


def test_each_client_starts_from_the_global_values(exported: Export, bench: Bench) -> None:
    data = [shard(Line(), 10 + 7 * n, seed=n) for n in range(3)]
    result = trained(bench, exported("adam"), data, epochs=2)
    assert set(bench.load("update.safetensors")) == {
        f"{n}/param/{x}" for n in range(3) for x in ("weight", "bias")
    }
    assert result.peak_rss_kb > 1000


def test_the_sum_is_that_of_the_weighted_deltas(exported: Export, bench: Bench) -> None:
    plan = exported("line")
    data = [shard(Line(), 10 + n, seed=n) for n in range(5)]
    weights = [1.5, 2.0, None, 1e-3, 40.0]
    owners = [client | {"weight": weight} for client, weight in zip(clients(data), weights, strict=True)]
    norms = sorted(client.norm or 0.0 for client in trained(bench, plan, data, epochs=2).clients)
    bench.forget()
    job = {"clients": owners, "epochs": 2, "clip_norm": norms[2]}
    each_result = trained(bench, plan, data, **job)
    each = bench.load("update.safetensors")
    bench.forget()
    result = trained(bench, plan, data, **job, combine="sum")
    total = bench.load("update.safetensors")
    used = [12.0 if weight is None else weight for weight in weights]
    for name, array in total.items():
        right = np.zeros(array.shape, np.float64)
        for n, weight in enumerate(used):
            right += weight * each[f"{n}/{name}"].astype(np.float64)
        np.testing.assert_array_equal(array, right.astype(np.float32))
    assert [c.norm for c in result.clients] == [c.norm for c in each_result.clients]
    assert sum(c.clipped for c in result.clients) == 2


@pytest.mark.parametrize("model", ["normalized", "table"])
def test_a_sum_of_one_is_its_weighted_delta_to_the_bit(model: str, exported: Export, bench: Bench) -> None:
    plan = exported(model)
    job = bench.plan(plan, shard(plan.traced.step.plan, 20), clip_norm=0.05)
    job["clients"][0]["weight"] = 0.3
    bench.train(job)
    each = bench.load("update.safetensors")
    bench.forget()
    bench.train(job | {"combine": "sum"})
    for name, array in bench.load("update.safetensors").items():
        right = (0.0 + 0.3 * each[f"0/{name}"].astype(np.float64)).astype(array.dtype)
        assert array.tobytes() == right.tobytes()


def test_a_sum_of_one_takes_no_memory(bench: Bench) -> None:
    plan = export(LargeTable())
    job = bench.plan(plan, shard(LargeTable(), 20))
    each = bench.train(job)
    bench.forget()
    alone = bench.train(job | {"combine": "sum"})
    table = plan.initial["param/weight"].nbytes
    assert each.peak_rss_kb * 1024 > table
    assert (alone.peak_rss_kb - each.peak_rss_kb) * 1024 < table / 2  # a sum in double precision would be two


def test_a_sum_of_one_that_is_beyond_the_type_names_the_client(exported: Export, bench: Bench) -> None:
    job = bench.plan(exported("line"), shard(Line(), 20), combine="sum")
    job["clients"][0]["weight"] = 1e300
    outcome = bench.run("train", job)
    assert (outcome.code, outcome.failure.code, outcome.failure.client) == (76, "not-finite", "c0")
    assert "update.safetensors" not in bench.names()


def test_clipping_scales_a_delta_down_to_the_norm(exported: Export, bench: Bench) -> None:
    plan, data = exported("line"), [shard(Line(), 20)]
    norm = trained(bench, plan, data, epochs=3).clients[0].norm
    assert norm is not None
    deltas = bench.load("update.safetensors")
    bench.forget()
    result = trained(bench, plan, data, epochs=3, clip_norm=norm / 4)
    assert result.clients[0].clipped
    assert result.clients[0].norm == norm
    clipped = bench.load("update.safetensors")
    size = np.sqrt(sum(float(np.sum(np.square(array, dtype=np.float64))) for array in clipped.values()))
    assert size == pytest.approx(norm / 4, rel=1e-6)
    for name, array in clipped.items():
        np.testing.assert_allclose(array, deltas[name] / 4, rtol=1e-6)


def test_the_same_job_gives_the_same_bytes(exported: Export, bench: Bench) -> None:
    job = bench.plan(exported("normalized"), shard(Line(), 30), epochs=2)
    first = bench.train(job)
    content = (bench.job / "update.safetensors").read_bytes()
    bench.forget()
    second = bench.train(job)
    assert (bench.job / "update.safetensors").read_bytes() == content
    assert first.update == second.update
    bench.forget()
    third = bench.train(job | {"clients": [job["clients"][0] | {"seed": 8}]})
    assert third.update.sha256 != first.update.sha256


def test_whole_number_buffers_stay_at_home(exported: Export, bench: Bench) -> None:
    plan = exported("normalized")
    bench.train(bench.plan(plan, shard(Line(), 16)))
    names = {name.removeprefix("0/") for name in bench.load("update.safetensors")}
    assert "buffer/1.running_mean" in names
    assert "buffer/1.num_batches_tracked" in {i.name for i in plan.signature.inputs}
    assert "buffer/1.num_batches_tracked" not in names


def test_more_threads_where_the_plan_allows_it(exported: Export, bench: Bench) -> None:
    trained(bench, exported("line"), [shard(Line(), 20)], threads=2)
