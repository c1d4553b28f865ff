"""Plans on some rows of their tables: the same as on all of them, or refused."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name that everybody uses
from torch import Tensor, nn

from devicelab.errors import PlanError, RowsError
from devicelab.plans.eager import EagerTrainer
from devicelab.plans.engine import BoundEngine, Engine
from devicelab.plans.export import build_plan, build_torchscript, trace_plan
from devicelab.plans.importing import import_torchscript, read_roles
from devicelab.plans.optimizers import SGD, Adagrad, Adam, AdamW, Optimizer
from devicelab.plans.plan import Batch, NamedRows, TrainingPlan
from devicelab.plans.reader import read_plan_bytes
from devicelab.plans.signature import Role, Table
from devicelab.plans.tables import row_numbers
from devicelab.plans.torchscript import quiet_about_deprecation
from devicelab.plans.zoo import MatrixFactorization, NeuMF
from tests.plans.conftest import feeds_of, on_rows

_ITEMS = 40


class Lookup(TrainingPlan):
    """Scores of pairs out of a table of items, which the tests add something to."""

    name = "lookup"
    tables: Mapping[str, NamedRows] = {"item": NamedRows(("item.*", "bias.*"), ("first", "second"))}

    def __init__(self, optimizer: Optimizer | None = None) -> None:
        self.optimizer = optimizer or SGD(lr=0.1)

    def module(self) -> nn.Module:
        torch.manual_seed(0)
        parts = {"item": nn.Embedding(_ITEMS, 4), "bias": nn.Embedding(_ITEMS, 1), "out": nn.Linear(4, 1)}
        return nn.ModuleDict(parts)

    def scores(self, model: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(model, nn.ModuleDict)
        first, second = batch["first"], batch["second"]
        score: Tensor = model["out"](model["item"](first) * model["item"](second))
        bias: Tensor = model["bias"](first)
        return score[:, 0] + bias[:, 0]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return F.mse_loss(self.scores(model, batch), batch["y"])

    def example_batch(self) -> Batch:
        generator = torch.Generator().manual_seed(4)
        first, second = (torch.randint(_ITEMS, (16,), generator=generator) for _ in range(2))
        first[0], second[5] = 0, _ITEMS - 1
        return {"first": first, "second": second.int(), "y": torch.randn(16, generator=generator)}


_OPTIMIZERS = {
    "sgd": SGD(lr=0.1),
    "momentum": SGD(lr=0.05, momentum=0.9),
    "nesterov": SGD(lr=0.05, momentum=0.9, nesterov=True),
    "adam": Adam(lr=0.01),
    "adagrad": Adagrad(lr=0.05),
}


@pytest.mark.parametrize(
    ("model", "optimizer", "option"),
    [
        *((Lookup, optimizer, "") for optimizer in _OPTIMIZERS),
        *((Lookup, "adam", each) for each in ("proximal", "clip_norm", "example_clip_norm", "fixed_batch")),
        (Lookup, "sgd", "clip_norm"),
        (MatrixFactorization, "sgd", ""),
        (MatrixFactorization, "sgd", "example_clip_norm"),  # it has a parameter of no dimension
        (NeuMF, "momentum", ""),
        (NeuMF, "adam", ""),
    ],
)
def test_steps_on_a_clients_rows_are_those_of_eager_pytorch_on_the_whole_table(
    model: Callable[..., TrainingPlan], optimizer: str, option: str
) -> None:
    plan = model(optimizer=_OPTIMIZERS[optimizer])
    if option:
        setattr(plan, option, True if option == "fixed_batch" else 0.05)
    exported = build_plan(plan)
    signature = exported.signature
    generator = torch.Generator().manual_seed(1)
    client = plan.random_batch(6, generator)
    picks = [torch.randint(6, (signature.batch or 4,), generator=generator) for _ in range(5)]
    rows = {
        name: row_numbers(client[label].numpy() for label in table.data)
        for name, table in signature.tables.items()
    }
    assert rows
    eager, engine = EagerTrainer(exported.traced.step), Engine(exported.onnx)
    feeds = feeds_of(exported, signature.batch or 4)
    kept = {i.name: feeds[i.name] for i in signature.inputs if i.role is not Role.DATA}
    part = on_rows(signature, kept, rows)
    for pick in picks:
        batch = {name: tensor[pick] for name, tensor in client.items()}
        truth = eager.step(batch)
        data = {i.name: batch[i.label].numpy() for i in signature.with_role(Role.DATA)}
        got = engine.run(part | on_rows(signature, data, rows))
        part |= {old: got[new] for new, old in signature.replacements.items()}
        assert float(got["loss"]) == pytest.approx(float(truth["loss"]), rel=1e-5, abs=1e-6)
    final = {name: tensor.numpy() for name, tensor in eager.carried().items()}
    for i in signature.inputs:
        if i.name not in final:
            continue
        right = final[i.name]
        if i.rows is not None:
            others = np.setdiff1d(np.arange(signature.tables[i.rows].rows), rows[i.rows])
            assert others.size
            np.testing.assert_array_equal(right[others], exported.initial[i.name][others])
            right = right[rows[i.rows]]
        np.testing.assert_allclose(part[i.name], right, rtol=1e-4, atol=2e-5 if optimizer == "adam" else 1e-6)


def test_the_file_says_which_rows_its_data_name() -> None:
    signature = build_plan(Lookup(Adam(lr=0.1))).signature
    names = ("item.weight", "bias.weight")
    assert signature.tables == {"item": Table(_ITEMS, tuple(f"param/{n}" for n in names), ("first", "second"))}
    of_rows = {i.name for i in signature.inputs if i.rows == "item" and i.role is Role.STATE}
    assert of_rows == {f"state/{slot}/{n}" for slot in ("exp_avg", "exp_avg_sq") for n in names}
    for kind in ("train", "evaluate"):
        plan = read_plan_bytes(build_plan(Lookup(), kind).onnx)
        shapes = {i.name: i.type.tensor_type.shape.dim for i in plan.model.graph.input}
        assert shapes["param/item.weight"][0].dim_param == "rows.item"
        assert shapes["param/out.weight"][0].dim_value == 1
        assert plan.signature.input("param/item.weight").shape == (_ITEMS, 4)


def test_updates_stay_in_place_on_some_rows_and_leave_the_rest() -> None:
    exported = build_plan(MatrixFactorization(items=300))
    assert {o.replaces for o in exported.signature.outputs if o.in_place} >= {
        "param/item.weight",
        "param/item_bias.weight",
    }
    feeds = feeds_of(exported, 8)
    rows = {"item": np.union1d(feeds["data/item"], [3, 77, 250])}
    whole = BoundEngine(exported.onnx, exported.signature, feeds)
    part = BoundEngine(exported.onnx, exported.signature, on_rows(exported.signature, feeds, rows))
    for _ in range(5):
        assert part.step() == whole.step()
    values, right = part.values(), whole.values()
    for name in ("param/item.weight", "param/item_bias.weight"):
        np.testing.assert_array_equal(values[name], right[name][rows["item"]])


@pytest.mark.parametrize("plan", [Lookup, MatrixFactorization, NeuMF])
def test_torchscript_keeps_the_tables(plan: Callable[[], TrainingPlan]) -> None:
    for kind in ("train", "evaluate"):
        exported = build_plan(plan(), kind)
        assert exported.signature.tables
        script, _ = build_torchscript(exported)
        imported = import_torchscript(script)
        assert imported.signature == exported.signature
        read_plan_bytes(imported.onnx)


class _Softmax(Lookup):
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(model, nn.ModuleDict)
        table = model["item"].weight
        assert isinstance(table, Tensor)
        return F.cross_entropy(model["item"](batch["first"]) @ table.T, batch["second"].long())


class _Decay(Lookup):
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(model, nn.ModuleDict)
        table = model["item"].weight
        assert isinstance(table, Tensor)
        return super().loss(model, batch) + 0.01 * (table**2).sum()


class _Mean(Lookup):
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(model, nn.ModuleDict)
        table = model["item"].weight
        assert isinstance(table, Tensor)
        return super().loss(model, batch) + (table.mean() - batch["y"]).abs().mean()


class _Centred(Lookup):
    """Reads all rows, and no gradient tells."""

    def scores(self, model: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(model, nn.ModuleDict)
        table = model["item"].weight
        assert isinstance(table, Tensor)
        return super().scores(model, batch) + 0.1 * table.detach().amax()


class _AllButTheLast(Lookup):
    def scores(self, model: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(model, nn.ModuleDict)
        table = model["item"].weight
        assert isinstance(table, Tensor)
        return super().scores(model, batch) + table[: len(table) - 1].detach().mean()


class _OneHot(Lookup):
    def scores(self, model: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(model, nn.ModuleDict)
        table = model["item"].weight
        assert isinstance(table, Tensor)
        hot = (batch["first"][:, None] == torch.arange(_ITEMS)).float()
        return super().scores(model, batch) + (hot @ table).sum(-1)


class _Padded(Lookup):
    def __init__(self, padding: int) -> None:
        super().__init__()
        self.padding = padding

    def module(self) -> nn.Module:
        model = super().module()
        assert isinstance(model, nn.ModuleDict)
        table = nn.Embedding(_ITEMS, 4, padding_idx=self.padding)
        nn.init.normal_(table.weight)
        model["item"] = table
        return model


class _Masked(Lookup):
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return ((self.scores(model, batch) - batch["y"]) ** 2 * (batch["first"] != 0)).mean()


class _Fixed(Lookup):
    """Reads one row, whatever the data."""

    def scores(self, model: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(model, nn.ModuleDict)
        bias: Tensor = model["bias"](torch.tensor(7))
        return super().scores(model, batch) + bias


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        (Lookup(AdamW(lr=0.01)), "changes rows of table 'item' that its data do not name: new/param/"),
        (Lookup(SGD(lr=0.01, weight_decay=0.1)), "changes rows of table 'item' that its data do not name"),
        (_Decay(), "changes rows of table 'item' that its data do not name"),
        (_Softmax(), "changes rows of table 'item' that its data do not name"),
        (_Mean(), "changes rows of table 'item' that its data do not name"),
        (_AllButTheLast(), "number of rows of table 'item': a number in it is 39 for 40 rows and 41 for 42"),
        (_OneHot(), "another program for another number of rows of table 'item': for 42 rows instead of 40"),
        (_Centred(), "on some rows of its tables, plan lookup, batch of 5: "),
        (_Padded(0), "or computes with row numbers"),
        (_Padded(_ITEMS - 1), "or computes with row numbers"),
        (_Masked(), "or computes with row numbers"),
        (_Fixed(), "it reads rows that its data do not name"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, TrainingPlan) else None,
)
def test_what_needs_other_rows_is_refused_unless_the_table_is_sent_whole(plan: Lookup, reason: str) -> None:
    with pytest.raises(RowsError) as refused:
        build_plan(plan)
    assert reason in refused.value.message
    assert "`tables`" in (refused.value.hint or "")

    plan.tables = {}
    assert build_plan(plan).signature.tables == {}


class _RankedAmongAll(Lookup):
    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        if model.training:
            return {}
        assert isinstance(model, nn.ModuleDict)
        bias = model["bias"].weight
        assert isinstance(bias, Tensor)
        above = (bias[:, 0] > model["bias"](batch["first"])).sum().float()
        return {"rank": (above, torch.ones(()) * len(batch["first"]))}


class _OtherData(Lookup):
    def evaluation_batch(self) -> Batch:
        batch = dict(self.example_batch())
        return {"start": batch.pop("first"), **batch}

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().loss(model, {"first": batch["start"], **batch} if "start" in batch else batch)


class _Careless(Lookup):
    """Its evaluation looks at no row numbers, and at the whole table."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(model, nn.ModuleDict)
        if model.training:
            return super().loss(model, batch)
        bias = model["bias"].weight
        assert isinstance(bias, Tensor)
        return (bias.sum() - batch["y"]).abs().mean()


@pytest.mark.parametrize("plan", [_RankedAmongAll, _OtherData, _Careless])
def test_an_evaluation_that_reads_whole_tables_is_given_them(plan: type[Lookup]) -> None:
    assert build_plan(plan()).signature.tables
    exported = build_plan(plan(), "evaluate")
    assert exported.signature.tables == {}
    graph = read_plan_bytes(exported.onnx).model.graph
    shape = next(i for i in graph.input if i.name == "param/bias.weight").type.tensor_type.shape
    assert shape.dim[0].dim_value == _ITEMS


def _items(pattern: str = "item.*", label: str = "first") -> NamedRows:
    return NamedRows((pattern,), (label,))


@pytest.mark.parametrize(
    ("tables", "reason"),
    [
        ({"item": _items("items.*")}, "no parameter is called 'items.*'"),
        ({"item": _items(label="frist")}, "'frist' is not in the example batch; did you mean 'first'"),
        ({"item": _items(label="y")}, "'data/y' is float32, row numbers of table 'item' are whole numbers"),
        ({"item": NamedRows(("item.*", "out.weight"), ("first",))}, "have different numbers of rows"),
        ({"item": _items("scale")}, "parameter 'param/scale' has no rows"),
        ({"a": _items(), "b": _items("i*", "second")}, "'item.weight' is of the table 'a' already"),
        ({"a": _items(), "b": _items("bias.*")}, "'first' names rows of both 'a' and 'b'"),
        ({"an item": _items()}, "'an item' is no name for a table"),
        ({"item": (("item.*",), ("first",))}, "table 'item' is a tuple, no NamedRows"),
        (_items(), "`tables` are a NamedRows, no mapping"),
    ],
)
def test_a_table_that_cannot_be_is_refused_before_anything_is_traced(tables: Any, reason: str) -> None:
    class Odd(Lookup):
        def module(self) -> nn.Module:
            model = super().module()
            model.register_parameter("scale", nn.Parameter(torch.ones(())))
            return model

    Odd.tables = tables
    with pytest.raises(PlanError) as refused:
        trace_plan(Odd())
    assert reason in refused.value.message


def test_what_is_private_is_of_no_table() -> None:
    class Own(Lookup):
        private = ("bias.*",)

    with pytest.raises(PlanError, match=r"table 'item': 'bias\.weight' is private"):
        trace_plan(Own())
    with pytest.raises(PlanError, match="ids is 'first'; it must be a tuple of names"):
        NamedRows(("item.*",), "first")  # type: ignore[arg-type] # the mistake


def test_zoo_plans_have_no_tables_where_the_weights_decay() -> None:
    assert build_plan(MatrixFactorization(optimizer=AdamW(lr=0.01))).signature.tables == {}


_FOREIGN = """
def forward(self, table: Tensor, item: Tensor, y: Tensor, lr: Tensor) -> Tuple[Tensor, Tensor]:
    leaf = table.detach().requires_grad_(True)
    loss = torch.mean((torch.sum(torch.embedding(leaf, item), 1) - y) ** 2){more}
    gradient = torch.autograd.grad([loss], [leaf])[0]
    assert gradient is not None
    return loss.detach(), table - lr * gradient
"""
_ROLES = """
name: foreign
kind: train
inputs:
  - {name: table, role: parameter, dtype: float32, shape: [50, 4], rows: item}
  - {name: item, role: data, dtype: int64, shape: [batch], rows: item}
  - {name: y, role: data, dtype: float32, shape: [batch]}
  - {name: lr, role: hyper, dtype: float32, shape: [], default: 0.1}
outputs:
  - {name: loss, role: loss, dtype: float32, shape: []}
  - {name: table2, role: parameter, dtype: float32, shape: [50, 4], replaces: table}
"""


def _script(more: str) -> bytes:
    class Script(torch.jit.ScriptModule):  # made anew each time: TorchScript compiles a class once
        pass

    with quiet_about_deprecation():
        module = Script()
        module.define(_FOREIGN.replace("{more}", more))
        buffer = io.BytesIO()
        torch.jit.save(module, buffer)
    return buffer.getvalue()


def test_a_foreign_script_may_say_which_rows_its_data_name() -> None:
    imported = import_torchscript(_script(""), roles=read_roles(_ROLES))
    assert imported.signature.tables == {"item": Table(50, ("table",), ("item",))}
    assert [o.in_place for o in imported.signature.outputs] == [False, True]
    read_plan_bytes(imported.onnx)
    with pytest.raises(RowsError, match="changes rows of table 'item'"):
        import_torchscript(_script(" + 0.1 * torch.sum(leaf ** 2)"), roles=read_roles(_ROLES))
