"""Any TorchScript training step as a plan: ours, or one scripted or traced by others whose roles are given.

The script is run once or twice under tracing, its own backward pass included, and then goes the way of every
plan: clean-up, ONNX, and a check against the script itself.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError
from safetensors.numpy import load
from torch import Tensor

from devicelab.errors import PlanError, RowsError
from devicelab.plans.aliasing import in_place_outputs
from devicelab.plans.check import Difference, compare
from devicelab.plans.cleanup import clean
from devicelab.plans.engine import Engine
from devicelab.plans.graph import Graph, Size, Term
from devicelab.plans.rows import check_rows
from devicelab.plans.signature import BATCH, CARRIED, METADATA_KEY, VERSION, Input, Role, Signature
from devicelab.plans.torchscript import INITIAL_KEY, quiet_about_deprecation
from devicelab.plans.tracing import trace
from devicelab.plans.unifying import open_tables
from devicelab.plans.updates import sparse_table_updates
from devicelab.plans.writer import write_onnx

__all__ = ["ImportedPlan", "import_file", "import_torchscript", "read_roles"]

Array = np.ndarray[Any, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class ImportedPlan:
    """An ONNX plan made of a TorchScript one, checked against it.

    Attributes:
        signature: Its roles; what may be updated in place is proven anew.
        initial: The first values that the script brings along, by input name.
        onnx: The file's content.
        difference: The result that agrees least with the script.
    """

    signature: Signature
    initial: Mapping[str, Array]
    onnx: bytes
    difference: Difference


def read_roles(text: str) -> Signature:
    """A signature given as YAML, with the fields of the JSON one; ``version`` may be left out.

    Raises:
        PlanError: It is no YAML, or no signature.
    """
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise PlanError(f"the roles are not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise PlanError("the roles are not a YAML mapping with `name`, `kind`, `inputs` and `outputs`")
    try:
        return Signature.from_json(json.dumps({"version": VERSION, **document}))
    except (TypeError, ValueError) as error:
        raise PlanError(f"the roles hold something that JSON cannot: {error}") from error


def import_torchscript(data: bytes, *, roles: Signature | None = None, seed: int = 0) -> ImportedPlan:
    """Convert a TorchScript training step to ONNX.

    Args:
        data: The file's content.
        roles: What its inputs and outputs are for, in order; None if the file says so itself, in the extra file
            ``devicelab.signature``.
        seed: Of the random batches that it is checked with.

    Raises:
        PlanError: It is no TorchScript, says nothing of its roles, does not do what they say, uses an operator
            that cannot be converted, or the converted numbers disagree.
    """
    module, found, initial = _load(data)
    signature = roles or found
    if signature is None:
        raise PlanError(
            f"the TorchScript file does not say what its inputs are for (extra file {METADATA_KEY!r})",
            hint="give the roles in YAML",
        )
    signature = _with_ranges(signature)
    graph = _traced(module, signature)
    _check_shapes(graph, signature)
    clean(graph)
    if sparse_table_updates(graph):
        clean(graph)
    plain = dataclasses.replace(
        signature, outputs=tuple(dataclasses.replace(o, in_place=False) for o in signature.outputs)
    )
    safe = in_place_outputs(write_onnx(graph, plain), plain.replacements)
    signature = dataclasses.replace(
        plain, outputs=tuple(dataclasses.replace(o, in_place=o.name in safe) for o in plain.outputs)
    )
    content = write_onnx(graph, signature).SerializeToString(deterministic=True)
    return ImportedPlan(signature, initial, content, _check(module, content, signature, seed))


def import_file(path: Path, *, roles: Signature | None = None) -> ImportedPlan:
    """Convert a TorchScript file; as :func:`import_torchscript`, with the file's name in the error."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PlanError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        return import_torchscript(data, roles=roles)
    except PlanError as error:
        raise PlanError(f"{path}: {error.message}", hint=error.hint) from error


def _with_ranges(signature: Signature) -> Signature:
    """The signature where all row numbers have a range, so that they are tried with more than one."""
    last = {name: table.rows - 1 for name, table in signature.tables.items()}
    inputs = tuple(
        dataclasses.replace(i, range=(0, last[i.rows]))
        if i.range is None and i.rows and i.role is Role.DATA
        else i
        for i in signature.inputs
    )
    return dataclasses.replace(signature, inputs=inputs)


def _load(data: bytes) -> tuple[torch.jit.ScriptModule, Signature | None, dict[str, Array]]:
    extra: dict[str, str | bytes] = {METADATA_KEY: "", INITIAL_KEY: ""}
    try:
        with quiet_about_deprecation():
            module = torch.jit.load(  # type: ignore[no-untyped-call] # PyTorch does not annotate it
                io.BytesIO(data), map_location="cpu", _extra_files=extra
            )
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise PlanError(f"it is no TorchScript file, or a damaged one: {reason}") from error
    text, values = (v.encode() if isinstance(v, str) else v for v in extra.values())
    signature = Signature.from_json(text.decode("utf-8", "replace")) if text else None
    try:
        return module, signature, load(values) if values else {}
    except SafetensorError as error:
        raise PlanError(
            f"the TorchScript file's first values ({INITIAL_KEY!r}) are damaged: {error}"
        ) from error


def _call(module: torch.jit.ScriptModule, arguments: list[Tensor]) -> list[Tensor]:
    # Optimized, the second run of a script is another program than the first.
    with torch.jit._fuser.optimized_execution(should_optimize=False):
        results: object = module(*arguments)
    results = [results] if isinstance(results, Tensor) else results
    if not isinstance(results, list | tuple) or not all(isinstance(r, Tensor) for r in results):
        raise PlanError(f"the script returns {type(results).__name__}, not tensors")
    return [r.detach() for r in results]


def _traced(module: torch.jit.ScriptModule, signature: Signature) -> Graph:
    def arguments(batch: int) -> list[Tensor]:
        return [_filled(i, batch, torch.Generator()) for i in signature.inputs]

    try:
        return trace(
            lambda *a: _call(module, list(a)),
            arguments,
            fixed_batch=signature.batch,
            tables=open_tables(signature.inputs),
        )
    except RowsError:
        raise
    except PlanError as error:
        if signature.batch is not None:
            raise
        hint = "torch.jit.trace freezes the batch; give the signature the `batch` it was traced with"
        raise PlanError(error.message, hint=error.hint or hint) from error


def _filled(i: Input, batch: int, generator: torch.Generator) -> Tensor:
    """Plausible values: small parameters, positive buffers, empty state, data in its range."""
    shape = [batch if size == BATCH else int(size) for size in i.shape]
    dtype: torch.dtype = getattr(torch, i.dtype)
    if i.role is Role.HYPER:
        return torch.tensor(0 if i.default is None else i.default, dtype=dtype)
    if i.range is not None:
        return torch.randint(i.range[0], i.range[1] + 1, shape, dtype=dtype, generator=generator)
    if not dtype.is_floating_point or i.role is Role.STATE:
        return torch.zeros(shape, dtype=dtype)
    if i.role is Role.BUFFER:
        return torch.rand(shape, dtype=dtype, generator=generator) + 0.5
    scale = 1.0 if i.role is Role.DATA else 0.1
    return torch.randn(shape, dtype=dtype, generator=generator) * scale


def _check_shapes(graph: Graph, signature: Signature) -> None:
    if len(graph.outputs) != len(signature.outputs):
        raise PlanError(
            f"the script returns {len(graph.outputs)} tensors, its signature names {len(signature.outputs)}"
        )
    for value, output in zip(graph.outputs, signature.graph_outputs, strict=True):
        dtype = str(value.dtype).removeprefix("torch.")
        if (dtype, _sizes(value.shape)) != (output.dtype, list(output.shape)):
            raise PlanError(
                f"output {output.name!r} comes out as {dtype}{_sizes(value.shape)}, the signature says "
                f"{output.dtype}{list(output.shape)}"
            )


def _sizes(shape: tuple[Size, ...]) -> list[int | str]:
    return [str(size) if isinstance(size, Term) else size for size in shape]


def _check(module: torch.jit.ScriptModule, content: bytes, signature: Signature, seed: int) -> Difference:
    """Run the script and the plan side by side for several steps, each from the script's values.

    Raises:
        PlanError: They disagree.
        RowsError: The plan cannot do with some rows of its tables.
    """
    engine = Engine(content)
    generator = torch.Generator().manual_seed(seed)
    carried: dict[str, Tensor] = {}
    worst = Difference("", 0.0, 0)
    for examples in (signature.batch,) * 3 if signature.batch else (8, 3, 1, 5):
        values = [carried.get(i.name, _filled(i, examples, generator)) for i in signature.inputs]
        feeds = {i.name: v.numpy().copy() for i, v in zip(signature.inputs, values, strict=True)}
        results = _call(module, values)
        truth = {o.name: r.numpy().copy() for o, r in zip(signature.outputs, results, strict=True)}
        if examples == 1 and signature.batch is None and not all(map(_is_finite, truth.values())):
            continue  # a variance of one number, which PyTorch itself would not take
        nudged = _call(module, [_nudged(v, generator) for v in values])
        verdict = compare(
            engine.run(feeds),
            truth,
            _before(feeds, signature),
            _sensitivity(truth, nudged),
            examples=examples,
            engine="ONNX Runtime",
            signature=signature,
        )
        worst = max(worst, verdict.enforced(), key=lambda d: d.relative)
        replaced = {o.replaces: r for o, r in zip(signature.outputs, results, strict=True) if o.role in CARRIED}
        carried |= {name: tensor for name, tensor in replaced.items() if name is not None}
    check_rows(engine.run, signature, *_client(signature, generator), engine="ONNX Runtime", seed=seed)
    return worst


def _client(signature: Signature, generator: torch.Generator) -> tuple[dict[str, Array], dict[str, Array]]:
    """Values for all inputs but data, by name, and a few examples by label, for the check of tables' rows."""
    data = signature.with_role(Role.DATA)
    values = {i.name: _filled(i, 1, generator).numpy() for i in signature.inputs if i not in data}
    examples = {i.label: _filled(i, signature.batch or 4, generator) for i in data}
    for i in data:
        if i.rows is not None and i.range is not None:  # the first and the last row are of interest
            examples[i.label][0], examples[i.label][-1] = i.range
    return values, {label: tensor.numpy() for label, tensor in examples.items()}


def _is_finite(array: Array) -> bool:
    return bool(np.isfinite(array).all())


def _nudged(value: Tensor, generator: torch.Generator) -> Tensor:
    """The tensor with each number moved by up to its last bit."""
    if not value.is_floating_point() or value.dim() == 0:
        return value
    return value * (1 + 2.0**-23 * torch.randint(-1, 2, value.shape, generator=generator))


def _sensitivity(truth: Mapping[str, Array], nudged: list[Tensor]) -> dict[str, float]:
    """How far results move when the inputs move by their last bit, with a margin: no plan can do better."""
    limits = {}
    for (name, right), moved in zip(truth.items(), nudged, strict=True):
        if right.size and np.issubdtype(right.dtype, np.floating):
            limits[name] = 10 * float(np.max(np.abs(moved.numpy().astype(np.float64) - right)))
    return limits


def _before(feeds: Mapping[str, Array], signature: Signature) -> dict[str, Array]:
    return {o.name: feeds[o.replaces] for o in signature.outputs if o.replaces is not None}
