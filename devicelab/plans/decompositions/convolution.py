"""Gradients of convolutions as convolutions.

Source: Dumoulin & Visin 2016, "A guide to convolution arithmetic for deep learning": the gradient with respect
to the input is the transposed convolution with the same weights; the gradient with respect to the weights is
the correlation of the input with the output's gradient, stride and dilation changing places.

That correlation is itself a convolution whose kernel is as large as the picture, for which engines are not
made. Three other ways to write it are faster in ONNX Runtime (32 examples, one thread, ms): a pointwise layer's
is a batch of matrix products (0.3 instead of 2.4); a depthwise layer's is, for each weight, a shifted product
summed up (1.6 instead of 2.1); and that of small kernels is a product with the unfolded input (1.0 instead of
1.8, LeNet's first layer).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Final

import torch
from torch import Tensor

__all__ = ["convolution_backward"]

aten = torch.ops.aten

_MOST_TAPS: Final = 25  # larger kernels would make graphs of too many nodes
_LARGEST_UNFOLDING: Final = 1 << 18  # numbers an example; 1 MB


def convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
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
    kernel = list(weight.shape[2:])
    taps, places = math.prod(kernel), math.prod(grad.shape[2:])
    if groups == 1 and taps == 1 and set(s) == {1} and set(p) == {0}:
        return _by_products(grad, x).sum(0).reshape(weight.shape)
    if groups == x.shape[1] == grad.shape[1] and groups > 1 and taps <= _MOST_TAPS:
        dims = [0, *range(2, x.dim())]
        sums = [(part * grad).sum(dims) for part in _shifted(grad, x, kernel, s, p, d)]
        return torch.stack(sums, 1).reshape(weight.shape)
    if groups == 1 and taps <= _MOST_TAPS and x.shape[1] * taps * places <= _LARGEST_UNFOLDING:
        unfolded = torch.cat(list(_shifted(grad, x, kernel, s, p, d)), 1)
        by_tap = _by_products(grad, unfolded).sum(0).reshape(weight.shape[0], taps, x.shape[1])
        return by_tap.transpose(1, 2).reshape(weight.shape)
    return _by_convolution(grad, x, weight, s, p, d, groups)


def _by_products(grad: Tensor, x: Tensor) -> Tensor:
    """For each example the products of all channels of grad and x: [N, Cout, Cin]."""
    return torch.bmm(grad.flatten(2), x.flatten(2).transpose(1, 2))


def _shifted(
    grad: Tensor, x: Tensor, kernel: list[int], s: list[int], p: list[int], d: list[int]
) -> Iterator[Tensor]:
    """For each weight of a kernel, what it was multiplied with: x shifted, in the shape of grad."""
    pads = [side for size in reversed(p) for side in (size, size)]
    padded = aten.constant_pad_nd(x, pads, 0.0) if any(pads) else x
    for place in itertools.product(*(range(size) for size in kernel)):
        part = padded
        for n, offset in enumerate(place):
            first = offset * d[n]
            part = aten.slice(part, 2 + n, first, first + (grad.shape[2 + n] - 1) * s[n] + 1, s[n])
        yield part


def _by_convolution(
    grad: Tensor, x: Tensor, weight: Tensor, s: list[int], p: list[int], d: list[int], groups: int
) -> Tensor:
    """The batch takes the channels' place: examples are summed over, input channels become the batch."""
    channels = x.shape[1]
    if groups == 1:
        swapped = x.transpose(0, 1)
    else:
        split = x.reshape(x.shape[0], groups, channels // groups, *x.shape[2:])
        swapped = split.permute(2, 1, 0, *range(3, x.dim() + 1)).reshape(channels // groups, -1, *x.shape[2:])
    by_channel = aten.convolution(
        swapped,
        grad.transpose(0, 1),
        None,
        d,
        p,
        s,
        transposed=False,
        output_padding=[0] * len(s),
        groups=groups,
    )
    for n in range(len(s)):  # rows of x that no window reached
        by_channel = by_channel.narrow(2 + n, 0, weight.shape[2 + n])
    result: Tensor = by_channel.transpose(0, 1)
    return result
