"""Convolution and pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch

from devicelab.plans.graph import Term, Value
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


_POOL_BACKWARD: Final = "aten.max_pool2d_with_indices_backward.default"


def _plane(w: Writer, value: Value) -> str:
    """Pictures [N, C, H, W] as [N·C, 1, H, W].

    ONNX Runtime would reorder the channels of many for its pooling and resizing kernels, which takes longer
    than the pooling itself; single ones it leaves alone.
    """
    return w.reshape(w.name(value), [Term(1, 1), 1, *value.shape[-2:]])


def _pool_attributes(c: Call) -> dict[str, Any]:
    kernel = c.integers("kernel_size", 2)
    return {
        "kernel_shape": kernel,
        "strides": c.integers("stride", 2) or kernel,
        "pads": c.integers("padding", 2) * 2,
        "dilations": c.integers("dilation", 2),
        "ceil_mode": int(bool(c["ceil_mode"])),
    }


def _picture_size(c: Call, source: Value) -> tuple[int, int]:
    height, width = source.shape[-2:]
    if not (isinstance(height, int) and isinstance(width, int)):
        raise operator_error(c.node, "the picture's size depends on the number of examples")
    return height, width


def _tiles(c: Call, source: Value) -> bool:
    """Whether every number is in exactly one window."""
    attributes, sizes = _pool_attributes(c), _picture_size(c, source)
    kernel = attributes["kernel_shape"]
    plain = attributes["strides"] == kernel and attributes["pads"] == [0] * 4
    plain = plain and attributes["dilations"] == [1, 1] and not attributes["ceil_mode"]
    return plain and all(size % k == 0 for size, k in zip(sizes, kernel, strict=True))


def _max_pool2d(w: Writer, c: Call) -> Sequence[str]:
    source = c.value("self")
    positions = c.node.outputs[1]
    wanted = w.is_output(positions) or any(
        node.op != _POOL_BACKWARD or not _tiles(Call(node), source) for node in w.readers(positions)
    )
    if not wanted:
        pooled = w.one("MaxPool", _plane(w, source), **_pool_attributes(c))
        return [w.reshape(pooled, c.output.shape)]
    values, places = w.emit("MaxPool", [w.name(source)], outputs=2, **_pool_attributes(c))
    # ONNX numbers positions over the whole tensor, PyTorch within each plane: the remainder is PyTorch's.
    return [values, w.one("Mod", places, w.ints(math.prod(_picture_size(c, source))))]


def _max_pool2d_backward(w: Writer, c: Call) -> str:
    """The winner of a window gets all; PyTorch's forward pass says where it was.

    ONNX Runtime's pooling is seventeen times slower where it must say who won. Where every number is in one
    window, the winners are found without that: those equal to their window's maximum, and of equals the first,
    which is PyTorch's rule.
    """
    source, grad = c.value("self"), c.value("grad_output")
    height, width = _picture_size(c, source)
    if not _tiles(c, source):
        lead = source.shape[:-2]
        flat = w.filled((*lead, height * width), 0, grad.dtype)
        places = w.reshape(w.name(c.value("indices")), (*lead, math.prod(_picture_size(c, grad))))
        values = w.reshape(w.name(grad), (*lead, math.prod(_picture_size(c, grad))))
        scattered = w.one("ScatterElements", flat, places, values, axis=len(lead), reduction="add")
        return w.reshape(scattered, source.shape)
    attributes = _pool_attributes(c)
    kernel = attributes["kernel_shape"]
    x = _plane(w, source)
    best = _enlarged(w, w.one("MaxPool", x, **attributes), kernel)
    equal = w.cast(w.one("Equal", x, best), torch.bool, grad.dtype)
    ranked = w.one("Mul", equal, _ranks(w, height, width, kernel))
    first = _enlarged(w, w.one("MaxPool", ranked, **attributes), kernel)
    won = w.cast(w.one("Equal", ranked, first), torch.bool, grad.dtype)
    return w.reshape(w.one("Mul", won, _enlarged(w, _plane(w, grad), kernel)), source.shape)


def _ranks(w: Writer, height: int, width: int, kernel: Sequence[int]) -> str:
    """[H, W]: within each window, the first number has the highest rank, the last has rank 1."""
    rows = np.arange(height, dtype=np.float32).reshape(-1, 1) % kernel[0] * kernel[1]
    columns = np.arange(width, dtype=np.float32).reshape(1, -1) % kernel[1]
    return w.one("Sub", w.constant(kernel[0] * kernel[1] - rows), w.constant(columns))


def _avg_pool(spatial: int) -> Translator:
    def translate(w: Writer, c: Call) -> str:
        kernel = c.integers("kernel_size", spatial)
        source = c.value("self")
        if c["divisor_override"] if spatial > 1 else None:
            raise operator_error(c.node, "a divisor other than the window's size")
        pooled = w.one(
            "AveragePool",
            _plane(w, source) if spatial == 2 else w.name(source),
            kernel_shape=kernel,
            strides=c.integers("stride", spatial) or kernel,
            pads=c.integers("padding", spatial) * 2,
            ceil_mode=int(bool(c["ceil_mode"])),
            count_include_pad=int(bool(c["count_include_pad"])),
        )
        return w.reshape(pooled, c.output.shape) if spatial == 2 else pooled

    return translate


def _enlarged(w: Writer, name: str, factors: Sequence[int]) -> str:
    """Each number of [N·C, 1, H, W] repeated over a block of its own."""
    return w.one(
        "Resize",
        name,
        "",
        w.constant(np.array([1, 1, *factors], dtype=np.float32)),
        mode="nearest",
        nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )


def _upsample_nearest2d(w: Writer, c: Call) -> str:
    source = c.value("self")
    factors = []
    for old, new in zip(source.shape[-2:], c.output.shape[-2:], strict=True):
        if not isinstance(old, int) or not isinstance(new, int) or new % old:
            raise operator_error(c.node, "the new size is no multiple of the old one")
        factors.append(new // old)
    return w.reshape(_enlarged(w, _plane(w, source), factors), c.output.shape)


TRANSLATORS: dict[str, Translator] = {
    "aten.convolution.default": _convolution,
    "aten.max_pool2d_with_indices.default": _max_pool2d,
    _POOL_BACKWARD: _max_pool2d_backward,
    "aten.upsample_nearest2d.default": _upsample_nearest2d,
    "aten.avg_pool1d.default": _avg_pool(1),
    "aten.avg_pool2d.default": _avg_pool(2),
    "aten.avg_pool3d.default": _avg_pool(3),
}
