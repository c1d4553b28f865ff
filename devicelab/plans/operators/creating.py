"""Operators that make tensors out of numbers."""

from __future__ import annotations

import torch

from devicelab.plans.graph import Term
from devicelab.plans.writer import Call, Translator, Writer

__all__ = ["TRANSLATORS"]


def _filled(w: Writer, c: Call) -> str:
    return w.filled(c.output.shape, c["fill_value"], c.output.dtype)


def _constant_fill(number: float) -> Translator:
    def translate(w: Writer, c: Call) -> str:
        return w.filled(c.output.shape, number, c.output.dtype)

    return translate


def _scalar_tensor(w: Writer, c: Call) -> str:
    return w.scalar(c["s"], c.output.dtype)


def _arange(w: Writer, c: Call) -> str:
    dtype = c.output.dtype
    names = c.node.op.rsplit(".", 1)[1]
    start = 0 if names == "default" else c["start"]
    step = c["step"] if names == "start_step" else 1
    end = c["end"]
    if not any(isinstance(number, Term) for number in (start, end, step)):
        return w.constant(torch.arange(start, end, step, dtype=dtype).numpy())
    return w.one("Range", *(w.scalar(number, dtype) for number in (start, end, step)))


def _triangle_indices(w: Writer, c: Call) -> str:
    make = torch.triu_indices if "triu" in c.node.op else torch.tril_indices
    row, col, offset = (int(c.number(name)) for name in ("row", "col", "offset"))
    return w.constant(make(row, col, offset, dtype=c.output.dtype).numpy())


TRANSLATORS: dict[str, Translator] = {
    "aten.full.default": _filled,
    "aten.full_like.default": _filled,
    "aten.new_full.default": _filled,
    "aten.zeros.default": _constant_fill(0),
    "aten.zeros_like.default": _constant_fill(0),
    "aten.new_zeros.default": _constant_fill(0),
    "aten.ones.default": _constant_fill(1),
    "aten.ones_like.default": _constant_fill(1),
    "aten.new_ones.default": _constant_fill(1),
    "aten.empty.memory_format": _constant_fill(0),
    "aten.empty_like.default": _constant_fill(0),
    "aten.new_empty.default": _constant_fill(0),
    "aten.empty_permuted.default": _constant_fill(0),
    "aten.scalar_tensor.default": _scalar_tensor,
    "aten.triu_indices.default": _triangle_indices,
    "aten.tril_indices.default": _triangle_indices,
    "aten.arange.default": _arange,
    "aten.arange.start": _arange,
    "aten.arange.start_step": _arange,
}
