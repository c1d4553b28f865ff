"""Gradients of pooling.

Average: every number of a window gets an equal share. Maximum: the winner gets all; PyTorch's forward pass says
where it was.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from devicelab.errors import PlanError

__all__ = ["avg_pool2d_backward", "max_pool2d_backward"]

aten = torch.ops.aten


def _pair(values: Sequence[int], default: Sequence[int] = ()) -> list[int]:
    values = values or default
    return list(values) if len(values) == 2 else list(values) * 2


def _tiles(height: int, width: int, kernel: list[int], stride: list[int], padding: list[int]) -> bool:
    """Whether the windows cover the plane, every number being in exactly one."""
    return kernel == stride and padding == [0, 0] and height % kernel[0] == 0 and width % kernel[1] == 0


def _enlarged(windows: Tensor, height: int, width: int) -> Tensor:
    """Each number of [N, C, h, w] repeated over its window: [N, C, H, W]."""
    result: Tensor = aten.upsample_nearest2d(windows, [height, width])
    return result


def avg_pool2d_backward(
    grad: Tensor,
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    """Gradient of the pooled tensor; shapes ``x`` [N, C, H, W], ``grad`` [N, C, h, w]."""
    kernel = _pair(kernel_size)
    steps, pad = _pair(stride, kernel), _pair(padding)
    if ceil_mode or (any(pad) and not count_include_pad):
        raise PlanError(
            "the gradient of average pooling with ceil_mode, or with padding that is not counted, is not known",
            hint="use count_include_pad=True and sizes that fit",
        )
    share = grad / (divisor_override or kernel[0] * kernel[1])
    height, width = x.shape[-2:]
    if _tiles(height, width, kernel, steps, pad):
        return _enlarged(share, height, width)
    channels = x.shape[1]
    ones = torch.ones((channels, 1, *kernel), dtype=grad.dtype)
    missing = [x.shape[2 + n] - ((grad.shape[2 + n] - 1) * steps[n] - 2 * pad[n] + kernel[n]) for n in (0, 1)]
    result: Tensor = aten.convolution(share, ones, None, steps, pad, [1, 1], True, missing, channels)
    return result


def max_pool2d_backward(
    grad: Tensor,
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: Tensor,
) -> Tensor:
    """Gradient of the pooled tensor; ``indices`` [N, C, h, w] are the winners' places in their plane.

    ONNX Runtime's pooling is seventeen times slower where it must say who won. Where every number is in one
    window, the winners are found without that: those equal to their window's maximum, and of equals the first,
    which is PyTorch's rule.
    """
    kernel = _pair(kernel_size)
    steps, pad = _pair(stride, kernel), _pair(padding)
    height, width = x.shape[-2:]
    lead, (h, w) = x.shape[:-2], grad.shape[-2:]
    tiled = x.dim() == 4 and _pair(dilation) == [1, 1] and not ceil_mode
    if tiled and _tiles(height, width, kernel, steps, pad):
        highest = aten.max_pool2d_with_indices(x, kernel, steps, pad, [1, 1], False)[0]
        equal = (x == _enlarged(highest, height, width)).to(grad.dtype)
        ranked = equal * _ranks(height, width, kernel, grad.dtype)
        first = aten.max_pool2d_with_indices(ranked, kernel, steps, pad, [1, 1], False)[0]
        won = (ranked == _enlarged(first, height, width)).to(grad.dtype)
        return won * _enlarged(grad, height, width)
    flat = torch.zeros((*lead, height * width), dtype=grad.dtype)
    places = indices.reshape(*lead, h * w)
    return flat.scatter_add(-1, places, grad.reshape(*lead, h * w)).reshape(x.shape)


def _ranks(height: int, width: int, kernel: list[int], dtype: torch.dtype) -> Tensor:
    """[H, W]: within each window, the first number has the highest rank, the last has rank 1."""
    rows = torch.arange(height).reshape(-1, 1) % kernel[0]
    columns = torch.arange(width).reshape(1, -1) % kernel[1]
    return (kernel[0] * kernel[1] - (rows * kernel[1] + columns)).to(dtype)
