"""Gathering and scattering."""

from __future__ import annotations

import torch

from devicelab.plans.graph import Value, broadcast
from devicelab.plans.writer import Call, Translator, Writer, operator_error

__all__ = ["TRANSLATORS"]


def _embedding(w: Writer, c: Call) -> str:
    return w.one("Gather", w.name(c.value("weight")), w.name(c.value("indices")), axis=0)


def _index_select(w: Writer, c: Call) -> str:
    source = c.value("self")
    axis = c.dimension("dim", source.rank)
    return w.one("Gather", w.name(source), w.name(c.value("index")), axis=axis)


def _gather(w: Writer, c: Call) -> str:
    source = c.value("self")
    if source.rank == 0:
        return w.name(source)
    axis = c.dimension("dim", source.rank)
    return w.one("GatherElements", w.name(source), w.name(c.value("index")), axis=axis)


def _given(c: Call) -> list[tuple[int, Value]]:
    """The dimensions that are indexed, with what indexes them."""
    found = [(n, v) for n, v in enumerate(c["indices"]) if v is not None]
    if any(value.dtype in (torch.bool, torch.uint8) for _, value in found):
        raise operator_error(c.node, "a mask as index makes a result whose size depends on the data")
    dims = [n for n, _ in found]
    if dims != list(range(dims[0], dims[0] + len(dims))):
        raise operator_error(c.node, "it indexes dimensions that are not next to each other")
    return found


def _tuples(w: Writer, found: list[tuple[int, Value]]) -> str:
    """Several index tensors, broadcast against each other, as one whose last dimension holds tuples."""
    names = [w.operand(value, torch.int64) for _, value in found]
    if len({value.shape for _, value in found}) > 1:
        total = names[0]
        for name in names[1:]:
            total = w.one("Add", total, name)
        shape = w.one("Shape", total)
        names = [w.one("Expand", name, shape) for name in names]
    rank = max(value.rank for _, value in found)
    lifted = [w.one("Unsqueeze", name, w.ints(rank)) for name in names]
    return lifted[0] if len(lifted) == 1 else w.emit("Concat", lifted, axis=rank)[0]


def _index(w: Writer, c: Call) -> str:
    source = c.value("self")
    found = _given(c)
    first = found[0][0]
    if len(found) == 1:
        index = w.operand(found[0][1], torch.int64)
        return w.one("Gather", w.name(source), index, axis=first)
    gathered = w.one("GatherND", _indexed_first(w, source, found), _tuples(w, found))
    # PyTorch puts the result's dimensions where the first indexed one was.
    rank = max(value.rank for _, value in found)
    order = [rank + n for n in range(first)] + list(range(rank))
    order += [rank + n for n in range(first, source.rank - len(found))]
    return gathered if first == 0 else w.one("Transpose", gathered, perm=order)


def _indexed_first(w: Writer, source: Value, found: list[tuple[int, Value]]) -> str:
    """The tensor with its indexed dimensions in front."""
    dims = [n for n, _ in found]
    order = dims + [n for n in range(source.rank) if n not in dims]
    return w.name(source) if dims[0] == 0 else w.one("Transpose", w.name(source), perm=order)


def _index_put(w: Writer, c: Call) -> str:
    source, values = c.value("self"), c.value("values")
    found = _given(c)
    first = found[0][0]
    indices = _tuples(w, found)
    lead = broadcast([value.shape for _, value in found])
    if lead is None:
        raise operator_error(c.node, "its indices do not fit each other")
    before, after = source.shape[:first], source.shape[first + len(found) :]
    wanted = (*before, *lead, *after)
    name = w.operand(values, source.dtype)
    if values.shape != wanted:
        name = w.one("Expand", name, w.sizes(wanted))
    reduction = "add" if c["accumulate"] else None
    if first == 0:
        return w.one("ScatterND", w.name(source), indices, name, reduction=reduction)
    count, rank = len(lead), len(wanted)
    forward = [*range(first, first + count), *range(first), *range(first + count, rank)]
    name = w.one("Transpose", name, perm=forward)
    target = _indexed_first(w, source, found)
    scattered = w.one("ScatterND", target, indices, name, reduction=reduction)
    number = len(found)
    back = [*range(number, number + first), *range(number), *range(number + first, source.rank)]
    return w.one("Transpose", scattered, perm=back)


def _scatter(reduction: str | None) -> Translator:
    def translate(w: Writer, c: Call) -> str:
        source, index = c.value("self"), c.value("index")
        axis = c.dimension("dim", source.rank)
        updates = c.value("src")
        name = w.name(updates)
        if updates.shape != index.shape:
            raise operator_error(c.node, "its index is smaller than its source")
        return w.one("ScatterElements", w.name(source), w.name(index), name, axis=axis, reduction=reduction)

    return translate


def _scatter_value(w: Writer, c: Call) -> str:
    source, index = c.value("self"), c.value("index")
    axis = c.dimension("dim", source.rank)
    updates = w.filled(index.shape, c["value"], source.dtype)
    return w.one("ScatterElements", w.name(source), w.name(index), updates, axis=axis)


def _index_add(w: Writer, c: Call) -> str:
    source, values = c.value("self"), c.value("source")
    if c.dimension("dim", source.rank) != 0:
        raise operator_error(c.node, "it adds along a dimension that is not the first")
    name = w.name(values)
    if c["alpha"] != 1:
        name = w.one("Mul", name, w.scalar(c["alpha"], values.dtype))
    index = w.one("Unsqueeze", w.operand(c.value("index"), torch.int64), w.ints(1))
    return w.one("ScatterND", w.name(source), index, name, reduction="add")


TRANSLATORS: dict[str, Translator] = {
    "aten.embedding.default": _embedding,
    "aten.index_select.default": _index_select,
    "aten.gather.default": _gather,
    "aten.index.Tensor": _index,
    "aten._unsafe_index.Tensor": _index,
    "aten.index_put.default": _index_put,
    "aten._unsafe_index_put.default": _index_put,
    "aten.scatter.src": _scatter(None),
    "aten.scatter.value": _scatter_value,
    "aten.scatter_add.default": _scatter("add"),
    "aten.index_add.default": _index_add,
}
