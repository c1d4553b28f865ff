"""Gradient of average pooling: every number of a window gets an equal share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from devicelab.errors import PlanError

__all__ = ["avg_pool2d_backward"]

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
