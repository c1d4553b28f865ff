"""Parts of a training step: proximal term, clipping, dropout; and a check that can fail."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name that everybody uses
from safetensors.numpy import load_file
from torch import Tensor, nn

from devicelab.errors import PlanError
from devicelab.plans.check import VALUE_TOLERANCE, Runner, check_training
from devicelab.plans.engine import Engine
from devicelab.plans.export import (
    ExportedPlan,
    build_plan,
    build_torchscript,
    export_files,
    trace_plan,
    write_files,
)
from devicelab.plans.importing import import_file, import_torchscript, read_roles
from devicelab.plans.optimizers import SGD, Adam
from devicelab.plans.plan import Batch, TrainingPlan
from devicelab.plans.randomness import chance, uniform
from devicelab.plans.reader import read_plan, read_plan_bytes
from devicelab.plans.signature import METADATA_KEY, Kind, Role
from devicelab.plans.torchscript import quiet_about_deprecation
from devicelab.plans.zoo import MLP, MatrixFactorization, MultinomialAutoencoder
from tests.plans.conftest import feeds_of

Arrays = dict[str, "np.ndarray[Any, Any]"]


class Small(TrainingPlan):
    name = "small"

    def __init__(self, *layers: nn.Module) -> None:
        self.layers = layers
        self.optimizer = SGD(lr=0.1)

    def module(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), *self.layers, nn.Linear(8, 3))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(model(batch["x"]), batch["y"])

    def example_batch(self) -> Batch:
        generator = torch.Generator().manual_seed(4)
        return {"x": torch.randn(16, 5, generator=generator), "y": torch.randint(3, (16,), generator=generator)}


@pytest.mark.parametrize(
    ("option", "value", "hyper"),
    [
        ("proximal", 0.1, "mu"),
        ("clip_norm", 0.05, "clip_norm"),
        ("example_clip_norm", 0.2, "example_clip_norm"),
    ],
)
def test_an_option_is_an_input_and_agrees_with_eager_pytorch(option: str, value: float, hyper: str) -> None:
    plan = Small()
    setattr(plan, option, value)
    exported = build_plan(plan)
    assert exported.signature.input(f"hyper/{hyper}").default == value
    anchors = exported.signature.with_role(Role.ANCHOR)
    assert bool(anchors) == (option == "proximal")
    read_plan_bytes(exported.onnx)


def test_all_options_go_together_and_with_adam() -> None:
    plan = Small()
    plan.proximal, plan.clip_norm, plan.optimizer = 0.01, 0.5, Adam(lr=0.01, weight_decay=0.01)
    build_plan(plan)


def test_gradients_of_batch_norm_are_not_taken_example_by_example() -> None:
    plan = Small(nn.BatchNorm1d(8))
    plan.example_clip_norm = 1.0
    with pytest.raises(PlanError):
        build_plan(plan)


def test_dropout_follows_seed_and_step() -> None:
    exported = build_plan(Small(nn.Dropout(0.4)))
    engine = Engine(exported.onnx)
    places = [(1, 0), (1, 0), (2, 0), (1, 1)]
    losses = [float(engine.run(feeds_of(exported, 6, seed=s, step=n))["loss"]) for s, n in places]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3


def test_a_plan_without_randomness_has_no_seed_and_one_without_adam_no_step() -> None:
    names = {i.name for i in build_plan(Small()).signature.inputs}
    assert "hyper/seed" not in names
    assert "state/step" not in names


def test_random_numbers_are_uniform_and_uncorrelated() -> None:
    seed, step = torch.tensor(3), torch.tensor(9)
    u = uniform(seed, step, 0, (300, 400)).double()
    assert float(u.min()) >= 0
    assert float(u.max()) < 1
    counts = torch.histc(u, 64, 0, 1)
    assert float(((counts - 1875) ** 2 / 1875).sum()) < 120  # chi-squared, 63 degrees of freedom
    for other in (
        u.roll(1, 0),
        u.roll(1, 1),
        uniform(seed, step, 1, (300, 400)),
        uniform(seed, step + 1, 0, (300, 400)),
    ):
        assert abs(float(torch.corrcoef(torch.stack([u.flatten(), other.double().flatten()]))[0, 1])) < 0.02
    for p in (0.0, 0.1, 0.5, 0.9, 1.0):
        assert abs(float(chance(seed, step, 0, (300, 400), p).double().mean()) - p) < 0.01


class _Wrong(SGD):
    def update(
        self, p: Tensor, g: Tensor, slots: dict[str, Tensor], step: Tensor, lr: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return super().update(p, g * 1.001, slots, step, lr)


def test_a_plan_whose_numbers_disagree_is_refused_with_the_tensor() -> None:
    plan = Small()
    plan.optimizer = _Wrong(lr=0.1)
    with pytest.raises(PlanError, match=r"new/param/\S+ differs from eager PyTorch.*the worst of 5 results"):
        build_plan(plan)


def test_a_plan_that_is_not_finite_is_refused() -> None:
    exported = build_plan(Small())

    def broken(feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        results = Engine(exported.onnx).run(feeds)
        results["new/param/0.bias"] = results["new/param/0.bias"] * np.nan
        return results

    with pytest.raises(PlanError, match=r"new/param/0\.bias is not finite, in eager PyTorch it is"):
        check_training(broken, exported.traced.step, exported.signature, engine="broken")


@pytest.mark.parametrize("plan", [MatrixFactorization, MLP, MultinomialAutoencoder])
def test_torchscript_there_and_back(plan: type[TrainingPlan]) -> None:
    exported = build_plan(plan())
    data, difference = build_torchscript(exported)
    assert difference.relative <= VALUE_TOLERANCE
    imported = import_torchscript(data)
    assert imported.signature == exported.signature
    read_plan_bytes(imported.onnx)


_FOREIGN = """
def forward(self, w: Tensor, x: Tensor, y: Tensor, lr: Tensor) -> Tuple[Tensor, Tensor]:
    leaf = w.detach().requires_grad_(True)
    loss = torch.mean((torch.matmul(x, leaf) - y) ** 2)
    gradient = torch.autograd.grad([loss], [leaf])[0]
    assert gradient is not None
    return loss.detach(), w - lr * gradient
"""
_ROLES = """
name: foreign
kind: train
inputs:
  - {name: w, role: parameter, dtype: float32, shape: [4]}
  - {name: x, role: data, dtype: float32, shape: [batch, 4]}
  - {name: y, role: data, dtype: float32, shape: [batch]}
  - {name: lr, role: hyper, dtype: float32, shape: [], default: 0.1}
outputs:
  - {name: loss, role: loss, dtype: float32, shape: []}
  - {name: w2, role: parameter, dtype: float32, shape: [4], replaces: w}
"""


def _foreign(source: str = _FOREIGN, roles: str | None = None) -> bytes:
    module = type("Foreign", (torch.jit.ScriptModule,), {})()
    module.define(source)
    extra = {METADATA_KEY: roles} if roles else {}
    with quiet_about_deprecation():
        return bytes(module.save_to_buffer(_extra_files=extra))


def test_a_foreign_script_with_its_roles_in_yaml_becomes_a_plan() -> None:
    imported = import_torchscript(_foreign(), roles=read_roles(_ROLES))
    plan = read_plan_bytes(imported.onnx)
    assert plan.signature.name == "foreign"
    x = np.ones((5, 4), dtype=np.float32)
    feeds = {"w": np.zeros(4, np.float32), "x": x, "y": np.ones(5, np.float32), "lr": np.float32(0.25)}
    results = Engine(imported.onnx).run({k: np.asarray(v) for k, v in feeds.items()})
    np.testing.assert_allclose(results["w2"], np.full(4, 0.5), rtol=1e-6)


def test_scripts_that_cannot_be_plans_are_refused() -> None:
    with pytest.raises(PlanError, match="does not say what its inputs are for"):
        import_torchscript(_foreign())
    with pytest.raises(PlanError, match="no TorchScript file"):
        import_torchscript(b"PK not really")
    with pytest.raises(PlanError, match=r"comes out as float32\[4\], the signature says float32\[\]"):
        import_torchscript(_foreign(_FOREIGN.replace("loss.detach(), w", "w, w")), roles=read_roles(_ROLES))
    with pytest.raises(PlanError, match="returns 1 tensors, its signature names 2"):
        import_torchscript(
            _foreign(
                "def forward(self, w: Tensor, x: Tensor, y: Tensor, lr: Tensor) -> Tensor:\n    return w * lr\n"
            ),
            roles=read_roles(_ROLES),
        )
    with pytest.raises(PlanError, match="not YAML"):
        read_roles("{")
    with pytest.raises(PlanError, match="lacks 'kind'"):
        read_roles("name: x")


def test_an_export_is_everything_that_a_phone_needs(tmp_path: Path) -> None:
    files = export_files(Small(nn.BatchNorm1d(8)), format="both")
    paths = write_files(files, tmp_path / "new" / "directory")
    names = ["small.eval.onnx", "small.eval.pt", "small.onnx", "small.pt", "small.safetensors"]
    assert sorted(p.name for p in paths) == names
    directory = paths[0].parent
    train = read_plan(directory / "small.onnx").signature
    assert train.kind == "train"
    assert read_plan(directory / "small.eval.onnx").signature.kind == "evaluate"
    imported = import_file(directory / "small.pt")
    assert imported.signature == train
    initial = load_file(directory / "small.safetensors")
    wanted = train.with_role(Role.PARAMETER, Role.PRIVATE, Role.BUFFER)
    assert {n: (a.dtype.name, a.shape) for n, a in initial.items()} == {
        i.name: (i.dtype, i.shape) for i in wanted
    }
    for name, array in initial.items():
        np.testing.assert_array_equal(imported.initial[name], array)


def test_the_same_plan_is_the_same_file() -> None:
    assert build_plan(Small()).onnx == build_plan(Small()).onnx


def test_bad_plans_are_refused_before_they_are_traced() -> None:
    class Ragged(Small):
        def example_batch(self) -> Batch:
            return {"x": torch.zeros(3, 5), "y": torch.zeros(4, dtype=torch.int64)}

    with pytest.raises(PlanError, match=r"hold \[3, 4\] examples"):
        trace_plan(Ragged())

    class Nameless(Small):
        name = "a/b"

    with pytest.raises(PlanError, match="use letters, digits"):
        trace_plan(Nameless())
    with pytest.raises(PlanError, match="Nesterov"):
        SGD(lr=0.1, nesterov=True)
    with pytest.raises(PlanError, match="lr is -1"):
        SGD(lr=-1)


def test_what_a_users_code_raises_is_told_with_its_line() -> None:
    class Typo(Small):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            return F.cross_entropy(model(batch["z"]), batch["y"])

    with pytest.raises(PlanError, match=r"test_training\.py:\d+ in loss cannot be traced: KeyError: 'z'"):
        build_plan(Typo())

    class Unfit(Small):
        def module(self) -> nn.Module:
            raise OSError("no such weights")

    with pytest.raises(PlanError, match=r"plan small: its module\(\) failed: OSError: no such weights"):
        build_plan(Unfit())

    class NoModule(Small):
        def module(self) -> nn.Module:
            return torch.zeros(3)  # type: ignore[return-value]

    with pytest.raises(PlanError, match=r"its module\(\) returns Tensor, no nn\.Module"):
        build_plan(NoModule())

    class Listing(Small):
        def example_batch(self) -> Batch:
            return [torch.zeros(3)]  # type: ignore[return-value]

    with pytest.raises(PlanError, match="the example batch is a list, no mapping"):
        build_plan(Listing())


def test_a_model_that_fails_on_some_batches_is_refused() -> None:
    class Picky(Small):
        def random_batch(
            self, examples: int, generator: torch.Generator, kind: Kind = "train"
        ) -> dict[str, Tensor]:
            batch = super().random_batch(examples, generator, kind)
            return {"x": batch["x"], "y": batch["y"] + (99 if examples == 3 else 0)}

    with pytest.raises(
        PlanError, match=r"fails in eager PyTorch, on a batch of 3: IndexError: Target \d+ is out"
    ):
        build_plan(Picky())


def _wrong_at(steps: set[int], exported: ExportedPlan) -> Runner:
    engine, calls = Engine(exported.onnx), itertools.count()

    def run(feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        results = engine.run(feeds)
        if next(calls) in steps:
            results["new/param/0.bias"] = results["new/param/0.bias"] + np.float32(1e-4)
        return results

    return run


def test_one_jump_over_a_kink_is_forgiven_two_are_not() -> None:
    exported = build_plan(Small())
    step, signature = exported.traced.step, exported.signature
    check_training(_wrong_at({1}, exported), step, signature, engine="x")
    for wrong in ({0, 1}, {1, 4}, set(range(9))):
        with pytest.raises(PlanError, match=r"new/param/0\.bias differs"):
            check_training(_wrong_at(wrong, exported), step, signature, engine="x")


def test_every_node_has_a_name_of_its_own() -> None:
    names = [node.name for node in read_plan_bytes(build_plan(Small()).onnx).model.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)
