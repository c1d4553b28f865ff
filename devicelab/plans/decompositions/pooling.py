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
    """Whether the windows lie next to each other, so that every number is in at most one."""
    return kernel == stride and padding == [0, 0] and height >= kernel[0] and width >= kernel[1]


def _spread(windows: Tensor, kernel: list[int]) -> Tensor:
    """[N, C, h, w] to [N, C, h, 1, w, 1], ready to broadcast over [N, C, h, kh, w, kw]."""
    del kernel
    return windows.unsqueeze(-1).unsqueeze(-3)


def avg_pool2d_backward(
    grad: Tensor,
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,  # noqa: FBT001 - aten's schema
    count_include_pad: bool,  # noqa: FBT001 - aten's schema
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
        h, w = grad.shape[-2:]
        lead = grad.shape[:-2]
        spread = _spread(share, kernel).expand(*lead, h, kernel[0], w, kernel[1])
        whole = spread.reshape(*lead, h * kernel[0], w * kernel[1])
        return _padded(whole, height, width)
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
    ceil_mode: bool,  # noqa: FBT001 - aten's schema
    indices: Tensor,
) -> Tensor:
    """Gradient of the pooled tensor; ``indices`` [N, C, h, w] are the winners' places in their plane.

    Where windows do not overlap, each number asks its window whether it won: one comparison, no scattering.
    """
    del ceil_mode
    kernel = _pair(kernel_size)
    steps, pad = _pair(stride, kernel), _pair(padding)
    height, width = x.shape[-2:]
    lead = x.shape[:-2]
    h, w = grad.shape[-2:]
    fits = h * kernel[0] <= height and w * kernel[1] <= width
    if fits and _pair(dilation) == [1, 1] and _tiles(height, width, kernel, steps, pad):
        rows = torch.arange(h * kernel[0]).reshape(h, kernel[0], 1, 1)
        columns = torch.arange(w * kernel[1]).reshape(1, 1, w, kernel[1])
        won = _spread(indices, kernel) == rows * width + columns
        whole = torch.where(won, _spread(grad, kernel), torch.zeros((), dtype=grad.dtype))
        return _padded(whole.reshape(*lead, h * kernel[0], w * kernel[1]), height, width)
    flat = torch.zeros((*lead, height * width), dtype=grad.dtype)
    places = indices.reshape(*lead, h * w)
    return flat.scatter_add(-1, places, grad.reshape(*lead, h * w)).reshape(x.shape)


def _padded(whole: Tensor, height: int, width: int) -> Tensor:
    """Rows and columns that no window reached get no gradient."""
    missing = [0, width - whole.shape[-1], 0, height - whole.shape[-2]]
    return aten.constant_pad_nd(whole, missing, 0.0) if any(missing) else whole
