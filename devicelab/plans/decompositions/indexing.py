"""Gradients of slices: zeros around what was cut out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["select_backward"]


def select_backward(grad: Tensor, sizes: Sequence[int], dim: int, index: int) -> Tensor:
    """Gradient of x.select(dim, index): padding, where PyTorch has a ``where`` over the whole."""
    dim, index = dim % len(sizes), index % sizes[dim]
    pads = [0, 0] * (len(sizes) - 1 - dim) + [index, sizes[dim] - 1 - index]
    result: Tensor = torch.ops.aten.constant_pad_nd(grad.unsqueeze(dim), pads, 0.0)
    return result
