"""Gradients of convolutions as convolutions.

Source: Dumoulin & Visin 2016, "A guide to convolution arithmetic for deep learning": the gradient with respect to
the input is the transposed convolution with the same weights; the gradient with respect to the weights is the
correlation of the input with the output's gradient, stride and dilation changing places.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["convolution_backward"]

aten = torch.ops.aten


def convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,  # noqa: FBT001 - aten's schema
    output_padding: Sequence[int],
    groups: int,
    mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of input, weight and bias, each if the mask asks for it.

    Shapes: ``x`` [N, Cin, …], ``weight`` [Cout, Cin/groups, …] (transposed: [Cin, Cout/groups, …]), ``grad``
    [N, Cout, …].
    """
    del bias_sizes
    spatial = x.dim() - 2
    s, p, d, extra = (_each(v, spatial) for v in (stride, padding, dilation, output_padding))
    of_bias = grad.sum([0, *range(2, x.dim())]) if mask[2] else None
    if transposed:
        none = [0] * spatial
        of_x = aten.convolution(grad, weight, None, s, p, d, False, none, groups) if mask[0] else None
        of_weight = _of_weight(x, grad, weight, s, p, d, groups) if mask[1] else None
        return of_x, of_weight, of_bias
    del extra
    return (
        _of_input(grad, x, weight, s, p, d, groups) if mask[0] else None,
        _of_weight(grad, x, weight, s, p, d, groups) if mask[1] else None,
        of_bias,
    )


def _each(values: Sequence[int], spatial: int) -> list[int]:
    return list(values) if len(values) == spatial else list(values) * spatial


def _of_input(
    grad: Tensor, x: Tensor, weight: Tensor, s: list[int], p: list[int], d: list[int], groups: int
) -> Tensor:
    missing = [
        x.shape[2 + n] - ((grad.shape[2 + n] - 1) * s[n] - 2 * p[n] + d[n] * (weight.shape[2 + n] - 1) + 1)
        for n in range(len(s))
    ]
    result: Tensor = aten.convolution(grad, weight, None, s, p, d, True, missing, groups)
    return result


def _of_weight(
    grad: Tensor, x: Tensor, weight: Tensor, s: list[int], p: list[int], d: list[int], groups: int
) -> Tensor:
    """The batch takes the channels' place: examples are summed over, input channels become the batch."""
    channels = x.shape[1]
    if groups == 1:
        swapped = x.transpose(0, 1)
    else:
        split = x.reshape(x.shape[0], groups, channels // groups, *x.shape[2:])
        swapped = split.permute(2, 1, 0, *range(3, x.dim() + 1)).reshape(channels // groups, -1, *x.shape[2:])
    by_channel = aten.convolution(swapped, grad.transpose(0, 1), None, d, p, s, False, [0] * len(s), groups)
    for n in range(len(s)):  # rows of x that no window reached
        by_channel = by_channel.narrow(2 + n, 0, weight.shape[2 + n])
    return by_channel.transpose(0, 1)
