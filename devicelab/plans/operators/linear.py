"""Matrix products. A transposition in front of one becomes a flag of Gemm, which costs nothing."""

from __future__ import annotations

from devicelab.plans.graph import Arg, Value
from devicelab.plans.writer import Call, Translator, Writer

__all__ = ["TRANSLATORS"]


def _untransposed(value: Value) -> tuple[Value, int]:
    """A matrix without the transposition that made it, and whether there was one."""
    node = value.node
    if node is not None and value.rank == 2:
        permuted = node.op in ("aten.permute.default", "aten.permute_copy.default")
        if permuted and [d % 2 for d in node.args[1]] == [1, 0]:
            return node.args[0], 1
        if node.op in ("aten.t.default", "aten.t_copy.default"):
            return node.args[0], 1
    return value, 0


def _product(w: Writer, left: Value, right: Value, **attributes: Arg) -> str:
    a, trans_a = _untransposed(left)
    b, trans_b = _untransposed(right)
    if not (trans_a or trans_b or attributes):
        return w.one("MatMul", w.name(a), w.name(b))
    return w.one("Gemm", w.name(a), w.name(b), transA=trans_a or None, transB=trans_b or None, **attributes)


def _mm(w: Writer, c: Call) -> str:
    return _product(w, c.value("self"), c.value("mat2"))


def _addmm(w: Writer, c: Call) -> str:
    a, trans_a = _untransposed(c.value("mat1"))
    b, trans_b = _untransposed(c.value("mat2"))
    alpha, beta = float(c.number("alpha")), float(c.number("beta"))
    inputs = [w.name(a), w.name(b), w.name(c.value("self"))]
    return w.emit(
        "Gemm",
        inputs,
        transA=trans_a or None,
        transB=trans_b or None,
        alpha=None if alpha == 1 else alpha,
        beta=None if beta == 1 else beta,
    )[0]


def _bmm(w: Writer, c: Call) -> str:
    return w.one("MatMul", w.name(c.value("self")), w.name(c.value("mat2")))


def _baddbmm(w: Writer, c: Call) -> str:
    dtype = c.output.dtype
    product = w.one("MatMul", w.name(c.value("batch1")), w.name(c.value("batch2")))
    if c["alpha"] != 1:
        product = w.one("Mul", product, w.scalar(c["alpha"], dtype))
    added = w.name(c.value("self"))
    if c["beta"] != 1:
        added = w.one("Mul", added, w.scalar(c["beta"], dtype))
    return w.one("Add", product, added)


def _mv(w: Writer, c: Call) -> str:
    return w.one("MatMul", w.name(c.value("self")), w.name(c.value("vec")))


def _dot(w: Writer, c: Call) -> str:
    return w.one("MatMul", w.name(c.value("self")), w.name(c.value("tensor")))


TRANSLATORS: dict[str, Translator] = {
    "aten.mm.default": _mm,
    "aten.addmm.default": _addmm,
    "aten.bmm.default": _bmm,
    "aten.baddbmm.default": _baddbmm,
    "aten.mv.default": _mv,
    "aten.dot.default": _dot,
}
