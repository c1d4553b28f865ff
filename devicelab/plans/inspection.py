"""What a plan file holds and needs: roles, operators, memory, and which ONNX Runtime can run it."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Final

import numpy as np
import onnx

from devicelab.plans.facts import Inspection, TableFacts
from devicelab.plans.reader import Plan, read_plan, read_plan_bytes
from devicelab.plans.signature import BATCH, CARRIED, Role, Signature
from devicelab.plans.tables import open_rows

__all__ = ["inspect_file", "inspect_plan"]

# First ONNX Runtime (1.x) that implements an operator set, and that reads a version of the file format.
# Source: ONNX Runtime's docs/Versioning.md, "ONNX Runtime Compatibility".
_FIRST_WITH_OPSET: Final = {13: 6, 14: 7, 15: 10, 16: 11, 17: 12, 18: 14, 19: 16, 20: 17, 21: 18}
_FIRST_WITH_FORMAT: Final = {7: 6, 8: 10, 9: 15, 10: 18}


def inspect_file(path: Path, *, examples: int = 32) -> Inspection:
    """Inspect a plan file, ONNX or (with the suffix ``.pt``) TorchScript, which is converted first.

    Raises:
        PlanError: It cannot be read, or is no valid plan.
    """
    if path.suffix != ".pt":
        return inspect_plan(read_plan(path), examples=examples)
    from devicelab.plans.importing import import_file  # noqa: PLC0415 - loads PyTorch

    return inspect_plan(read_plan_bytes(import_file(path).onnx), examples=examples)


def inspect_plan(plan: Plan, *, examples: int = 32) -> Inspection:
    """Work out what a plan holds and needs for a batch of so many examples."""
    signature = plan.signature
    examples = signature.batch or examples
    roles: dict[str, dict[str, int]] = {}
    for i in signature.inputs:
        entry = roles.setdefault(i.role.value, {"inputs": 0, "bytes": 0})
        entry["inputs"] += 1
        entry["bytes"] += _bytes(i.dtype, i.shape, examples)
    twice = {o.replaces for o in signature.outputs if o.replaces and not o.in_place}
    carried = {
        i: _bytes(i.dtype, i.shape, examples) * (2 if i.name in twice else 1)
        for i in signature.inputs
        if i.role in CARRIED or i.role is Role.ANCHOR
    }
    return Inspection(
        signature=signature,
        tables={
            name: TableFacts(
                table.rows,
                sum(_bytes(i.dtype, i.shape[1:], 1) for i in carried if i.name in table.parameters),
                sum(size for i, size in carried.items() if i.rows == name) // table.rows,
                table.data,
            )
            for name, table in signature.tables.items()
        },
        file_bytes=plan.size,
        opset=plan.opset,
        needs_runtime=_oldest_runtime(plan),
        roles=roles,
        operators=dict(Counter(node.op_type for node in plan.model.graph.node).most_common()),
        carried_bytes=sum(carried.values()),
        step_bytes=_peak(plan.model, signature, examples),
        examples=examples,
        single_threaded=any(_adds(node) for node in plan.model.graph.node),
    )


def _oldest_runtime(plan: Plan) -> tuple[int, int] | None:
    opset, version = plan.opset, plan.model.ir_version
    if opset > max(_FIRST_WITH_OPSET) or version > max(_FIRST_WITH_FORMAT):
        return None
    by_opset = _FIRST_WITH_OPSET[max(opset, min(_FIRST_WITH_OPSET))]
    return 1, max(by_opset, _FIRST_WITH_FORMAT[max(version, min(_FIRST_WITH_FORMAT))])


def _bytes(dtype: str, shape: tuple[int | str, ...], examples: int) -> int:
    return np.dtype(dtype).itemsize * math.prod(examples if s == BATCH else int(s) for s in shape)


def _adds(node: onnx.NodeProto) -> bool:
    scatter = node.op_type in ("ScatterND", "ScatterElements")
    return scatter and any(a.name == "reduction" and a.s == b"add" for a in node.attribute)


def _peak(model: onnx.ModelProto, signature: Signature, examples: int) -> int:
    """Largest sum of live intermediates, on whole tables.

    Nodes run in file order, memory is freed after its last reader.
    """
    known = {open_rows(name): table.rows for name, table in signature.tables.items()} | {BATCH: examples}
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    for value in [*sized.graph.input, *sized.graph.output]:
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param in known:
                size.dim_value = known[size.dim_param]
    inferred = onnx.shape_inference.infer_shapes(sized, data_prop=True)
    sizes = {value.name: _tensor_bytes(value.type.tensor_type) for value in inferred.graph.value_info}
    last = {name: n for n, node in enumerate(model.graph.node) for name in node.input}
    alive = peak = 0
    for n, node in enumerate(model.graph.node):
        alive += sum(sizes.get(name, 0) for name in node.output)
        peak = max(peak, alive)
        alive -= sum(sizes.get(name, 0) for name in dict.fromkeys(node.input) if last[name] == n)
    return peak


def _tensor_bytes(tensor: onnx.TypeProto.Tensor) -> int:
    if not tensor.HasField("shape"):
        return 0
    width = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).itemsize
    return int(width * math.prod(d.dim_value for d in tensor.shape.dim))
