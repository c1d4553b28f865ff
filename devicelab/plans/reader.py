"""Reading any file as a plan, and saying precisely what is wrong where it is not one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper

from devicelab.errors import PlanError
from devicelab.plans.aliasing import in_place_outputs
from devicelab.plans.signature import METADATA_KEY, Input, Output, Signature

__all__ = ["Plan", "read_plan", "read_plan_bytes"]

_DTYPE_NAMES: Final[dict[int, str]] = {
    TensorProto.FLOAT: "float32",
    TensorProto.DOUBLE: "float64",
    TensorProto.INT64: "int64",
    TensorProto.INT32: "int32",
    TensorProto.BOOL: "bool",
}
_LARGEST_FILE: Final = 2**31 - 1  # what a protobuf message can be


@dataclass(frozen=True, slots=True)
class Plan:
    """A valid plan.

    Attributes:
        model: The ONNX model.
        signature: What its inputs and outputs are for.
        size: Of the file, in bytes.
    """

    model: onnx.ModelProto
    signature: Signature
    size: int

    @property
    def opset(self) -> int:
        """Version of ONNX's operator set."""
        return max(o.version for o in self.model.opset_import if o.domain in ("", "ai.onnx"))


def read_plan(path: Path) -> Plan:
    """Read and validate a plan file.

    Raises:
        PlanError: It cannot be read, or is not a valid plan; names the file and the reason.
    """
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise PlanError(f"{path} is larger than an ONNX file can be")
        data = path.read_bytes()
    except OSError as error:
        raise PlanError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        return read_plan_bytes(data)
    except PlanError as error:
        raise PlanError(f"{path} is not a valid plan: {error.message}", hint=error.hint) from error


def read_plan_bytes(data: bytes) -> Plan:
    """Validate a plan file's content.

    Raises:
        PlanError: It is not a valid plan; says why.
    """
    model = _parse(data)
    texts = [entry.value for entry in model.metadata_props if entry.key == METADATA_KEY]
    if not texts:
        producer = f" (made by {model.producer_name})" if model.producer_name else ""
        raise PlanError(
            f"an ONNX model{producer}, but without the metadata {METADATA_KEY!r}",
            hint="only files written by export-plan say what their inputs are for",
        )
    if len(texts) > 1:
        raise PlanError(f"it has the metadata {METADATA_KEY!r} {len(texts)} times")
    signature = Signature.from_json(texts[0])
    _check_graph(model, signature)
    return Plan(model, signature, len(data))


def _parse(data: bytes) -> onnx.ModelProto:
    if not data:
        raise PlanError("the file is empty")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise PlanError("it is no ONNX file, or a damaged one") from error
    if not model.HasField("graph") or not model.graph.node:
        raise PlanError("it is no ONNX file, or a truncated one: it holds no graph")
    if not any(o.domain in ("", "ai.onnx") for o in model.opset_import):
        raise PlanError("the model does not say which ONNX operator set it uses")
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, UnicodeDecodeError) as error:
        reason = str(error).strip().splitlines()[0][:300]
        raise PlanError(f"its graph is not valid ONNX: {reason}") from error
    return model


def _check_graph(model: onnx.ModelProto, signature: Signature) -> None:
    graph = model.graph
    initializers = {i.name for i in graph.initializer}
    inputs = [i for i in graph.input if i.name not in initializers]
    _check_tensors("input", inputs, signature.graph_inputs)
    _check_tensors("output", graph.output, signature.graph_outputs)
    for tensor in graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            raise PlanError(f"its constant {tensor.name!r} is in another file; a plan is one file")
    promised = {o.name for o in signature.outputs if o.in_place}
    proven = in_place_outputs(model, signature.replacements)
    if promised - proven:
        names = ", ".join(sorted(promised - proven))
        raise PlanError(f"the signature says that these may be updated in place, the graph does not: {names}")
    _check_inference(model, signature)


def _check_tensors(
    what: str, found: Sequence[onnx.ValueInfoProto], described: Sequence[Input] | Sequence[Output]
) -> None:
    names, wanted = [v.name for v in found], [d.name for d in described]
    if names != wanted:
        missing = [n for n in wanted if n not in names]
        unknown = [n for n in names if n not in wanted]
        parts = [f"the graph lacks {', '.join(missing)}"] if missing else []
        parts += [f"the signature lacks {', '.join(unknown)}"] if unknown else []
        raise PlanError(
            f"its signature and graph name other {what}s: {'; '.join(parts) or 'the order differs'}"
        )
    by_name: dict[str, Input | Output] = {d.name: d for d in described}
    for value in found:
        _check_tensor(what, value, by_name[value.name])


def _check_tensor(what: str, value: onnx.ValueInfoProto, description: Input | Output) -> None:
    if not value.type.HasField("tensor_type"):
        raise PlanError(f"{what} {value.name!r} is no tensor")
    tensor = value.type.tensor_type
    dtype = _DTYPE_NAMES.get(tensor.elem_type, helper.tensor_dtype_to_string(tensor.elem_type))
    if dtype != description.dtype:
        raise PlanError(f"{what} {value.name!r} is {dtype} in the graph, {description.dtype} in the signature")
    if not tensor.HasField("shape"):
        raise PlanError(f"{what} {value.name!r} has no shape in the graph")
    shape = [d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in tensor.shape.dim]
    if shape != list(description.shape):
        raise PlanError(
            f"{what} {value.name!r} has shape {shape} in the graph, {list(description.shape)} in the signature"
        )


def _check_inference(model: onnx.ModelProto, signature: Signature) -> None:
    """Have ONNX work out the outputs' shapes from the inputs': what it finds must be what is claimed."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for output in bare.graph.output:
        output.type.tensor_type.ClearField("shape")
    del bare.graph.value_info[:]
    try:
        inferred = onnx.shape_inference.infer_shapes(bare, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        reason = " ".join(str(error).split())[:300]
        raise PlanError(f"the shapes in its graph contradict each other: {reason}") from error
    for value, described in zip(inferred.graph.output, signature.outputs, strict=True):
        tensor = value.type.tensor_type
        if not tensor.HasField("shape"):
            continue
        shape = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
        fits = len(shape) == len(described.shape) and all(
            a is None or a == b for a, b in zip(shape, described.shape, strict=True)
        )
        if not fits:
            raise PlanError(
                f"output {described.name!r} comes out as {shape}, but the signature says "
                f"{list(described.shape)}"
            )
