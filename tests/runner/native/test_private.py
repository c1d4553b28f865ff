"""What clients keep: private parameters and optimizer state stay where they are until `commit`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from devicelab.plans.signature import Role
from tests.runner.native.bench import Bench, Exported
from tests.runner.native.plans import Line, shard

Export = Callable[..., Exported]
DATA = [shard(Line(), 20, seed=1), shard(Line(), 13, seed=2)]


def test_private_values_are_staged_and_never_in_the_update(exported: Export, bench: Bench) -> None:
    plan = exported("private")
    job = bench.plan(plan, *DATA, epochs=2)
    bench.train(job)
    reference = plan.reference(job, DATA)
    update = (bench.job / "update.safetensors").read_bytes()
    assert set(bench.load("update.safetensors")) == {"0/param/weight", "1/param/weight"}
    for n, client in enumerate(reference.clients):
        kept = bench.load(f"kept/{n}.safetensors")
        assert set(kept) == {"param/bias"}
        np.testing.assert_allclose(kept["param/bias"], client.kept["param/bias"], rtol=1e-4, atol=1e-6)
        assert kept["param/bias"].tobytes() not in update
        change = kept["param/bias"] - plan.initial["param/bias"]
        assert change.tobytes() not in update
    assert not (bench.job / "private").exists()


def test_commit_puts_them_in_their_place_and_may_be_repeated(exported: Export, bench: Bench) -> None:
    job = bench.plan(exported("private"), *DATA)
    bench.train(job)
    staged = [(bench.job / f"kept/{n}.safetensors").read_bytes() for n in range(2)]
    assert bench.run("commit").document["committed"] == 2
    for n in range(2):
        assert (bench.job / f"private/c{n}.safetensors").read_bytes() == staged[n]
    assert bench.run("commit").document["committed"] == 0
    assert (bench.job / "private/c1.safetensors").read_bytes() == staged[1]
    # One that was cut off in the middle.
    (bench.job / "kept/1.safetensors").write_bytes(staged[1])
    (bench.job / "private/c1.safetensors").write_bytes(b"old")
    assert bench.run("commit").document["committed"] == 1
    assert (bench.job / "private/c1.safetensors").read_bytes() == staged[1]


def test_commit_needs_a_job_that_is_done(exported: Export, bench: Bench) -> None:
    job = bench.plan(exported("private"), *DATA)
    assert bench.run("commit", job).failure.code == "job"
    bench.train(job)
    bench.forget()
    outcome = bench.run("commit")
    assert (outcome.code, outcome.failure.code) == (65, "job")
    assert not (bench.job / "private").exists()


def test_a_lost_value_is_an_error_and_not_passed_over(exported: Export, bench: Bench) -> None:
    bench.train(bench.plan(exported("private"), *DATA))
    (bench.job / "kept/1.safetensors").unlink()
    outcome = bench.run("commit")
    assert (outcome.code, outcome.failure.code, outcome.failure.client) == (66, "input", "c1")


@pytest.mark.parametrize("model", ["private", "adam"])
def test_two_rounds_with_state_that_is_kept(model: str, exported: Export, bench: Bench) -> None:
    plan = exported(model)
    job = bench.plan(plan, *DATA, state="keep", steps=3, epochs=None)
    bench.train(job)
    bench.run("commit")
    first = plan.reference(job, DATA)
    kept = {client.client: client.kept for client in first.clients}
    names = {i.name for i in plan.signature.with_role(Role.PRIVATE, Role.STATE)}
    for n, client in enumerate(first.clients):
        have = bench.load(f"private/c{n}.safetensors")
        assert set(have) == names
        for name, array in have.items():
            np.testing.assert_allclose(array, client.kept[name], rtol=1e-3, atol=1e-6)
    job |= {"job": "test-2"}
    bench.forget()
    bench.train(job)
    second = plan.reference(job, DATA, kept=kept)
    update = bench.load("update.safetensors")
    for name, array in update.items():
        np.testing.assert_allclose(array, second.update[name], rtol=2e-3, atol=1e-6)
        assert np.max(np.abs(array - first.update[name])) > 1e-5  # the state made a difference


def test_state_that_is_reset_is_not_kept(exported: Export, bench: Bench) -> None:
    plan = exported("private")
    job = bench.plan(plan, *DATA, state="keep")
    bench.train(job)
    bench.run("commit")
    job |= {"job": "test-2", "state": "reset"}
    bench.forget()
    bench.train(job)
    assert set(bench.load("kept/0.safetensors")) == {"param/bias"}
    bias = {"param/bias": bench.load("private/c0.safetensors")["param/bias"]}
    right = plan.reference(job, DATA, kept={"c0": bias})
    weight = bench.load("update.safetensors")["0/param/weight"]
    np.testing.assert_allclose(weight, right.update["0/param/weight"], rtol=1e-3, atol=1e-6)


def test_a_job_with_nothing_to_keep_makes_no_directory(exported: Export, bench: Bench) -> None:
    bench.train(bench.plan(exported("line"), *DATA))
    assert not (bench.job / "kept").exists()
    assert bench.run("commit").document["committed"] == 0


def test_private_values_need_a_place_to_be_kept(exported: Export, bench: Bench) -> None:
    job = bench.plan(exported("private"), *DATA)
    job["clients"][1].pop("kept")
    outcome = bench.run("train", job)
    assert (outcome.code, outcome.failure.code) == (65, "job")
    assert '"c1"' in outcome.failure.message


def test_a_private_value_may_come_from_what_is_kept_alone(exported: Export, bench: Bench) -> None:
    plan = exported("private")
    job = bench.plan(plan, DATA[0])
    without = {name: array for name, array in plan.initial.items() if name != "param/bias"}
    bench.tensors("parameters.safetensors", without)
    outcome = bench.run("train", job)
    assert (outcome.code, outcome.failure.code, outcome.failure.client) == (66, "input", "c0")
    assert "param/bias" in outcome.failure.message
    (bench.job / "private").mkdir()
    bench.tensors("private/c0.safetensors", {"param/bias": plan.initial["param/bias"]})
    bench.train(job)


def test_what_was_kept_for_another_plan_is_refused(exported: Export, bench: Bench) -> None:
    job: dict[str, Any] = bench.plan(exported("private"), DATA[0])
    (bench.job / "private").mkdir()
    bench.tensors("private/c0.safetensors", {"param/bias": np.zeros(7, np.float32)})
    outcome = bench.run("train", job)
    assert (outcome.code, outcome.failure.code, outcome.failure.client) == (66, "input", "c0")
    (bench.job / "private/c0.safetensors").write_bytes(b"damaged")
    assert bench.run("train", job).code == 66
