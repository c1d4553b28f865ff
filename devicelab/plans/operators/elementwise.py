"""Operators that work number by number, with broadcasting."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import torch

from devicelab.plans.graph import Arg, Value
from devicelab.plans.writer import Call, Translator, Writer, operator_error

__all__ = ["TRANSLATORS"]


def common_type(*args: Arg) -> torch.dtype:
    """The type in which PyTorch computes with these tensors and numbers.

    Source: torch.result_type, which knows that a scalar tensor yields to a larger one of the same kind.
    """
    found: torch.Tensor | float | None = None
    for arg in args:
        if isinstance(arg, Value):
            sample: torch.Tensor | float = torch.empty([1] * arg.rank, dtype=arg.dtype)
        else:
            sample = arg if isinstance(arg, bool | int | float) else float(arg.factor)
        if found is None:
            found = sample
        else:
            dtype = torch.result_type(found, sample)
            rank = max(getattr(found, "ndim", 0), getattr(sample, "ndim", 0))
            found = torch.empty([1] * rank, dtype=dtype)
    assert isinstance(found, torch.Tensor)
    return found.dtype


def _unary(op: str) -> Translator:
    def translate(w: Writer, c: Call) -> str:
        source = next(c.node.inputs)
        return w.one(op, w.operand(source, c.output.dtype))

    return translate


def _binary(op: str, boolean: str | None = None) -> Translator:
    """Arithmetic in the output's type; ``boolean`` is the operator for truth values."""

    def translate(w: Writer, c: Call) -> str:
        left, right = c.node.args[:2]
        dtype = c.output.dtype
        if dtype == torch.bool and boolean is not None:
            return w.one(boolean, w.operand(left, dtype), w.operand(right, dtype))
        if dtype == torch.bool:
            raise operator_error(c.node, "it is not defined for truth values")
        return w.one(op, w.operand(left, dtype), w.operand(right, dtype))

    return translate


def _scaled(op: str, boolean: str | None = None) -> Translator:
    """``a + alpha * b`` and ``a - alpha * b``."""

    def translate(w: Writer, c: Call) -> str:
        left, right = c.node.args[:2]
        alpha = c["alpha"]
        dtype = c.output.dtype
        if dtype == torch.bool and boolean is not None:
            return w.one(boolean, w.operand(left, dtype), w.operand(right, dtype))
        second = w.operand(right, dtype)
        if alpha != 1:
            second = w.one("Mul", second, w.scalar(alpha, dtype))
        return w.one(op, w.operand(left, dtype), second)

    return translate


def _comparison(op: str, *, negated: bool = False) -> Translator:
    def translate(w: Writer, c: Call) -> str:
        left, right = c.node.args[:2]
        dtype = common_type(left, right)
        if dtype == torch.bool and op != "Equal":
            dtype = torch.int32
        result = w.one(op, w.operand(left, dtype), w.operand(right, dtype))
        return w.one("Not", result) if negated else result

    return translate


def _logical(op: str) -> Translator:
    def translate(w: Writer, c: Call) -> str:
        return w.one(op, *(_truth(w, arg) for arg in c.node.args[:2]))

    return translate


def _truth(w: Writer, arg: Arg) -> str:
    if isinstance(arg, Value) and arg.dtype != torch.bool:
        return w.one("Not", w.one("Equal", w.name(arg), w.scalar(0, arg.dtype)))
    return w.operand(arg, torch.bool)


def _logical_not(w: Writer, c: Call) -> str:
    return w.one("Not", _truth(w, c.value("self")))


def _bitwise_not(w: Writer, c: Call) -> str:
    if c.output.dtype != torch.bool:
        return w.one("BitwiseNot", w.name(c.value("self")))
    return w.one("Not", w.name(c.value("self")))


def _rsub(w: Writer, c: Call) -> str:
    right, left = c.node.args[:2]
    dtype = c.output.dtype
    taken = w.operand(right, dtype)
    if c["alpha"] != 1:
        taken = w.one("Mul", taken, w.scalar(c["alpha"], dtype))
    return w.one("Sub", w.operand(left, dtype), taken)


def _div_mode(w: Writer, c: Call) -> str:
    left, right = c.node.args[:2]
    dtype = c.output.dtype
    mode = c["rounding_mode"]
    quotient = w.one("Div", w.operand(left, dtype), w.operand(right, dtype))
    if dtype.is_floating_point:
        if mode == "floor":
            return w.one("Floor", quotient)
        if mode == "trunc":
            magnitude = w.one("Floor", w.one("Abs", quotient))
            return w.one("Mul", w.one("Sign", quotient), magnitude)
        return quotient
    if mode == "floor":  # ONNX divides integers towards zero
        remainder = w.one("Mod", w.operand(left, dtype), w.operand(right, dtype))
        return w.one("Div", w.one("Sub", w.operand(left, dtype), remainder), w.operand(right, dtype))
    return quotient


def _remainder(w: Writer, c: Call) -> str:
    left, right = c.node.args[:2]
    dtype = c.output.dtype
    a, b = w.operand(left, dtype), w.operand(right, dtype)
    if dtype.is_floating_point:
        return w.one("Sub", a, w.one("Mul", w.one("Floor", w.one("Div", a, b)), b))
    return w.one("Mod", a, b)


def _fmod(w: Writer, c: Call) -> str:
    left, right = c.node.args[:2]
    dtype = c.output.dtype
    return w.one("Mod", w.operand(left, dtype), w.operand(right, dtype), fmod=1)


def _pow(w: Writer, c: Call) -> str:
    base, exponent = c.node.args[:2]
    dtype = c.output.dtype
    name = w.operand(base, dtype)
    if isinstance(exponent, int | float) and exponent in _POWERS:
        return _POWERS[exponent](w, name)
    return w.one("Pow", name, w.operand(exponent, dtype))


# As ATen does these, and ten times faster than Pow.
_POWERS: Final[dict[float, Callable[[Writer, str], str]]] = {
    1: lambda _, x: x,
    2: lambda w, x: w.one("Mul", x, x),
    3: lambda w, x: w.one("Mul", w.one("Mul", x, x), x),
    0.5: lambda w, x: w.one("Sqrt", x),
    -1: lambda w, x: w.one("Reciprocal", x),
    -0.5: lambda w, x: w.one("Reciprocal", w.one("Sqrt", x)),
}


def _rsqrt(w: Writer, c: Call) -> str:
    return w.one("Reciprocal", w.one("Sqrt", w.operand(c.value("self"), c.output.dtype)))


def _composed(build: Callable[[Writer, str, torch.dtype], str]) -> Translator:
    def translate(w: Writer, c: Call) -> str:
        return build(w, w.operand(next(c.node.inputs), c.output.dtype), c.output.dtype)

    return translate


def _expm1(w: Writer, x: str, dtype: torch.dtype) -> str:
    """2·tanh(x/2) / (1 - tanh(x/2)), which keeps its digits near zero where exp(x) - 1 loses them."""
    t = w.one("Tanh", w.one("Mul", x, w.scalar(0.5, dtype)))
    return w.one("Div", w.one("Mul", w.scalar(2.0, dtype), t), w.one("Sub", w.scalar(1.0, dtype), t))


def _log1p(w: Writer, x: str, dtype: torch.dtype) -> str:
    """x·log(u)/(u - 1) with u = 1 + x, and x where u is 1 (Higham 2002, problem 1.5)."""
    one = w.scalar(1.0, dtype)
    u = w.one("Add", x, one)
    small = w.one("Equal", u, one)
    infinite = w.one("IsInf", u, detect_negative=0)
    difference = w.one("Sub", u, one)
    safe = w.one("Where", w.one("Or", small, infinite), one, difference)
    logarithm = w.one("Log", u)
    exact = w.one("Div", w.one("Mul", x, logarithm), safe)
    return w.one("Where", small, x, w.one("Where", infinite, logarithm, exact))


def _log_to(base: float) -> Translator:
    def build(w: Writer, x: str, dtype: torch.dtype) -> str:
        return w.one("Mul", w.one("Log", x), w.scalar(1.0 / math.log(base), dtype))

    return _composed(build)


def _exp2(w: Writer, x: str, dtype: torch.dtype) -> str:
    return w.one("Pow", w.scalar(2.0, dtype), x)


def _trunc(w: Writer, x: str, _: torch.dtype) -> str:
    return w.one("Mul", w.one("Sign", x), w.one("Floor", w.one("Abs", x)))


def _clamp(w: Writer, c: Call) -> str:
    dtype = c.output.dtype
    name = w.operand(c.value("self"), dtype)
    if c["min"] is not None:
        name = w.one("Max", name, w.operand(c["min"], dtype))
    if c["max"] is not None:
        name = w.one("Min", name, w.operand(c["max"], dtype))
    return name


def _hardtanh(w: Writer, c: Call) -> str:
    dtype = c.output.dtype
    low, high = w.scalar(c["min_val"], dtype), w.scalar(c["max_val"], dtype)
    return w.one("Clip", w.name(c.value("self")), low, high)


def _leaky_relu(w: Writer, c: Call) -> str:
    return w.one("LeakyRelu", w.name(c.value("self")), alpha=float(c.number("negative_slope")))


def _threshold_backward(w: Writer, c: Call) -> str:
    """Gradient of ReLU: through where x is above the threshold.

    A product with a mask: ``where`` takes six times as long in ONNX Runtime. For finite gradients the two are
    equal (a zero may have another sign).
    """
    source, dtype = c.value("self"), c.output.dtype
    above = w.one("Greater", w.name(source), w.scalar(c["threshold"], source.dtype))
    return w.one("Mul", w.name(c.value("grad_output")), w.cast(above, torch.bool, dtype))


def _elu(w: Writer, c: Call) -> str:
    x, dtype = w.name(c.value("self")), c.output.dtype
    scaled = w.one("Mul", x, w.scalar(c["input_scale"], dtype)) if c["input_scale"] != 1 else x
    curve = w.one("Elu", scaled, alpha=float(c.number("alpha")))
    zero = w.scalar(0.0, dtype)
    result = w.one("Where", w.one("Greater", x, zero), x, curve) if scaled != x else curve
    return w.one("Mul", result, w.scalar(c["scale"], dtype)) if c["scale"] != 1 else result


def _where(w: Writer, c: Call) -> str:
    dtype = c.output.dtype
    condition, yes, no = c.node.args
    return w.one("Where", _truth(w, condition), w.operand(yes, dtype), w.operand(no, dtype))


def _masked_fill(w: Writer, c: Call) -> str:
    value = w.operand(c["value"], c.output.dtype)
    return w.one("Where", w.name(c.value("mask")), value, w.name(c.value("self")))


def _to_copy(w: Writer, c: Call) -> str:
    source = c.value("self")
    if source.dtype.is_floating_point and c.output.dtype == torch.bool:
        return _truth(w, source)
    return w.cast(w.name(source), source.dtype, c.output.dtype)


def _is_inf(w: Writer, c: Call) -> str:
    return w.one("IsInf", w.name(c.value("self")))


def _sign(w: Writer, c: Call) -> str:
    return w.one("Sign", w.name(c.value("self")))


def _atan2(w: Writer, c: Call) -> str:
    y, x = (w.operand(arg, c.output.dtype) for arg in c.node.args[:2])
    dtype = c.output.dtype
    zero, pi = w.scalar(0.0, dtype), w.scalar(math.pi, dtype)
    plain = w.one("Atan", w.one("Div", y, x))
    turned = w.one("Where", w.one("Less", y, zero), w.one("Sub", plain, pi), w.one("Add", plain, pi))
    half = w.one("Mul", w.one("Sign", y), w.scalar(math.pi / 2, dtype))
    off_axis = w.one("Where", w.one("Less", x, zero), turned, plain)
    return w.one("Where", w.one("Equal", x, zero), half, off_axis)


_UNARY = {
    "abs": "Abs", "acos": "Acos", "acosh": "Acosh", "asin": "Asin", "asinh": "Asinh", "atan": "Atan",
    "atanh": "Atanh", "ceil": "Ceil", "cos": "Cos", "cosh": "Cosh", "erf": "Erf", "exp": "Exp",
    "floor": "Floor",
    "log": "Log", "neg": "Neg", "reciprocal": "Reciprocal", "relu": "Relu", "round": "Round",
    "sigmoid": "Sigmoid", "sin": "Sin", "sinh": "Sinh", "sqrt": "Sqrt", "tan": "Tan", "tanh": "Tanh",
}  # fmt: skip

TRANSLATORS: dict[str, Translator] = {
    **{f"aten.{name}.default": _unary(op) for name, op in _UNARY.items()},
    **{f"aten.add.{overload}": _scaled("Add", "Or") for overload in ("Tensor", "Scalar")},
    **{f"aten.sub.{overload}": _scaled("Sub") for overload in ("Tensor", "Scalar")},
    **{f"aten.rsub.{overload}": _rsub for overload in ("Tensor", "Scalar")},
    **{f"aten.mul.{overload}": _binary("Mul", "And") for overload in ("Tensor", "Scalar")},
    **{f"aten.div.{overload}": _binary("Div") for overload in ("Tensor", "Scalar")},
    **{f"aten.div.{overload}": _div_mode for overload in ("Tensor_mode", "Scalar_mode")},
    **{f"aten.remainder.{overload}": _remainder for overload in ("Tensor", "Scalar")},
    **{f"aten.fmod.{overload}": _fmod for overload in ("Tensor", "Scalar")},
    **{f"aten.pow.{overload}": _pow for overload in ("Tensor_Tensor", "Tensor_Scalar", "Scalar")},
    **{f"aten.eq.{overload}": _comparison("Equal") for overload in ("Tensor", "Scalar")},
    **{f"aten.ne.{overload}": _comparison("Equal", negated=True) for overload in ("Tensor", "Scalar")},
    **{f"aten.lt.{overload}": _comparison("Less") for overload in ("Tensor", "Scalar")},
    **{f"aten.le.{overload}": _comparison("LessOrEqual") for overload in ("Tensor", "Scalar")},
    **{f"aten.gt.{overload}": _comparison("Greater") for overload in ("Tensor", "Scalar")},
    **{f"aten.ge.{overload}": _comparison("GreaterOrEqual") for overload in ("Tensor", "Scalar")},
    **{f"aten.bitwise_and.{overload}": _binary("BitwiseAnd", "And") for overload in ("Tensor", "Scalar")},
    **{f"aten.bitwise_or.{overload}": _binary("BitwiseOr", "Or") for overload in ("Tensor", "Scalar")},
    **{f"aten.bitwise_xor.{overload}": _binary("BitwiseXor", "Xor") for overload in ("Tensor", "Scalar")},
    "aten.bitwise_not.default": _bitwise_not,
    "aten.logical_and.default": _logical("And"),
    "aten.logical_or.default": _logical("Or"),
    "aten.logical_xor.default": _logical("Xor"),
    "aten.logical_not.default": _logical_not,
    "aten.minimum.default": _binary("Min", "And"),
    "aten.maximum.default": _binary("Max", "Or"),
    "aten.rsqrt.default": _rsqrt,
    "aten.expm1.default": _composed(_expm1),
    "aten.log1p.default": _composed(_log1p),
    "aten.log2.default": _log_to(2.0),
    "aten.log10.default": _log_to(10.0),
    "aten.exp2.default": _composed(_exp2),
    "aten.trunc.default": _composed(_trunc),
    "aten.sign.default": _sign,
    "aten.atan2.default": _atan2,
    "aten.clamp.default": _clamp,
    "aten.clamp.Tensor": _clamp,
    "aten.hardtanh.default": _hardtanh,
    "aten.leaky_relu.default": _leaky_relu,
    "aten.elu.default": _elu,
    "aten.threshold_backward.default": _threshold_backward,
    "aten.where.self": _where,
    "aten.masked_fill.Scalar": _masked_fill,
    "aten.masked_fill.Tensor": _masked_fill,
    "aten._to_copy.default": _to_copy,
    "aten.isnan.default": lambda w, c: w.one("IsNaN", w.name(c.value("self"))),
    "aten.isinf.default": _is_inf,
}
