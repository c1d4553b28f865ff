"""Sums, means, maxima, softmax and sorting."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from devicelab.plans.graph import Term, Value
from devicelab.plans.writer import Call, Translator, Writer, operator_error

__all__ = ["TRANSLATORS"]


def _dims(c: Call, source: Value) -> list[int]:
    try:
        dims = c.integers("dim")
    except KeyError:
        dims = []
    return [d % source.rank for d in dims] if source.rank else []


def _keep(c: Call) -> int:
    try:
        return int(bool(c["keepdim"]))
    except KeyError:
        return 0


def _axes(w: Writer, dims: Sequence[int]) -> list[str]:
    return [w.ints(*dims)] if dims else []


_AXES_AS_INPUT = frozenset({"ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2"})


def _reduce(op: str) -> Translator:
    assert op in _AXES_AS_INPUT

    def translate(w: Writer, c: Call) -> str:
        source = c.value("self")
        name = w.operand(source, c.output.dtype)
        if source.rank == 0:
            return name
        dims = _dims(c, source)
        if op == "ReduceSum" and _is_column_sum(source, dims):
            return _column_sum(w, c, name)
        return w.emit(op, [name, *_axes(w, dims)], keepdims=_keep(c))[0]

    return translate


def _is_column_sum(source: Value, dims: list[int]) -> bool:
    """Whether examples are added up, as for the gradient of a layer's bias."""
    return (
        source.rank == 2 and dims == [0] and isinstance(source.shape[0], Term) and source.dtype == torch.float32
    )


def _column_sum(w: Writer, c: Call, name: str) -> str:
    """A row of ones times the matrix: four times as fast as ReduceSum over the first dimension."""
    source = c.value("self")
    row = w.filled((1, source.shape[0]), 1, source.dtype)
    total = w.one("MatMul", row, name)
    return total if _keep(c) else w.reshape(total, source.shape[1:])


def _truth(op: str) -> Translator:
    """Whether any or all are true: the maximum or minimum of zeros and ones."""

    def translate(w: Writer, c: Call) -> str:
        source = c.value("self")
        name = w.name(source)
        if source.dtype != torch.bool:
            name = w.one("Not", w.one("Equal", name, w.scalar(0, source.dtype)))
        if source.rank == 0:
            return name
        numbers = w.one("Cast", name, to=6)
        return w.cast(
            w.emit(op, [numbers, *_axes(w, _dims(c, source))], keepdims=_keep(c))[0], torch.int32, torch.bool
        )

    return translate


def _arg(op: str) -> Translator:
    def translate(w: Writer, c: Call) -> str:
        source = c.value("self")
        name = w.name(source)
        if c["dim"] is None:
            return w.one(op, w.reshape(name, [-1]), axis=0, keepdims=0)
        return w.one(op, name, axis=c.dimension("dim", source.rank), keepdims=_keep(c))

    return translate


def _extreme_dim(op: str, argument: str) -> Translator:
    """Max and min along a dimension, with where they are."""

    def translate(w: Writer, c: Call) -> Sequence[str]:
        source = c.value("self")
        axis = c.dimension("dim", source.rank)
        value = w.emit(op, [w.name(source), w.ints(axis)], keepdims=_keep(c))[0]
        return [value, w.one(argument, w.name(source), axis=axis, keepdims=_keep(c))]

    return translate


def _softmax(op: str) -> Translator:
    def translate(w: Writer, c: Call) -> str:
        source = c.value("self")
        return w.one(op, w.operand(source, c.output.dtype), axis=c.dimension("dim", source.rank))

    return translate


def _cumsum(w: Writer, c: Call) -> str:
    source = c.value("self")
    axis = w.scalar(c.dimension("dim", source.rank), torch.int64)
    return w.one("CumSum", w.operand(source, c.output.dtype), axis)


def _variance(w: Writer, c: Call) -> str:
    return _variance_and_mean(w, c)[0]


def _variance_and_mean(w: Writer, c: Call) -> list[str]:
    """Mean squared distance from the mean, n - correction in the denominator; and the mean."""
    source = c.value("self")
    dtype = c.output.dtype
    dims = _dims(c, source) or list(range(source.rank))
    correction = 1 if c["correction"] is None else c["correction"]
    name = w.name(source)
    mean = w.emit("ReduceMean", [name, *_axes(w, dims)], keepdims=1)[0]
    centred = w.one("Sub", name, mean)
    square = w.one("Mul", centred, centred)
    total = w.emit("ReduceSum", [square, *_axes(w, dims)], keepdims=_keep(c))[0]
    ones = w.one("Shape", name)
    count = w.one("ReduceProd", w.one("Gather", ones, w.ints(*dims), axis=0), keepdims=0)
    count = w.cast(count, torch.int64, dtype)
    variance = w.one("Div", total, w.one("Sub", count, w.scalar(correction, dtype)))
    return [variance, mean if _keep(c) else w.one("Squeeze", mean, *_axes(w, dims))]


def _topk(w: Writer, c: Call) -> Sequence[str]:
    source = c.value("self")
    axis = c.dimension("dim", source.rank)
    largest, in_order = int(bool(c["largest"])), int(bool(c["sorted"]))
    inputs = [w.name(source), w.sizes([c["k"]])]
    return w.emit("TopK", inputs, outputs=2, axis=axis, largest=largest, sorted=in_order)


def _sort(w: Writer, c: Call) -> Sequence[str]:
    source = c.value("self")
    axis = c.dimension("dim", source.rank)
    inputs = [w.name(source), w.sizes([source.shape[axis]])]
    return w.emit("TopK", inputs, outputs=2, axis=axis, largest=int(bool(c["descending"])), sorted=1)


def _vector_norm(w: Writer, c: Call) -> str:
    source = c.value("self")
    name = w.name(source)
    dims = _dims(c, source)
    order = c["ord"]
    if source.rank == 0:
        return w.one("Abs", name)
    if order == 2:
        squares = w.one("Mul", name, name)
        return w.one("Sqrt", w.emit("ReduceSum", [squares, *_axes(w, dims)], keepdims=_keep(c))[0])
    magnitude = w.one("Abs", name)
    if order == 1:
        return w.emit("ReduceSum", [magnitude, *_axes(w, dims)], keepdims=_keep(c))[0]
    if order in (float("inf"), float("-inf")):
        op = "ReduceMax" if order > 0 else "ReduceMin"
        return w.emit(op, [magnitude, *_axes(w, dims)], keepdims=_keep(c))[0]
    raise operator_error(c.node, f"norms of order {order} are not known")


TRANSLATORS: dict[str, Translator] = {
    **{f"aten.sum.{overload}": _reduce("ReduceSum") for overload in ("default", "dim_IntList")},
    **{f"aten.mean.{overload}": _reduce("ReduceMean") for overload in ("default", "dim")},
    **{f"aten.prod.{overload}": _reduce("ReduceProd") for overload in ("default", "dim_int")},
    "aten.amax.default": _reduce("ReduceMax"),
    "aten.amin.default": _reduce("ReduceMin"),
    "aten.max.default": _reduce("ReduceMax"),
    "aten.min.default": _reduce("ReduceMin"),
    "aten.max.dim": _extreme_dim("ReduceMax", "ArgMax"),
    "aten.min.dim": _extreme_dim("ReduceMin", "ArgMin"),
    **{f"aten.any.{overload}": _truth("ReduceMax") for overload in ("default", "dim", "dims")},
    **{f"aten.all.{overload}": _truth("ReduceMin") for overload in ("default", "dim", "dims")},
    "aten.argmax.default": _arg("ArgMax"),
    "aten.argmin.default": _arg("ArgMin"),
    "aten._softmax.default": _softmax("Softmax"),
    "aten._log_softmax.default": _softmax("LogSoftmax"),
    "aten.cumsum.default": _cumsum,
    "aten.var.correction": _variance,
    "aten.var_mean.correction": _variance_and_mean,
    "aten.topk.default": _topk,
    "aten.sort.default": _sort,
    "aten.linalg_vector_norm.default": _vector_norm,
}
