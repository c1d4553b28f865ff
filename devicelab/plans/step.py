"""The local step as one pure function of tensors: forward, backward, optimizer; and its evaluation twin.

The functions here use nothing but PyTorch's own autograd, so that what is traced is what PyTorch computes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from devicelab.errors import PlanError
from devicelab.plans.plan import Batch, TrainingPlan
from devicelab.plans.randomness import SeededRandom
from devicelab.plans.signature import BATCH, Input, Kind, Output, Role, Signature
from devicelab.plans.tables import check_tables

__all__ = ["Step", "dtype_name", "evaluation_step", "training_step"]

Tensors = dict[str, Tensor]
STEP_COUNT = "state/step"
SEED = "hyper/seed"


def dtype_name(dtype: torch.dtype) -> str:
    """The name that numpy has for."""
    return str(dtype).removeprefix("torch.")


class Step(ABC):
    """A pure function with a signature, ready to be traced at any batch size.

    Attributes:
        plan: Where it comes from.
        kind: Training or evaluation.
        model: The module, with its initial values.
    """

    kind: Kind

    def __init__(self, plan: TrainingPlan, model: nn.Module, *, tables: bool = True) -> None:
        self.plan = plan
        self.model = model
        self.parameters = {name: p.detach() for name, p in model.named_parameters()}
        self.buffers = {name: b.detach() for name, b in model.named_buffers()}
        self.trainable = [name for name, p in model.named_parameters() if p.requires_grad]
        self.example = plan.checked_batch(self.kind)
        self._tables, self._ids = self._rows() if tables else ({}, {})
        self.inputs: list[Input] = []
        self.initial: Tensors = {}
        for name, parameter in self.parameters.items():
            role = Role.PRIVATE if plan.is_private(name) else Role.PARAMETER
            self._add(f"param/{name}", role, parameter, rows=self._tables.get(name))
        for name, buffer in self.buffers.items():
            self._add(f"buffer/{name}", Role.BUFFER, buffer)

    def _rows(self) -> tuple[dict[str, str], dict[str, str]]:
        """The tables that parameters are of, and those whose rows data name; of tables that have both."""
        tables = self.plan.tables_of_parameters(self.parameters)
        ids = self.plan.tables_of_data(self.example, self.kind)
        return {name: table for name, table in tables.items() if table in ids.values()}, ids

    def _add(
        self,
        name: str,
        role: Role,
        value: Tensor,
        *,
        default: float | None = None,
        of: str | None = None,
        rows: str | None = None,
    ) -> None:
        dtype, shape = dtype_name(value.dtype), tuple(value.shape)
        self.inputs.append(Input(name, role, dtype, shape, default, of, rows=rows))
        self.initial[name] = value

    def _add_data(self) -> None:
        for name, tensor in self.example.items():
            limits = None
            if tensor.dtype in (torch.int64, torch.int32):
                limits = (int(tensor.min()), int(tensor.max())) if tensor.numel() else None
            first = len(tensor) if self.plan.fixed_batch else BATCH
            shape = (first, *tensor.shape[1:])
            dtype = dtype_name(tensor.dtype)
            table = self._ids.get(name)
            self.inputs.append(Input(f"data/{name}", Role.DATA, dtype, shape, range=limits, rows=table))

    def arguments(self, batch: int) -> list[Tensor]:
        """Example arguments for so many examples, in input order."""
        rows = {f"data/{name}": t[torch.arange(batch) % len(t)] for name, t in self.example.items()}
        return [rows[i.name] if i.role is Role.DATA else self.initial[i.name] for i in self.inputs]

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        """Run the step on tensors in input order; the outputs' names are then in :attr:`names`."""
        named = dict(zip((i.name for i in self.inputs), tensors, strict=True))
        outputs = self._run(named)
        self.names = list(outputs)
        return list(outputs.values())

    @abstractmethod
    def _run(self, named: Tensors) -> Tensors: ...

    def _values(self, named: Tensors, prefix: str) -> Tensors:
        return {n.removeprefix(prefix): t for n, t in named.items() if n.startswith(prefix)}

    def signature(self, outputs: Sequence[str], used: set[str]) -> Signature:
        """The signature of the traced step.

        Args:
            outputs: Names of the outputs, in graph order.
            used: Names of the inputs that are left in the graph.
        """
        inputs = self._kept([i for i in self.inputs if i.name in used])
        by_name = {i.name: i for i in inputs}
        described = []
        for name in outputs:
            if name == "loss":
                described.append(Output(name, Role.LOSS, "float32", ()))
            elif name.startswith("metric/"):
                _, metric, part = name.split("/")
                assert part in ("sum", "count")
                dtype = "float32"
                described.append(Output(name, Role.METRIC, dtype, (), metric=metric, part=part))  # type: ignore[arg-type] # asserted above
            else:
                old = by_name[name.removeprefix("new/")]
                described.append(Output(name, old.role, old.dtype, old.shape, replaces=old.name))
        batch = len(next(iter(self.example.values()))) if self.plan.fixed_batch else None
        return Signature(self.plan.label, self.kind, inputs, tuple(described), batch)

    def _kept(self, inputs: list[Input]) -> tuple[Input, ...]:
        """The inputs; an evaluation that reads no row numbers of a table is no evaluation of its rows."""
        if self.kind == "train":
            return tuple(inputs)
        named = {i.rows for i in inputs if i.role is Role.DATA}
        return tuple(i if i.rows in named else replace(i, rows=None) for i in inputs)

    def initial_arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """Initial values of parameters, buffers and state by input name."""
        carried = (Role.PARAMETER, Role.PRIVATE, Role.BUFFER, Role.STATE)
        return {i.name: self.initial[i.name].cpu().numpy() for i in self.inputs if i.role in carried}


class _Objective(nn.Module):
    """The plan's loss and metrics as a module's forward, so that functional_call can swap the model's tensors.

    The metrics mostly call the model just as the loss did; such a call is answered with what the loss got, so
    that the forward pass is traced and computed once.
    """

    def __init__(self, plan: TrainingPlan, model: nn.Module) -> None:
        super().__init__()
        self.plan = plan
        self.model = model
        self._calls: list[tuple[tuple[Any, ...], dict[str, Any], Any]] = []

    def forward(self, batch: Batch, want: str) -> Any:  # noqa: ANN401 - a loss or a mapping of metrics
        plain = self.model.forward

        def record(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the model's
            result = plain(*args, **kwargs)
            self._calls.append((args, kwargs, result))
            return result

        def recall(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the model's
            for seen_args, seen_kwargs, result in self._calls:
                if _identical(args, seen_args) and _identical(kwargs, seen_kwargs):
                    return result
            return plain(*args, **kwargs)

        # On the instance, it shadows the class's method; module hooks and attributes work as ever.
        self.model.__dict__["forward"] = recall if want == "metrics" else record
        try:
            return self._metrics(batch) if want == "metrics" else self._loss(batch)
        finally:
            del self.model.__dict__["forward"]

    def _metrics(self, batch: Batch) -> Mapping[str, tuple[Tensor, Tensor]]:
        return self.plan.metrics(self.model, batch)

    def _loss(self, batch: Batch) -> Tensor:
        loss: object = self.plan.loss(self.model, batch)
        if not isinstance(loss, Tensor) or loss.dim() != 0:
            what = f"of shape {list(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            raise PlanError(
                f"plan {self.plan.label}: the loss must be a scalar tensor, it is {what}",
                hint="reduce it, e.g. with .mean()",
            )
        return loss


def _identical(a: Any, b: Any) -> bool:  # noqa: ANN401 - any arguments
    """Whether two nests of arguments hold the very same tensors and equal plain values."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return a is b
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_identical, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_identical(a[key], b[key]) for key in a)
    return bool(a is b or (isinstance(a, bool | int | float | str) and a == b))


def _call(objective: _Objective, tensors: Mapping[str, Tensor], batch: Batch, want: str) -> Any:  # noqa: ANN401 - see above
    prefixed = {f"model.{name}": tensor for name, tensor in tensors.items()}
    return functional_call(objective, prefixed, (batch, want))


def _metric_outputs(plan: TrainingPlan, found: Mapping[str, tuple[Tensor, Tensor]]) -> Tensors:
    outputs = {}
    entries: Mapping[str, tuple[object, object]] = found
    for name, pair in entries.items():
        if "/" in name or not name:
            raise PlanError(f"plan {plan.label}: {name!r} is no name for a metric")
        for part, value in zip(("sum", "count"), pair, strict=True):
            scalar = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float32)
            if scalar.dim() != 0:
                raise PlanError(
                    f"plan {plan.label}: the {part} of metric {name!r} has the shape {list(scalar.shape)}, it "
                    "must be a scalar"
                )
            outputs[f"metric/{name}/{part}"] = scalar.detach().to(torch.float32)
    return outputs


def _examples(batch: Batch) -> int:
    return next(iter(batch.values())).shape[0]


class _Training(Step):
    kind = "train"

    def __init__(self, plan: TrainingPlan, model: nn.Module) -> None:
        super().__init__(plan, model)
        slots = plan.optimizer.initial({name: self.parameters[name] for name in self.trainable})
        for name, by_slot in slots.items():
            for slot, value in by_slot.items():
                self._add(f"state/{slot}/{name}", Role.STATE, value, rows=self._tables.get(name))
        self._add(STEP_COUNT, Role.STATE, torch.zeros((), dtype=torch.int64))
        self._add_data()
        hypers: dict[str, float | None] = {
            "lr": plan.optimizer.lr,
            "mu": plan.proximal,
            "clip_norm": plan.clip_norm,
            "example_clip_norm": plan.example_clip_norm,
        }
        for name, default in hypers.items():
            if default is not None:
                self._add(f"hyper/{name}", Role.HYPER, torch.tensor(float(default)), default=float(default))
        self._add(SEED, Role.HYPER, torch.zeros((), dtype=torch.int64), default=0)
        if plan.proximal is not None:
            for name in self.trainable:
                anchor = self.parameters[name].clone()  # the same tensor twice would be traced as one input
                of, rows = f"param/{name}", self._tables.get(name)
                self._add(f"anchor/{name}", Role.ANCHOR, anchor, of=of, rows=rows)
        check_tables(self.inputs)

    def _run(self, named: Tensors) -> Tensors:
        plan = self.plan
        parameters, buffers = self._values(named, "param/"), self._values(named, "buffer/")
        batch = self._values(named, "data/")
        hyper = self._values(named, "hyper/")
        step = named[STEP_COUNT]
        objective = _Objective(plan, self.model)
        self.model.train()
        fresh = {name: buffer.clone() for name, buffer in buffers.items()}
        with SeededRandom(hyper["seed"], step) as random:
            if plan.example_clip_norm is None:
                loss, gradients = self._gradients(objective, parameters, fresh, batch)
            else:
                loss, gradients = self._clipped(objective, parameters, fresh, batch, hyper)
            random.restart()
            again = {**parameters, **{name: buffer.clone() for name, buffer in buffers.items()}}
            metrics = _metric_outputs(plan, _call(objective, again, batch, "metrics"))
        with torch.no_grad():
            updates = self._update(named, parameters, gradients, hyper, step + 1)
        changed = {f"new/buffer/{name}": buffer for name, buffer in fresh.items()}
        return {"loss": loss.detach(), **metrics, **updates, **changed, f"new/{STEP_COUNT}": step + 1}

    def _gradients(
        self, objective: _Objective, parameters: Tensors, buffers: Tensors, batch: Batch
    ) -> tuple[Tensor, Tensors]:
        leaves = {name: parameters[name].detach().requires_grad_() for name in self.trainable}
        loss = _call(objective, {**parameters, **leaves, **buffers}, batch, "loss")
        if not loss.requires_grad:
            raise PlanError(f"plan {self.plan.label}: the loss does not depend on any trainable parameter")
        found: tuple[Tensor | None, ...] = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        return loss, {name: g for name, g in zip(leaves, found, strict=True) if g is not None}

    def _clipped(
        self, objective: _Objective, parameters: Tensors, buffers: Tensors, batch: Batch, hyper: Tensors
    ) -> tuple[Tensor, Tensors]:
        """Mean of the examples' gradients, each scaled down to a norm of at most ``example_clip_norm``.

        Abadi et al. 2016, algorithm 1, without the noise.
        """

        def one(trained: Tensors, example: Batch) -> Tensor:
            alone = {name: tensor.unsqueeze(0) for name, tensor in example.items()}
            loss = _call(objective, {**parameters, **trained, **buffers}, alone, "loss")
            assert isinstance(loss, Tensor)
            return loss

        trained = {name: parameters[name] for name in self.trainable}
        try:
            each, losses = vmap(grad_and_value(one), in_dims=(None, 0))(trained, dict(batch))
        except RuntimeError as error:
            raise PlanError(
                f"plan {self.plan.label}: this model's gradient cannot be taken example by example: {error}",
                hint="batch norm, recurrent layers and random layers do not go with example_clip_norm",
            ) from error
        squares = [(g * g).reshape(len(g), -1).sum(1) for g in each.values()]
        norms = torch.stack(squares).sum(0).sqrt()
        scale = torch.clamp(hyper["example_clip_norm"] / (norms + 1e-6), max=1.0)
        mean = {n: (g * scale.reshape(-1, *[1] * (g.dim() - 1))).mean(0) for n, g in each.items()}
        return losses.mean(), mean

    def _update(
        self, named: Tensors, parameters: Tensors, gradients: Tensors, hyper: Tensors, step: Tensor
    ) -> Tensors:
        if "mu" in hyper:
            gradients = {
                name: g + hyper["mu"] * (parameters[name] - named[f"anchor/{name}"])
                for name, g in gradients.items()
            }
        if "clip_norm" in hyper:
            norms = torch.stack([torch.linalg.vector_norm(g) for g in gradients.values()])
            scale = torch.clamp(hyper["clip_norm"] / (torch.linalg.vector_norm(norms) + 1e-6), max=1.0)
            gradients = {name: g * scale for name, g in gradients.items()}
        outputs: Tensors = {}
        state: Tensors = {}
        optimizer = self.plan.optimizer
        for name, gradient in gradients.items():
            slots = {slot: named[f"state/{slot}/{name}"] for slot in optimizer.slots}
            new, slots = optimizer.update(parameters[name], gradient, slots, step, hyper["lr"])
            outputs[f"new/param/{name}"] = new
            state.update({f"new/state/{slot}/{name}": value for slot, value in slots.items()})
        return outputs | state


class _Evaluation(Step):
    kind = "evaluate"

    def __init__(self, plan: TrainingPlan, model: nn.Module, *, tables: bool = True) -> None:
        super().__init__(plan, model, tables=tables)
        self._add_data()
        check_tables(self.inputs)

    def _run(self, named: Tensors) -> Tensors:
        tensors = self._values(named, "param/") | self._values(named, "buffer/")
        batch = self._values(named, "data/")
        objective = _Objective(self.plan, self.model)
        self.model.eval()
        zero = torch.zeros((), dtype=torch.int64)
        # Randomness has no place in evaluation; where a model insists, it is at least the same every time.
        with torch.no_grad(), SeededRandom(zero, zero) if _is_random(self.model) else nullcontext():
            loss = _call(objective, tensors, batch, "loss")
            metrics = dict(_call(objective, tensors, batch, "metrics"))
        if "loss" in metrics:
            raise PlanError(f"plan {self.plan.label}: the metric name 'loss' is taken by the loss itself")
        examples = torch.full((), float(_examples(batch)))
        return _metric_outputs(self.plan, {"loss": (loss * examples, examples), **metrics})


def _is_random(model: nn.Module) -> bool:
    return any(isinstance(part, nn.modules.dropout._DropoutNd) for part in model.modules())


def training_step(plan: TrainingPlan, model: nn.Module) -> Step:
    """The plan's training step around a model with its initial values."""
    return _Training(plan, model)


def evaluation_step(plan: TrainingPlan, model: nn.Module, *, tables: bool = True) -> Step:
    """The plan's evaluation around the same model.

    Args:
        plan: Where it comes from.
        model: The module.
        tables: Whether the plan's tables are open to have some of their rows only.
    """
    return _Evaluation(plan, model, tables=tables)
