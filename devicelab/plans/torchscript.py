"""TorchScript: a traced step as a script module, and any script of a training step as a plan.

The script is generated from the same clean graph as the ONNX file, as source text of ATen calls. Sizes that follow
the batch are computed from the first data tensor's size, so the script takes any batch, unlike what
``torch.jit.trace`` makes.
"""

from __future__ import annotations

import io
import json
import math
import warnings
from typing import Any, Final

import torch


from devicelab.errors import PlanError
from devicelab.plans.graph import Arg, BatchTerm, Graph, Value
from devicelab.plans.signature import METADATA_KEY, Signature

__all__ = ["save_torchscript", "torchscript_step"]

# The numbers by which TorchScript knows element types (c10/core/ScalarType.h).
_SCALAR_TYPES: Final[dict[torch.dtype, int]] = {
    torch.uint8: 0,
    torch.int8: 1,
    torch.int32: 3,
    torch.int64: 4,
    torch.float16: 5,
    torch.float32: 6,
    torch.float64: 7,
    torch.bool: 11,
}

# The trace dropped copies that only changed the layout in memory, so a view may have become impossible.
_SCRIPT_NAMES: Final = {"view": "reshape", "_unsafe_view": "reshape", "view_copy": "reshape"}


def torchscript_step(traced: Any, signature: Signature) -> torch.jit.ScriptModule:  # noqa: ANN401 - a TracedPlan, whose module imports this one
    """A script module whose forward takes the signature's inputs and returns its outputs as a list.

    Raises:
        PlanError: TorchScript does not take the graph.
    """
    graph: Graph = traced.graph
    # A class of its own: TorchScript keeps one compiled type a class, and every plan is another.
    module: torch.jit.ScriptModule = type("PlanStep", (torch.jit.ScriptModule,), {})()
    for name, (_, tensor) in graph.constants.items():
        module.register_buffer(_identifier(name), tensor.clone())
    source = _source(graph)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript as a whole is deprecated, which is no news here
            module.define(source)
    except RuntimeError as error:
        raise PlanError(f"plan {signature.name} cannot be written as TorchScript: {error}") from error
    return module


def save_torchscript(module: torch.jit.ScriptModule, signature: Signature) -> bytes:
    """The module as a file's content, its signature among the extra files."""
    buffer = io.BytesIO()
    torch.jit.save(module, buffer, _extra_files={METADATA_KEY: signature.to_json()})
    return buffer.getvalue()


def _identifier(name: str) -> str:
    return "v_" + "".join(c if c.isalnum() else "_" for c in name)


def _source(graph: Graph) -> str:
    arguments = ", ".join(f"{_identifier(v.name)}: Tensor" for v in graph.inputs)
    lines = [f"def forward(self, {arguments}) -> List[Tensor]:"]
    for name in graph.constants:
        lines.append(f"    {_identifier(name)} = self.{_identifier(name)}")
    batch = next(((v, d) for v in graph.inputs for d, s in enumerate(v.shape) if s == BatchTerm(1, 1)), None)
    if batch is not None:
        lines.append(f"    batch = {_identifier(batch[0].name)}.size({batch[1]})")
    for node in graph.nodes:
        _, name, _ = node.op.split(".")
        parts = [_text(arg) for arg in node.args]
        parts += [f"{key}={_text(arg)}" for key, arg in node.kwargs.items()]
        name = _SCRIPT_NAMES.get(name, name)
        call = f"torch.ops.aten.{name}({', '.join(parts)})"
        outputs = ", ".join(_identifier(v.name) for v in node.outputs)
        if node.op.startswith(("aten.split", "aten.unbind")):  # these return a list
            lines.append(f"    {_identifier(node.output.name)}_all = {call}")
            for n, output in enumerate(node.outputs):
                lines.append(f"    {_identifier(output.name)} = {_identifier(node.output.name)}_all[{n}]")
        else:
            lines.append(f"    {outputs} = {call}")
    lines.append(f"    return [{', '.join(_identifier(v.name) for v in graph.outputs)}]")
    return "\n".join(lines) + "\n"


def _text(arg: Arg) -> str:
    if isinstance(arg, Value):
        return _identifier(arg.name)
    if isinstance(arg, BatchTerm):
        return _term_text(arg)
    if isinstance(arg, torch.dtype):
        return str(_SCALAR_TYPES[arg])
    if isinstance(arg, list | tuple):
        return f"[{', '.join(_text(item) for item in arg)}]"
    if isinstance(arg, float) and not math.isfinite(arg):
        return f"float('{arg}')"
    if isinstance(arg, torch.device):
        return 'torch.device("cpu")'
    if isinstance(arg, torch.layout):
        return "0"
    if isinstance(arg, torch.memory_format):
        return "None"
    if isinstance(arg, str):
        return json.dumps(arg)
    return repr(arg)


def _term_text(term: BatchTerm) -> str:
    if term.power < 0:
        return f"({term.factor!r} / {' * '.join(['float(batch)'] * -term.power)})"
    factors = " * ".join([repr(term.factor), *["batch"] * term.power])
    return f"({factors} + {term.offset})" if term.offset else f"({factors})"


