"""In-place operators in a traced graph, where reading them as pure ones is plain.

Most writes in real models are plain: ``relu_`` on a fresh result, ``copy_`` onto a cloned buffer. Whoever reads
the tensor later gets the new value. Where a view of the tensor exists already, a write shows through it, and
the graph must go through PyTorch's functionalization, which traces it a second time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from devicelab.plans.decompositions import decomposition_table

__all__ = ["is_simply_mutating", "pure_twin"]


def pure_twin(target: Any) -> Any | None:  # noqa: ANN401 - an operator or Python function
    """The operator without side effect that computes what an in-place operator writes, if there is one."""
    schema = getattr(target, "_schema", None)
    if schema is None or not schema.is_mutable:
        return None
    namespace, _, name = schema.name.partition("::")
    if namespace != "aten" or not name.endswith("_") or name.endswith("__"):
        return None
    written = [a.name for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    if written != ["self"]:
        return None
    packet = getattr(torch.ops.aten, name[:-1], None)
    overload = schema.overload_name or "default"
    twin = getattr(packet, overload, None)
    return None if twin in decomposition_table() else twin


def is_simply_mutating(module: fx.GraphModule) -> bool:
    """Whether every write in the graph can be read as :func:`pure_twin` describes."""
    order = {node: n for n, node in enumerate(module.graph.nodes)}
    owners: dict[fx.Node, fx.Node] = {}
    for node in module.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if node.op != "call_function" or schema is None or not schema.is_mutable:
            continue
        changed = node.args[0] if node.args else None
        if pure_twin(node.target) is None or not isinstance(changed, fx.Node):
            return False
        owner = owners.get(changed, changed)
        owners[node] = owner
        if owner.op != "call_function" or _is_view(owner):
            return False
        aliases = [owner, *(alias for alias, o in owners.items() if o is owner)]
        earlier = (user for alias in aliases for user in alias.users if order[user] < order[node])
        if any(_is_view(user) for user in earlier):
            return False
    return True


def _is_view(node: fx.Node) -> bool:
    """Whether a node's result may share memory with an argument it does not write."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return True  # getitem of an operator with several results: not known to be fresh
    return any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns)
