"""Which outputs of a plan may share the memory of the input they replace: proven on the ONNX graph itself."""

from __future__ import annotations

from typing import Final

import onnx

__all__ = ["in_place_outputs"]

# What an engine may do without copying: the result can be the input's own memory under another name.
_VIEWS: Final = frozenset(
    {"Cast", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)


def in_place_outputs(model: onnx.ModelProto, replacements: dict[str, str]) -> set[str]:
    """The outputs that a runner may write over their inputs while the step runs.

    An output is safe if a scatter makes it directly from its input, and every other reader of that input comes
    before the scatter in any order of execution, that is, is among the scatter's ancestors; readers of a view
    of the input count as its readers. Anything else (a dense update, whose input may still be read by others
    while it is overwritten) is not.

    Args:
        model: The plan's graph.
        replacements: Output name to the name of the input it replaces.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    safe = set()
    for output, replaced in replacements.items():
        scatter = makers.get(output)
        if scatter is None or scatter.op_type not in ("ScatterND", "ScatterElements"):
            continue
        if scatter.input[0] != replaced:
            continue
        before = _ancestors(scatter, makers)
        shared = _shared_memory(model, replaced)
        if shared & (set(scatter.input[1:]) | {o.name for o in model.graph.output}):
            continue
        readers = [node for node in model.graph.node if shared & set(node.input) and node is not scatter]
        if all(id(node) in before for node in readers):
            safe.add(output)
    return safe


def _shared_memory(model: onnx.ModelProto, name: str) -> set[str]:
    """The tensor and all that may be views of it. Nodes are in topological order, so one pass finds them."""
    shared = {name}
    for node in model.graph.node:
        if node.op_type in _VIEWS and node.input and node.input[0] in shared:
            shared.update(node.output)
    return shared


def _ancestors(node: onnx.NodeProto, makers: dict[str, onnx.NodeProto]) -> set[int]:
    found: set[int] = set()
    waiting = [node]
    while waiting:
        for name in waiting.pop().input:
            maker = makers.get(name)
            if maker is not None and id(maker) not in found:
                found.add(id(maker))
                waiting.append(maker)
    return found
