"""Convolution and pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from devicelab.plans.writer import Call, Translator, Writer, operator_error

__all__ = ["TRANSLATORS"]


def _convolution(w: Writer, c: Call) -> str:
    weight = c.value("weight")
    spatial = weight.rank - 2
    inputs = [w.name(c.value("input")), w.name(weight)]
    if c["bias"] is not None:
        inputs.append(w.name(c["bias"]))
    padding = c.integers("padding", spatial)
    attributes: dict[str, Any] = {
        "strides": c.integers("stride", spatial),
        "pads": padding * 2,
        "dilations": c.integers("dilation", spatial),
        "group": int(c.number("groups")),
    }
    kernel = list(weight.shape[2:])
    if all(isinstance(size, int) for size in kernel):
        attributes["kernel_shape"] = kernel
    if c["transposed"]:
        attributes["output_padding"] = c.integers("output_padding", spatial)
        return w.emit("ConvTranspose", inputs, **attributes)[0]
    return w.emit("Conv", inputs, **attributes)[0]


def _max_pool2d(w: Writer, c: Call) -> Sequence[str]:
    """ONNX numbers positions over the whole tensor, PyTorch within each plane: the remainder is PyTorch's."""
    source = c.value("self")
    kernel = c.integers("kernel_size", 2)
    height, width = source.shape[-2:]
    if not (isinstance(height, int) and isinstance(width, int)):
        raise operator_error(c.node, "the picture's size depends on the number of examples")
    attributes: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": c.integers("stride", 2) or kernel,
        "pads": c.integers("padding", 2) * 2,
        "dilations": c.integers("dilation", 2),
        "ceil_mode": int(bool(c["ceil_mode"])),
    }
    if not w.is_read(c.node.outputs[1]):
        return w.emit("MaxPool", [w.name(source)], **attributes)
    values, positions = w.emit("MaxPool", [w.name(source)], outputs=2, **attributes)
    plane = w.ints(math.prod((height, width)))
    return [values, w.one("Mod", positions, plane)]


def _avg_pool(spatial: int) -> Translator:
    def translate(w: Writer, c: Call) -> str:
        kernel = c.integers("kernel_size", spatial)
        if c["divisor_override"] if spatial > 1 else None:
            raise operator_error(c.node, "a divisor other than the window's size")
        return w.one(
            "AveragePool",
            w.name(c.value("self")),
            kernel_shape=kernel,
            strides=c.integers("stride", spatial) or kernel,
            pads=c.integers("padding", spatial) * 2,
            ceil_mode=int(bool(c["ceil_mode"])),
            count_include_pad=int(bool(c["count_include_pad"])),
        )

    return translate


def _upsample_nearest2d(w: Writer, c: Call) -> str:
    source = c.value("self")
    factors = []
    for old, new in zip(source.shape[-2:], c.output.shape[-2:], strict=True):
        if not isinstance(old, int) or not isinstance(new, int) or new % old:
            raise operator_error(c.node, "the new size is no multiple of the old one")
        factors.append(new // old)
    scales = w.constant(np.array([1, 1, *factors], dtype=np.float32))
    return w.one(
        "Resize",
        w.name(source),
        "",
        scales,
        mode="nearest",
        nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )


TRANSLATORS: dict[str, Translator] = {
    "aten.convolution.default": _convolution,
    "aten.max_pool2d_with_indices.default": _max_pool2d,
    "aten.upsample_nearest2d.default": _upsample_nearest2d,
    "aten.avg_pool1d.default": _avg_pool(1),
    "aten.avg_pool2d.default": _avg_pool(2),
    "aten.avg_pool3d.default": _avg_pool(3),
}
