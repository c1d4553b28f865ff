"""From a :class:`TrainingPlan` to checked files: trace, clean, write, compare with eager PyTorch."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from torch import nn

from devicelab.files import write_atomically
from devicelab.plans.aliasing import in_place_outputs
from devicelab.plans.check import Difference, check_evaluation, check_training
from devicelab.plans.cleanup import alive_nodes, clean, products_into_parameters, sparse_table_updates
from devicelab.plans.engine import Engine
from devicelab.plans.graph import Graph
from devicelab.plans.optimizers import SGD
from devicelab.plans.plan import TrainingPlan
from devicelab.plans.signature import Kind, Signature
from devicelab.plans.step import STEP_COUNT, Step, evaluation_step, training_step
from devicelab.plans.torchscript import save_torchscript, script_runner, torchscript_step
from devicelab.plans.tracing import trace
from devicelab.plans.writer import write_onnx

__all__ = [
    "ExportedPlan",
    "Format",
    "TracedPlan",
    "build_plan",
    "build_torchscript",
    "onnx_model",
    "trace_plan",
    "write_plan",
]

Format = Literal["onnx", "torchscript", "both"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class TracedPlan:
    """A step as a clean graph, ready to be written in any format.

    Attributes:
        step: Where it comes from.
        graph: Its inputs and outputs in the signature's order.
        signature: Their names and roles.
    """

    step: Step
    graph: Graph
    signature: Signature


@dataclass(frozen=True, slots=True)
class ExportedPlan:
    """An ONNX plan whose numbers have been checked.

    Attributes:
        traced: The step it is.
        onnx: The file's content.
        difference: The result that agrees least with eager PyTorch.
    """

    traced: TracedPlan
    onnx: bytes
    difference: Difference

    @property
    def signature(self) -> Signature:
        """The plan's signature."""
        return self.traced.signature

    @property
    def initial(self) -> dict[str, Array]:
        """Initial parameters, buffers and state by input name."""
        known = self.traced.step.initial_arrays()
        return {i.name: known[i.name] for i in self.signature.inputs if i.name in known}


def trace_plan(plan: TrainingPlan, kind: Kind = "train", *, model: nn.Module | None = None) -> TracedPlan:
    """Trace a plan's training or evaluation step.

    Args:
        plan: What the user wrote.
        kind: Which of the two steps.
        model: The module with its initial values; a new one if None.

    Raises:
        PlanError: The model cannot be traced; names the operator and the line of its code where they are known.
    """
    model = plan.module() if model is None else copy.deepcopy(model)
    step = training_step(plan, model) if kind == "train" else evaluation_step(plan, model)
    fixed = len(next(iter(step.example.values()))) if plan.fixed_batch else None
    graph = trace(step, step.arguments, fixed_batch=fixed)
    outputs = _drop_idle_outputs(graph, step)
    clean(graph)
    if kind == "train" and isinstance(plan.optimizer, SGD):
        sparse_table_updates(graph)
        clean(graph)
        products_into_parameters(graph)
    used = _drop_idle_inputs(graph, step, outputs)
    signature = step.signature(outputs, used, set())
    return TracedPlan(step, graph, signature)


def _drop_idle_outputs(graph: Graph, step: Step) -> list[str]:
    """Forget outputs that are the very input they would replace, and the step count where nothing reads it."""
    names = [i.name for i in step.inputs]
    by_name = dict(zip(names, graph.inputs, strict=True))
    kept = [
        (value, name)
        for value, name in zip(graph.outputs, step.names, strict=True)
        if by_name.get(name.removeprefix("new/")) is not value
    ]
    uncounted = [(value, name) for value, name in kept if name != f"new/{STEP_COUNT}"]
    alive = alive_nodes(graph.nodes, [value for value, _ in uncounted])
    count = by_name.get(STEP_COUNT)
    if count is not None and not any(count in node.inputs for node in alive):
        kept = uncounted
    graph.outputs = [value for value, _ in kept]
    return [name for _, name in kept]


def _drop_idle_inputs(graph: Graph, step: Step, outputs: list[str]) -> set[str]:
    """Forget inputs that nothing reads, unless they are the model's own values or the user's data."""
    read = {value for node in graph.nodes for value in node.inputs} | set(graph.outputs)
    replaced = {name.removeprefix("new/") for name in outputs}
    kept = [
        (value, i)
        for value, i in zip(graph.inputs, step.inputs, strict=True)
        if value in read or i.name in replaced or i.role in ("parameter", "private")
    ]
    graph.inputs = [value for value, _ in kept]
    return {i.name for _, i in kept}


def onnx_model(traced: TracedPlan) -> tuple[onnx.ModelProto, Signature]:
    """Write a traced plan as ONNX; the signature then says which outputs may be updated in place."""
    model = write_onnx(traced.graph, traced.signature)
    safe = in_place_outputs(model, traced.signature.replacements)
    if not safe:
        return model, traced.signature
    outputs = tuple(dataclasses.replace(o, in_place=o.name in safe) for o in traced.signature.outputs)
    signature = dataclasses.replace(traced.signature, outputs=outputs)
    return write_onnx(traced.graph, signature), signature


def build_plan(
    plan: TrainingPlan, kind: Kind = "train", *, model: nn.Module | None = None, seed: int = 0
) -> ExportedPlan:
    """Make a plan's ONNX file and check it against eager PyTorch.

    Raises:
        PlanError: It cannot be exported, or its numbers disagree.
    """
    traced = trace_plan(plan, kind, model=model)
    proto, signature = onnx_model(traced)
    traced = dataclasses.replace(traced, signature=signature)
    content = proto.SerializeToString(deterministic=True)
    engine = Engine(content)
    check = check_training if kind == "train" else check_evaluation
    difference = check(engine.run, traced.step, signature, engine="ONNX Runtime", seed=seed)
    return ExportedPlan(traced, content, difference)


def build_torchscript(exported: ExportedPlan, *, seed: int = 0) -> bytes:
    """The same step as TorchScript, checked against eager PyTorch as the ONNX file was.

    Raises:
        PlanError: TorchScript does not take it, or its numbers disagree.
    """
    module = torchscript_step(exported.traced.graph, exported.signature)
    check = check_training if exported.signature.kind == "train" else check_evaluation
    runner = script_runner(module, exported.signature)
    check(runner, exported.traced.step, exported.signature, engine="TorchScript", seed=seed)
    return save_torchscript(module, exported.signature, exported.initial)


def write_plan(plan: TrainingPlan, directory: Path, *, format: Format = "onnx", seed: int = 0) -> list[Path]:  # noqa: A002 - the option's name
    """Export a plan: NAME.onnx (or NAME.pt) that trains, NAME.eval.onnx (or NAME.eval.pt) that evaluates.

    Nothing is written before everything has been checked.

    Args:
        plan: What the user wrote.
        directory: Where the files go; must exist.
        format: Which kinds of files.
        seed: Of the random batches of the check.

    Returns:
        The files written.

    Raises:
        PlanError: The plan cannot be exported, or its numbers disagree.
        OSError: A file cannot be written.
    """
    model = plan.module()
    files: dict[str, bytes] = {}
    for kind, stem in (("train", plan.label), ("evaluate", f"{plan.label}.eval")):
        exported = build_plan(plan, "train" if kind == "train" else "evaluate", model=model, seed=seed)
        if format in ("onnx", "both"):
            files[f"{stem}.onnx"] = exported.onnx
        if format in ("torchscript", "both"):
            files[f"{stem}.pt"] = build_torchscript(exported, seed=seed)
    for name, content in files.items():
        write_atomically(directory / name, content)
    return [directory / name for name in files]
