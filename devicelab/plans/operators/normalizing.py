"""Batch norm and layer norm, which engines have whole."""

from __future__ import annotations

import numpy as np
import torch

from devicelab.plans.writer import Call, Translator, Writer

__all__ = ["TRANSLATORS"]


def _scale_and_bias(w: Writer, c: Call) -> list[str]:
    dtype, channels = c.output.dtype, c.value("input").shape[1:2]
    return [
        w.name(c[name]) if c[name] is not None else w.filled(channels, number, dtype)
        for name, number in (("weight", 1), ("bias", 0))
    ]


def _batch_norm(w: Writer, c: Call) -> list[str]:
    """Normalized tensor, mean and 1/std of the batch: at momentum 0, ONNX's running statistics are its own."""
    source = c.value("input")
    dtype = source.dtype
    inputs = [w.name(source), *_scale_and_bias(w, c), *_scratch(w, c)]
    y, mean, var = w.emit(
        "BatchNormalization", inputs, outputs=3, epsilon=float(c.number("eps")), momentum=0.0, training_mode=1
    )
    deviation = w.one("Sqrt", w.one("Add", var, w.scalar(c["eps"], dtype)))
    results = [y, mean, w.one("Reciprocal", deviation)]
    if len(c.node.outputs) == 3:
        return results
    count = w.scalar(1.0, dtype)
    for size in (source.shape[0], *source.shape[2:]):
        count = w.one("Mul", count, w.scalar(size, dtype))
    one = w.scalar(1.0, dtype)
    fewer = w.one(
        "Max", w.one("Sub", count, one), one
    )  # of a single number, PyTorch refuses to take the variance
    unbiased = w.one("Mul", var, w.one("Div", count, fewer))
    momentum = float(c.number("momentum"))
    for name, new in (("running_mean", mean), ("running_var", unbiased)):
        kept = w.one("Mul", w.name(c.value(name)), w.scalar(1 - momentum, dtype))
        results.append(w.one("Add", kept, w.one("Mul", new, w.scalar(momentum, dtype))))
    return results


def _scratch(w: Writer, c: Call) -> list[str]:
    """Two vectors of zeros, one number a channel, that nothing else reads and no optimizer makes one of.

    ONNX Runtime writes the new statistics over the memory of the old ones, be they constants or shared.
    """
    dtype = c.output.dtype
    for pair in (("running_mean", "running_var"), ("weight", "bias")):
        values = [c.get(name) for name in pair]
        if all(value is not None for value in values):
            return [w.one("Mul", w.name(value), w.scalar(0.0, dtype)) for value in values]
    source = c.value("input")
    axes = w.ints(0, *range(2, source.rank))
    extremes = [w.one(op, w.name(source), axes, keepdims=0) for op in ("ReduceMin", "ReduceMax")]
    return [w.one("Mul", name, w.scalar(0.0, dtype)) for name in extremes]


def _fixed_batch_norm(w: Writer, c: Call) -> list[str]:
    """With statistics that are given; PyTorch's second and third result are empty."""
    source = c.value("input")
    statistics = [w.name(c.value(name)) for name in ("running_mean", "running_var")]
    inputs = [w.name(source), *_scale_and_bias(w, c), *statistics]
    y = w.one("BatchNormalization", *inputs, epsilon=float(c.number("eps")))
    return [y, *[w.constant(np.zeros(0, dtype=np.float32))] * 2]


def _layer_norm(w: Writer, c: Call) -> list[str]:
    """ONNX's LayerNormalization also yields the mean and 1/std that the backward pass wants."""
    source = c.value("input")
    shape = c.integers("normalized_shape")
    scale = w.name(c["weight"]) if c["weight"] is not None else w.constant(torch.ones(shape).numpy())
    bias = [w.name(c["bias"])] if c["bias"] is not None else []
    return w.emit(
        "LayerNormalization",
        [w.name(source), scale, *bias],
        outputs=3,
        axis=-len(shape),
        epsilon=float(c.number("eps")),
    )


TRANSLATORS: dict[str, Translator] = {
    "aten._native_batch_norm_legit.no_stats": _batch_norm,
    "aten._native_batch_norm_legit_functional.default": _batch_norm,
    "aten._native_batch_norm_legit_no_training.default": _fixed_batch_norm,
    "aten.native_layer_norm.default": _layer_norm,
}
