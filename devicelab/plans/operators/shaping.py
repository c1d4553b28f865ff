"""Operators that move numbers without changing them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch

from devicelab.plans.graph import Arg, Size, Term, Value
from devicelab.plans.writer import Call, Translator, Writer, operator_error

__all__ = ["TRANSLATORS"]

_TO_END: Final = 2**62  # slice ends from here on mean "to the end"


def _view(w: Writer, c: Call) -> str:
    source = c.value("self")
    if source.shape == c.output.shape:
        return w.name(source)
    return w.reshape(w.name(source), c.output.shape)


def _expand(w: Writer, c: Call) -> str:
    source = c.value("self")
    if source.shape == c.output.shape:
        return w.name(source)
    return w.one("Expand", w.name(source), w.sizes(c.output.shape))


def _permute(w: Writer, c: Call) -> str:
    source = c.value("self")
    order = [d % source.rank for d in c.integers("dims")] if source.rank else []
    if order == sorted(order):
        return w.name(source)
    return w.one("Transpose", w.name(source), perm=order)


def _transpose(w: Writer, c: Call) -> str:
    source = c.value("self")
    first, second = c.dimension("dim0", source.rank), c.dimension("dim1", source.rank)
    order = list(range(source.rank))
    order[first], order[second] = order[second], order[first]
    return w.one("Transpose", w.name(source), perm=order)


def _t(w: Writer, c: Call) -> str:
    source = c.value("self")
    return w.one("Transpose", w.name(source), perm=[1, 0]) if source.rank == 2 else w.name(source)


def _reshape_to_output(w: Writer, c: Call) -> str:
    """Unsqueeze and squeeze: the output's shape says it all."""
    return _view(w, c)


def _bound(w: Writer, number: Arg) -> str:
    if isinstance(number, Term):
        return w.sizes([number])
    return w.ints(max(min(int(number), _TO_END), -_TO_END))


def _slice_of(w: Writer, name: str, dim: int, start: Arg, end: Arg, *, step: int = 1) -> str:
    return w.one("Slice", name, _bound(w, start), _bound(w, end), w.ints(dim), w.ints(step))


def _slice(w: Writer, c: Call) -> str:
    source = c.value("self")
    if source.shape == c.output.shape:
        return w.name(source)
    dim = c.dimension("dim", source.rank)
    start = 0 if c["start"] is None else c["start"]
    end = _TO_END if c["end"] is None else c["end"]
    return _slice_of(w, w.name(source), dim, start, end, step=int(c.number("step")))


def _select(w: Writer, c: Call) -> str:
    source = c.value("self")
    index = w.scalar(c["index"], _INT64)
    return w.one("Gather", w.name(source), index, axis=c.dimension("dim", source.rank))


def _cat(w: Writer, c: Call) -> str:
    parts = [v for v in c["tensors"] if v.shape != (0,)]  # PyTorch ignores empty vectors here
    rank = parts[0].rank
    names = [w.operand(v, c.output.dtype) for v in parts]
    return names[0] if len(names) == 1 else w.emit("Concat", names, axis=c.dimension("dim", rank))[0]


def _stack(w: Writer, c: Call) -> str:
    parts: list[Value] = c["tensors"]
    dim = int(c.number("dim")) % (parts[0].rank + 1)
    names = [w.one("Unsqueeze", w.operand(v, c.output.dtype), w.ints(dim)) for v in parts]
    return names[0] if len(names) == 1 else w.emit("Concat", names, axis=dim)[0]


def _split(w: Writer, c: Call) -> Sequence[str]:
    source = c.value("self")
    dim = c.dimension("dim", source.rank)
    lengths: list[Size] = [out.shape[dim] for out in c.node.outputs]
    return w.emit("Split", [w.name(source), w.sizes(lengths)], outputs=len(lengths), axis=dim)


def _unbind(w: Writer, c: Call) -> Sequence[str]:
    source = c.value("self")
    dim = c.dimension("dim", source.rank)
    return [w.one("Gather", w.name(source), w.scalar(n, _INT64), axis=dim) for n in range(len(c.node.outputs))]


def _flip(w: Writer, c: Call) -> str:
    source = c.value("self")
    dims = [d % source.rank for d in c.integers("dims")]
    count = len(dims)
    starts, ends = w.ints(*[-1] * count), w.ints(*[-_TO_END] * count)
    return w.one("Slice", w.name(source), starts, ends, w.ints(*dims), w.ints(*[-1] * count))


def _repeat(w: Writer, c: Call) -> str:
    source = c.value("self")
    repeats: list[Size] = list(c["repeats"])
    name = w.name(source)
    if len(repeats) > source.rank:
        name = w.reshape(name, [1] * (len(repeats) - source.rank) + list(source.shape))
    return w.one("Tile", name, w.sizes(repeats))


def _pad(w: Writer, c: Call) -> str:
    source = c.value("self")
    pairs = c.integers("pad")
    before, after = [0] * source.rank, [0] * source.rank
    for n in range(len(pairs) // 2):
        before[source.rank - 1 - n], after[source.rank - 1 - n] = pairs[2 * n], pairs[2 * n + 1]
    value = w.scalar(c["value"], source.dtype)
    return w.one("Pad", w.name(source), w.ints(*before, *after), value)


def _slice_scatter(w: Writer, c: Call) -> str:
    """The base with a slice of it replaced: what is before, the new part, what is after."""
    base, source = c.value("self"), c.value("src")
    dim = c.dimension("dim", base.rank)
    start = 0 if c["start"] is None else c["start"]
    end = _TO_END if c["end"] is None else c["end"]
    size = base.shape[dim]
    if source.shape == base.shape:
        return w.name(source)
    if c["step"] != 1 or not isinstance(size, int) or isinstance(start, Term) or isinstance(end, Term):
        raise operator_error(c.node, "a strided slice, or one whose ends depend on the batch, is assigned to")
    first, last, _ = slice(start, end).indices(size)
    parts = []
    if first > 0:
        parts.append(_slice_of(w, w.name(base), dim, 0, first))
    parts.append(w.operand(source, base.dtype))
    if last < size:
        parts.append(_slice_of(w, w.name(base), dim, last, _TO_END))
    return w.emit("Concat", parts, axis=dim)[0]


def _select_scatter(w: Writer, c: Call) -> str:
    base, source = c.value("self"), c.value("src")
    dim = c.dimension("dim", base.rank)
    size = base.shape[dim]
    if not isinstance(size, int) or not isinstance(c["index"], int):
        raise operator_error(c.node, "one row of a dimension that depends on the batch is assigned to")
    index = c["index"] % size
    mask = np.zeros([size if d == dim else 1 for d in range(base.rank)], dtype=np.bool_)
    mask.reshape(-1)[index] = True
    lifted = w.one("Unsqueeze", w.operand(source, base.dtype), w.ints(dim))
    return w.one("Where", w.constant(mask), lifted, w.name(base))


def _triangle(*, upper: int) -> Translator:
    def translate(w: Writer, c: Call) -> str:
        diagonal = w.scalar(int(c.number("diagonal")), _INT64)
        return w.one("Trilu", w.name(c.value("self")), diagonal, upper=upper)

    return translate


def _copy(w: Writer, c: Call) -> str:
    """A write over the whole of a tensor: the source, in the target's type and shape."""
    source = c.value("src")
    name = w.operand(source, c.output.dtype)
    return name if source.shape == c.output.shape else w.one("Expand", name, w.sizes(c.output.shape))


_INT64: Final = torch.int64

TRANSLATORS: dict[str, Translator] = {
    **{f"aten.{name}.default": _view for name in ("view", "_unsafe_view", "view_copy", "reshape")},
    **{f"aten.{name}.default": _expand for name in ("expand", "expand_copy")},
    **{f"aten.{name}.default": _permute for name in ("permute", "permute_copy")},
    **{f"aten.{name}.int": _transpose for name in ("transpose", "transpose_copy")},
    **{f"aten.{name}.default": _t for name in ("t", "t_copy")},
    **{f"aten.{name}.default": _reshape_to_output for name in ("unsqueeze", "unsqueeze_copy")},
    **{
        f"aten.{name}.{overload}": _reshape_to_output
        for name in ("squeeze", "squeeze_copy")
        for overload in ("default", "dim", "dims")
    },
    **{f"aten.{name}.Tensor": _slice for name in ("slice", "slice_copy")},
    **{f"aten.{name}.int": _select for name in ("select", "select_copy")},
    "aten.cat.default": _cat,
    "aten.stack.default": _stack,
    **{f"aten.{name}.Tensor": _split for name in ("split", "split_copy")},
    **{f"aten.{name}.default": _split for name in ("split_with_sizes", "split_with_sizes_copy")},
    **{f"aten.{name}.int": _unbind for name in ("unbind", "unbind_copy")},
    "aten.flip.default": _flip,
    "aten.repeat.default": _repeat,
    "aten.constant_pad_nd.default": _pad,
    "aten.slice_scatter.default": _slice_scatter,
    "aten.select_scatter.default": _select_scatter,
    "aten.tril.default": _triangle(upper=0),
    "aten.triu.default": _triangle(upper=1),
    "aten.copy.default": _copy,
}
