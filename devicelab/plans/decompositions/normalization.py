"""Batch norm in training, with its running statistics; and the gradients of batch norm and layer norm.

Sources: Ioffe & Szegedy 2015, algorithm 1; Ba, Kiros & Hinton 2016. The backward passes are their derivatives
with the sums shared: with a = weight/std, the gradient of batch norm's x is
a·(g - mean(g) - (x - mean)·sum(g·(x - mean))/(n·var)). A tensor is read as seldom as possible, because on an
engine without fused kernels every operator is a pass over memory: forwards the engine's own batch norm is three
times as fast as its parts, and backwards it serves once more, as the only operator that multiplies and adds in
one pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["affine", "batch_norm", "batch_norm_backward", "layer_norm_backward"]

aten = torch.ops.aten


def _scaled(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x·scale + shift, a channel (dimension 1) each, in one pass over memory."""
    zero, one = torch.zeros_like(shift), torch.ones_like(shift)
    result: Tensor = aten._native_batch_norm_legit_no_training(x, scale, shift, zero, one, 0.0, 0.0)[0]
    return result


def affine(x: Tensor, scale: float, shift: float) -> Tensor:
    """x·scale + shift in one pass over memory."""
    if x.dtype != torch.float32:
        return x * scale + shift
    numbers = (torch.full((1,), number) for number in (scale, shift))
    return _scaled(x.reshape(1, 1, -1), *numbers).reshape(x.shape)


def batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The normalized tensor, the batch's mean and 1/std.

    In training the running statistics are changed in place.

    Shapes: ``x`` [N, C, …], all others [C].
    """
    if not training:
        result: tuple[Tensor, Tensor, Tensor] = aten._native_batch_norm_legit_no_training(
            x, weight, bias, running_mean, running_var, momentum, eps
        )
        return result
    y, mean, rstd, new_mean, new_var = aten._native_batch_norm_legit_functional(
        x, weight, bias, running_mean, running_var, True, momentum, eps
    )
    running_mean.copy_(new_mean)
    running_var.copy_(new_var)
    return y, mean, rstd


def batch_norm_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    mean: Tensor | None,
    rstd: Tensor | None,
    train: bool,
    eps: float,
    mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x, weight and bias, each if the mask asks for it."""
    dims, channel, count = [0, *range(2, x.dim())], [1, -1] + [1] * (x.dim() - 2), x.numel() // x.shape[1]
    if not train:  # a frozen layer in a model that is trained
        assert running_mean is not None
        assert running_var is not None
        mean, rstd = running_mean, torch.rsqrt(running_var + eps)
    assert mean is not None
    assert rstd is not None
    centred = x - mean.reshape(channel)
    of_bias = grad.sum(dims)
    correlation = (grad * centred).sum(dims)
    a = rstd if weight is None else rstd * weight
    of_x = None
    if mask[0]:
        of_x = grad * a.reshape(channel)
        if train:
            slope = a * rstd * rstd * correlation / count
            level = a * of_bias / count
            of_x = of_x - _scaled(centred, slope, level)
    return of_x, (correlation * rstd if mask[1] else None), (of_bias if mask[2] else None)


def layer_norm_backward(
    grad: Tensor,
    x: Tensor,
    normalized_shape: Sequence[int],
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x, weight and bias, each if the mask asks for it.

    Shapes: ``x`` and ``grad`` [..., *normalized_shape], ``mean`` and ``rstd`` [..., 1, ...].
    """
    del bias
    size = math.prod(normalized_shape)
    g, rows = grad.reshape(-1, size), x.reshape(-1, size)
    mean, rstd = mean.reshape(-1, 1), rstd.reshape(-1, 1)
    normal = (rows - mean) * rstd
    correlation = g * normal
    of_x = None
    if mask[0]:
        w = torch.ones(size) if weight is None else weight.reshape(-1)
        share = w.reshape(-1, 1) / size
        level, slope = torch.mm(g, share), torch.mm(correlation, share)  # sums over a row, times the weights
        weighted = g if weight is None else g * w
        of_x = ((weighted - level - normal * slope) * rstd).reshape(x.shape)
    of_weight = correlation.sum(0).reshape(list(normalized_shape)) if mask[1] else None
    return of_x, of_weight, (g.sum(0).reshape(list(normalized_shape)) if mask[2] else None)
