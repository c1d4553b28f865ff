"""What a plan file holds and needs: roles, operators, memory, and which ONNX Runtime can run it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import onnx

from devicelab.plans.reader import Plan
from devicelab.plans.signature import BATCH, CARRIED, Role

__all__ = ["Inspection", "inspect_plan"]

# First ONNX Runtime that implements an operator set.
# Source: ONNX Runtime's docs/Versioning.md, "ONNX Runtime Compatibility".
_FIRST_RUNTIME: Final = {13: "1.6", 14: "1.7", 15: "1.10", 16: "1.11", 17: "1.12", 18: "1.14", 19: "1.16"}


@dataclass(frozen=True, slots=True)
class Inspection:
    """A plan at a glance; sizes in bytes.

    Attributes:
        name: The plan's.
        kind: Training or evaluation.
        batch: The only batch size that fits, or None.
        file_bytes: Size of the file.
        opset: Version of ONNX's operator set.
        needs_runtime: Oldest ONNX Runtime that runs it, "?" if not known.
        roles: For each role how many inputs there are and how large they are together.
        operators: How often each operator occurs.
        carried_bytes: What stays in memory from step to step, second buffers included.
        step_bytes: Largest sum of intermediate results alive at a time, for a batch of ``examples``.
        examples: See ``step_bytes``.
        single_threaded: Whether the runner must use one thread: ONNX Runtime's adding scatter loses updates of
            the same row where several threads share it.
    """

    name: str
    kind: str
    batch: int | None
    file_bytes: int
    opset: int
    needs_runtime: str
    roles: dict[str, dict[str, int]]
    operators: dict[str, int]
    carried_bytes: int
    step_bytes: int
    examples: int
    single_threaded: bool

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


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
    carried = sum(
        _bytes(i.dtype, i.shape, examples) * (2 if i.name in twice else 1)
        for i in signature.inputs
        if i.role in CARRIED or i.role is Role.ANCHOR
    )
    return Inspection(
        name=signature.name,
        kind=signature.kind,
        batch=signature.batch,
        file_bytes=plan.size,
        opset=plan.opset,
        needs_runtime=_FIRST_RUNTIME.get(plan.opset, "?"),
        roles=roles,
        operators=dict(Counter(node.op_type for node in plan.model.graph.node).most_common()),
        carried_bytes=carried,
        step_bytes=_peak(plan.model, examples),
        examples=examples,
        single_threaded=any(_adds(node) for node in plan.model.graph.node),
    )


def _bytes(dtype: str, shape: tuple[int | str, ...], examples: int) -> int:
    return np.dtype(dtype).itemsize * math.prod(examples if s == BATCH else int(s) for s in shape)


def _adds(node: onnx.NodeProto) -> bool:
    scatter = node.op_type in ("ScatterND", "ScatterElements")
    return scatter and any(a.name == "reduction" and a.s == b"add" for a in node.attribute)


def _peak(model: onnx.ModelProto, examples: int) -> int:
    """Largest sum of live intermediates: nodes run in file order, memory is freed after its last reader."""
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    for value in [*sized.graph.input, *sized.graph.output]:
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param == BATCH:
                size.dim_value = examples
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
