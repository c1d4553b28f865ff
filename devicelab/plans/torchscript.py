"""A traced step as a TorchScript module.

The script is generated from the same clean graph as the ONNX file, as source text of ATen calls. Sizes that
follow the batch or a table's rows are computed from the size of an input that has them, so the script takes any
batch and any rows, unlike what ``torch.jit.trace`` makes.
"""

from __future__ import annotations

import io
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from safetensors.numpy import save

from devicelab.errors import PlanError
from devicelab.plans.graph import Arg, Graph, Rows, Term, Value
from devicelab.plans.signature import METADATA_KEY, Signature
from devicelab.plans.writer import sources_of_sizes

__all__ = ["INITIAL_KEY", "save_torchscript", "script_runner", "torchscript_step"]

Array = np.ndarray[Any, Any]

INITIAL_KEY: Final = "devicelab.initial"  # extra file with the first values by input name

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


def torchscript_step(graph: Graph, signature: Signature) -> torch.jit.ScriptModule:
    """A script module whose forward takes the signature's inputs and returns its outputs as a list.

    Raises:
        PlanError: TorchScript does not take the graph.
    """

    class PlanStep(torch.jit.ScriptModule):  # made anew each time: TorchScript compiles a class once
        def __init__(self) -> None:
            super().__init__()
            for name, (_, tensor) in graph.constants.items():
                self.register_buffer(_identifier(name), tensor.clone())

    module = PlanStep()
    source = _source(graph)
    try:
        with quiet_about_deprecation():
            module.define(source)
    except RuntimeError as error:
        raise PlanError(f"plan {signature.name} cannot be written as TorchScript: {error}") from error
    return module


@contextmanager
def quiet_about_deprecation() -> Iterator[None]:
    """TorchScript as a whole is deprecated, which is no news to whoever asks for it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def save_torchscript(
    module: torch.jit.ScriptModule, signature: Signature, parameters: Mapping[str, Array]
) -> bytes:
    """The module as a file's content; its signature and first values (as safetensors) are extra files."""
    extra = {METADATA_KEY: signature.to_json(), INITIAL_KEY: save(dict(parameters))}
    buffer = io.BytesIO()
    with quiet_about_deprecation():
        torch.jit.save(module, buffer, _extra_files=extra)
    return buffer.getvalue()


def script_runner(
    module: torch.jit.ScriptModule, signature: Signature
) -> Callable[[Mapping[str, Array]], Mapping[str, Array]]:
    """The module as a function of arrays by name, as the check runs plans."""

    def run(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        arguments = [torch.from_numpy(np.array(feeds[i.name])) for i in signature.inputs]
        with torch.no_grad():
            results = module(*arguments)
        return {o.name: r.numpy() for o, r in zip(signature.outputs, results, strict=True)}

    return run


def _identifier(name: str) -> str:
    return "v_" + "".join(c if c.isalnum() else "_" for c in name)


def _source(graph: Graph) -> str:
    arguments = ", ".join(f"{_identifier(v.name)}: Tensor" for v in graph.inputs)
    lines = [f"def forward(self, {arguments}) -> List[Tensor]:"]
    lines += [f"    {_identifier(name)} = self.{_identifier(name)}" for name in graph.constants]
    for rows, (value, dimension) in sources_of_sizes(graph).items():
        lines.append(f"    {_size_name(rows)} = {_identifier(value.name)}.size({dimension})")
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
    """An argument as TorchScript source."""
    match arg:
        case Value():
            text = _identifier(arg.name)
        case Term():
            text = _term_text(arg)
        case torch.dtype():
            text = str(_SCALAR_TYPES[arg])
        case torch.device():
            text = 'torch.device("cpu")'
        case torch.layout():
            text = "0"  # strided
        case torch.memory_format():
            text = "None"
        case list() | tuple():
            text = f"[{', '.join(_text(item) for item in arg)}]"
        case float() if not math.isfinite(arg):
            text = f"float('{arg}')"
        case str():
            text = json.dumps(arg)
        case _:
            text = repr(arg)
    return text


def _size_name(rows: Rows | None) -> str:
    """What the script calls the number of a table's rows, or of examples."""
    return "batch" if rows is None else f"rows{_identifier(rows.table)}"


def _term_text(term: Term) -> str:
    if term.power < 0:
        return f"({term.factor!r} / {' * '.join([f'float({_size_name(None)})'] * -term.power)})"
    sizes = [_size_name(None)] * term.power + ([] if term.rows is None else [_size_name(term.rows)])
    factors = " * ".join([repr(term.factor), *sizes])
    return f"({factors} + {term.offset})" if term.offset else f"({factors})"
