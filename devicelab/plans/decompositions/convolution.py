"""Gradients of convolutions as convolutions.

Source: Dumoulin & Visin 2016, "A guide to convolution arithmetic for deep learning": the gradient with respect
to the input is the transposed convolution with the same weights; the gradient with respect to the weights is
the correlation of the input with the output's gradient, stride and dilation changing places.

That correlation is itself a convolution whose kernel is as large as the picture, for which engines are not
made. It is written in these ways instead, whichever suits the layer (ms in ONNX Runtime 1.32, one thread, 32
examples, against the convolution):

- pointwise: a product an example, added up (0.3 against 2.4);
- depthwise: for each channel one product over the examples holds all pairs of places, of which a kernel's are
  picked (0.3 against 1.5 for 64 planes of 8 by 8); in larger pictures the same a row at a time (0.6 against
  1.5 for 16 planes of 16 by 16); in still larger ones a shifted product for each weight;
- few channels: a product with the unfolded input (0.7 against 0.8, LeNet's first layer);
- others: a product over the examples for each weight, the examples moved to the last dimension so that
  shifting copies long runs (1.4 against 2.4, LeNet's second layer).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

__all__ = ["convolution_backward"]

aten = torch.ops.aten

_MOST_TAPS: Final = 25  # larger kernels would make graphs of too many nodes
_FEW_CHANNELS: Final = 8  # fewer make products too thin
_LARGEST_PLANES: Final = 1 << 14  # pairs of places a channel
_LARGEST_ROWS: Final = 1 << 11  # pairs of columns a channel


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
    if groups == 1 and _is_pointwise(weight, s, p):
        return _convolved(grad, weight.transpose(0, 1), s, p, d)
    missing = [
        x.shape[2 + n] - ((grad.shape[2 + n] - 1) * s[n] - 2 * p[n] + d[n] * (weight.shape[2 + n] - 1) + 1)
        for n in range(len(s))
    ]
    result: Tensor = aten.convolution(grad, weight, None, s, p, d, True, missing, groups)
    return result


def _convolved(
    x: Tensor, weight: Tensor, s: Sequence[int], p: Sequence[int], d: Sequence[int], groups: int = 1
) -> Tensor:
    result: Tensor = aten.convolution(x, weight, None, s, p, d, False, [0] * len(s), groups)
    return result


def _is_pointwise(weight: Tensor, s: list[int], p: list[int]) -> bool:
    return math.prod(weight.shape[2:]) == 1 and set(s) == {1} and set(p) == {0}


def _of_weight(
    grad: Tensor, x: Tensor, weight: Tensor, s: list[int], p: list[int], d: list[int], groups: int
) -> Tensor:
    kernel = list(weight.shape[2:])
    window = _Windows(kernel, s, p, d)
    if groups == 1 and _is_pointwise(weight, s, p):
        return _by_products(grad, x).sum(0).reshape(weight.shape)
    if math.prod(kernel) <= _MOST_TAPS:
        if groups == x.shape[1] == grad.shape[1] and groups > 1:
            return _depthwise(grad, x, window).reshape(weight.shape)
        if groups == 1 and x.shape[1] < _FEW_CHANNELS:
            return _by_unfolding(grad, x, window).reshape(weight.shape)
        if groups == 1:
            return _by_taps(grad, x, window).reshape(weight.shape)
    return _by_convolution(grad, x, weight, s, p, d, groups)


@dataclass(frozen=True)
class _Windows:
    """How a kernel moves over a picture; each list has one entry a spatial dimension."""

    kernel: list[int]
    stride: list[int]
    padding: list[int]
    dilation: list[int]

    @property
    def taps(self) -> Iterator[tuple[int, ...]]:
        """The places in the kernel."""
        return itertools.product(*(range(size) for size in self.kernel))

    def padded(self, x: Tensor) -> Tensor:
        """The picture [N, C, …] with its rim of zeros."""
        pads = [side for size in reversed(self.padding) for side in (size, size)]
        padded: Tensor = aten.constant_pad_nd(x, pads, 0.0) if any(pads) else x
        return padded

    def sliced(self, padded: Tensor, n: int, dim: int, offset: int, count: int) -> Tensor:
        """What one place of the kernel meets along spatial dimension n, which is the tensor's ``dim``."""
        first = offset * self.dilation[n]
        last = first + (count - 1) * self.stride[n] + 1
        result: Tensor = aten.slice(padded, dim, first, last, self.stride[n])
        return result

    def met(self, padded: Tensor, tap: tuple[int, ...], counts: Sequence[int], first_dim: int) -> Tensor:
        """What one place of the kernel is multiplied with, all steps in all spatial dimensions."""
        for n, offset in enumerate(tap):
            padded = self.sliced(padded, n, first_dim + n, offset, counts[n])
        return padded


def _by_products(grad: Tensor, x: Tensor) -> Tensor:
    """For each example the products of all channels of grad and x: [N, Cout, Cin]."""
    return torch.bmm(grad.flatten(2), x.flatten(2).transpose(1, 2))


def _by_unfolding(grad: Tensor, x: Tensor, window: _Windows) -> Tensor:
    """[Cout, Cin, taps]: one product an example with everything that the kernel meets, side by side."""
    padded = window.padded(x)
    parts = [window.met(padded, tap, grad.shape[2:], 2) for tap in window.taps]
    found = _by_products(grad, torch.cat(parts, 1)).sum(0)
    return found.reshape(grad.shape[1], len(parts), x.shape[1]).transpose(1, 2)


def _by_taps(grad: Tensor, x: Tensor, window: _Windows) -> Tensor:
    """[Cout, Cin, taps]: one product over all examples and places for each place in the kernel."""
    last = [*range(1, x.dim()), 0]
    padded = window.padded(x).permute(last)
    right = grad.permute(last).reshape(grad.shape[1], -1)
    parts = [window.met(padded, tap, grad.shape[2:], 1).reshape(x.shape[1], -1) for tap in window.taps]
    return torch.stack([torch.mm(right, part.t()) for part in parts]).permute(1, 2, 0)


def _depthwise(grad: Tensor, x: Tensor, window: _Windows) -> Tensor:
    """[C, taps]."""
    if math.prod(grad.shape[2:]) * math.prod(x.shape[2:]) <= _LARGEST_PLANES:
        return _by_planes(grad, x, window)
    if x.dim() == 4 and grad.shape[3] * (x.shape[3] + 2 * window.padding[1]) <= _LARGEST_ROWS:
        return _by_rows(grad, x, window)
    dims = [0, *range(2, x.dim())]
    padded = window.padded(x)
    sums = [(window.met(padded, tap, grad.shape[2:], 2) * grad).sum(dims) for tap in window.taps]
    return torch.stack(sums, 1)


def _by_planes(grad: Tensor, x: Tensor, window: _Windows) -> Tensor:
    """[C, taps] from the products of all places of grad with all places of x, over the examples."""
    right, left = (t.transpose(0, 1).flatten(2) for t in (x, grad))
    products = torch.bmm(left.transpose(1, 2), right).flatten(1)
    met = _meetings(window, grad.shape[2:], x.shape[2:])
    chosen = products.index_select(1, _index([0 if flat is None else flat for flat in met]))
    inside = torch.tensor([float(flat is not None) for flat in met])
    shape = (math.prod(window.kernel), -1)
    return (chosen.reshape(x.shape[1], *shape) * inside.reshape(shape)).sum(2)


def _meetings(window: _Windows, steps: Sequence[int], sizes: Sequence[int]) -> list[int | None]:
    """For each tap and step, tap by tap: the step's number times all places, plus the place of x that is met.

    None where that is in the rim of zeros.
    """
    found: list[int | None] = []
    for tap in window.taps:
        for number, step in enumerate(itertools.product(*(range(count) for count in steps))):
            place = [
                step[n] * window.stride[n] + tap[n] * window.dilation[n] - window.padding[n]
                for n in range(len(tap))
            ]
            flat = number * math.prod(sizes) + sum(p * math.prod(sizes[n + 1 :]) for n, p in enumerate(place))
            inside = all(0 <= p < size for p, size in zip(place, sizes, strict=True))
            found.append(flat if inside else None)
    return found


def _by_rows(grad: Tensor, x: Tensor, window: _Windows) -> Tensor:
    """[C, taps] from the products of all columns of grad with all of x, over the examples and rows."""
    channels, (height, width) = x.shape[1], grad.shape[2:]
    padded = window.padded(x).transpose(0, 1)
    columns = padded.shape[3]
    left = grad.transpose(0, 1).reshape(channels, -1, width).transpose(1, 2)
    picked = [
        w * columns + w * window.stride[1] + tap * window.dilation[1]
        for tap in range(window.kernel[1])
        for w in range(width)
    ]
    index = _index(picked)
    rows = []
    for tap in range(window.kernel[0]):
        right = window.sliced(padded, 0, 2, tap, height).reshape(channels, -1, columns)
        chosen = torch.bmm(left, right).flatten(1).index_select(1, index)
        rows.append(chosen.reshape(channels, window.kernel[1], width).sum(2))
    return torch.stack(rows, 1)


def _index(numbers: list[int]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


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
    by_channel = _convolved(swapped, grad.transpose(0, 1), d, p, s, groups)
    for n in range(len(s)):  # rows of x that no window reached
        by_channel = by_channel.narrow(2 + n, 0, weight.shape[2 + n])
    return by_channel.transpose(0, 1)
