"""From a :class:`TrainingPlan` to checked files: trace, clean, write, compare with eager PyTorch."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import onnx
from safetensors.numpy import save
from torch import nn

from devicelab.config import Experiment
from devicelab.errors import ConfigError, PlanError, RowsError
from devicelab.files import write_atomically
from devicelab.plans.aliasing import in_place_outputs
from devicelab.plans.check import Difference, Runner, check_evaluation, check_training
from devicelab.plans.cleanup import alive_nodes, clean
from devicelab.plans.engine import Engine
from devicelab.plans.facts import ExportedFile
from devicelab.plans.graph import Graph
from devicelab.plans.importing import import_file, read_roles
from devicelab.plans.loading import load_plan
from devicelab.plans.optimizers import SGD
from devicelab.plans.plan import TrainingPlan
from devicelab.plans.rows import check_rows, first_client
from devicelab.plans.signature import Kind, Role, Signature
from devicelab.plans.step import STEP_COUNT, Step, evaluation_step, training_step
from devicelab.plans.torchscript import save_torchscript, script_runner, torchscript_step
from devicelab.plans.tracing import trace
from devicelab.plans.unifying import open_tables
from devicelab.plans.updates import products_into_parameters, sparse_table_updates
from devicelab.plans.writer import write_onnx

__all__ = [
    "ExportedPlan",
    "Format",
    "TracedPlan",
    "build_plan",
    "build_torchscript",
    "export_experiment",
    "export_files",
    "onnx_model",
    "trace_plan",
    "write_files",
]

Format = Literal["onnx", "torchscript", "both"]
KINDS: Final[Mapping[Kind, str]] = {"train": "training step", "evaluate": "evaluation"}

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
        """First values of parameters, buffers and state by input name."""
        known = self.traced.step.initial_arrays()
        return {i.name: known[i.name] for i in self.signature.inputs if i.name in known}

    @property
    def parameters(self) -> dict[str, Array]:
        """The same without state, which is zero at first: what a parameters file holds."""
        initial = self.initial
        kept = self.signature.with_role(Role.PARAMETER, Role.PRIVATE, Role.BUFFER)
        return {i.name: np.array(initial[i.name], order="C") for i in kept}


def trace_plan(
    plan: TrainingPlan, kind: Kind = "train", *, model: nn.Module | None = None, tables: bool = True
) -> TracedPlan:
    """Trace a plan's training or evaluation step.

    Args:
        plan: What the user wrote.
        kind: Which of the two steps.
        model: The module with its initial values; a new one if None.
        tables: Whether the evaluation is to do with some rows of the plan's tables; the training always is.

    Raises:
        PlanError: The model cannot be traced; names the operator and the line of its code where they are known.
        RowsError: It cannot do with some rows of its tables.
    """
    model = plan.new_module() if model is None else copy.deepcopy(model)
    step = training_step(plan, model) if kind == "train" else evaluation_step(plan, model, tables=tables)
    fixed = len(next(iter(step.example.values()))) if plan.fixed_batch else None
    graph = trace(step, step.arguments, fixed_batch=fixed, tables=open_tables(step.inputs))
    outputs = _drop_idle_outputs(graph, step)
    clean(graph)
    if kind == "train" and isinstance(plan.optimizer, SGD):
        sparse_table_updates(graph)
        clean(graph)
        products_into_parameters(graph)
    used = _drop_idle_inputs(graph, step, outputs)
    signature = step.signature(outputs, used)
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
    """Make a plan's ONNX file and check it against eager PyTorch, and on some rows of its tables against all.

    An evaluation that cannot do with some rows is made for whole tables.

    Raises:
        PlanError: It cannot be exported, or its numbers disagree.
        RowsError: The training step cannot do with some rows of its tables.
    """
    try:
        return _built(plan, kind, model, seed, tables=True)
    except RowsError:
        if kind == "train":
            raise
    return _built(plan, kind, model, seed, tables=False)


def _built(plan: TrainingPlan, kind: Kind, model: nn.Module | None, seed: int, *, tables: bool) -> ExportedPlan:
    traced = trace_plan(plan, kind, model=model, tables=tables)
    proto, signature = onnx_model(traced)
    traced = dataclasses.replace(traced, signature=signature)
    content = proto.SerializeToString(deterministic=True)
    difference = _checked(Engine(content).run, traced.step, signature, engine="ONNX Runtime", seed=seed)
    return ExportedPlan(traced, content, difference)


def _checked(runner: Runner, step: Step, signature: Signature, *, engine: str, seed: int) -> Difference:
    check = check_training if signature.kind == "train" else check_evaluation
    difference = check(runner, step, signature, engine=engine, seed=seed)
    check_rows(runner, signature, *first_client(step, signature, seed), engine=engine, seed=seed)
    return difference


def build_torchscript(exported: ExportedPlan, *, seed: int = 0) -> tuple[bytes, Difference]:
    """The same step as TorchScript, checked against eager PyTorch as the ONNX file was.

    Returns:
        The file's content, and the result that agrees least.

    Raises:
        PlanError: TorchScript does not take it, or its numbers disagree.
    """
    module = torchscript_step(exported.traced.graph, exported.signature)
    runner = script_runner(module, exported.signature)
    difference = _checked(runner, exported.traced.step, exported.signature, engine="TorchScript", seed=seed)
    return save_torchscript(module, exported.signature, exported.parameters), difference


def export_files(
    plan: TrainingPlan,
    *,
    format: Format = "onnx",  # noqa: A002 - the option's name
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> list[ExportedFile]:
    """Everything that a plan comes to, checked.

    NAME.onnx (or NAME.pt) trains, NAME.eval.onnx (or NAME.eval.pt) evaluates, NAME.safetensors holds the first
    value of every parameter, private parameter and buffer.

    Args:
        plan: What the user wrote.
        format: Which kinds of files.
        seed: Of the random batches of the check.
        progress: Told what is going on, in a few words.

    Raises:
        PlanError: The plan cannot be exported, or its numbers disagree.
    """
    model = plan.new_module()
    files: list[ExportedFile] = []
    initial: dict[str, Array] = {}
    for kind, words in KINDS.items():
        stem = plan.label if kind == "train" else f"{plan.label}.eval"
        progress(f"{plan.label}: tracing the {words} and checking it against PyTorch")
        exported = build_plan(plan, kind, model=model, seed=seed)
        initial |= exported.parameters
        if format in ("onnx", "both"):
            files.append(_exported_file(f"{stem}.onnx", exported.onnx, kind, exported.difference))
        if format in ("torchscript", "both"):
            progress(f"{plan.label}: writing the {words} as TorchScript and checking it")
            content, difference = build_torchscript(exported, seed=seed)
            files.append(_exported_file(f"{stem}.pt", content, kind, difference))
    files.append(ExportedFile(f"{plan.label}.safetensors", save(initial), "initial"))
    return files


def _exported_file(name: str, content: bytes, kind: Kind, difference: Difference) -> ExportedFile:
    return ExportedFile(name, content, kind, difference.tensor, difference.relative)


def export_experiment(
    experiment: Experiment,
    *,
    format: Format = "onnx",  # noqa: A002 - the option's name
    progress: Callable[[str], None] = lambda _: None,
) -> list[ExportedFile]:
    """Export an experiment's plan; one that comes as TorchScript is converted to ONNX.

    Raises:
        ConfigError: There is no such plan, or nothing to be done about it.
        PlanError: It cannot be exported or converted, or its numbers disagree.
    """
    plan = load_plan(experiment)
    if isinstance(plan, TrainingPlan):
        return export_files(plan, format=format, progress=progress)
    if plan.file.suffix == ".onnx":
        hint = f"devicelab export-plan --inspect {plan.file} looks into it"
        raise ConfigError(f"the experiment's plan is an ONNX file already: {plan.file}", hint=hint)
    if format != "onnx":
        raise ConfigError(
            f"the experiment's plan is TorchScript already: {plan.file}", hint="use --format onnx"
        )
    roles = None if plan.roles is None else read_roles(plan.roles.read_text("utf-8"))
    files = []
    for kind, path in (("train", plan.file), ("evaluate", plan.evaluation)):
        if path is None or path.suffix != ".pt":
            continue
        progress(f"converting {path} and checking it")
        imported = import_file(path, roles=roles if kind == "train" else None)
        signature = imported.signature
        if signature.kind != kind:
            raise PlanError(f"{path} is a plan that is to {signature.kind}, not to {kind}")
        name = f"{signature.name}.onnx" if signature.kind == "train" else f"{signature.name}.eval.onnx"
        files.append(_exported_file(name, imported.onnx, signature.kind, imported.difference))
    return files


def write_files(files: Sequence[ExportedFile], directory: Path) -> list[Path]:
    """Write an export's files into a directory, which is made if need be; each appears whole or not at all.

    Raises:
        OSError: A file cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for file in files:
        write_atomically(directory / file.name, file.content)
    return [directory / file.name for file in files]
