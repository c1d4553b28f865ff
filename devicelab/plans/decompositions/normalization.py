"""Batch norm in training, with its running statistics.

Source: Ioffe & Szegedy 2015, algorithm 1; the backward pass is its derivative with the sums shared. With
a = weight/std, the result is a·(x - mean) + bias and the gradient of x is
a·(g - mean(g) - (x - mean)·sum(g·(x - mean))/(n·var)): a tensor is read as seldom as possible, because on an
engine without fused kernels every operator is a pass over memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["batch_norm", "batch_norm_backward", "batch_norm_no_stats", "batch_norm_no_training"]


def _layout(x: Tensor) -> tuple[list[int], list[int], int]:
    """The dimensions that are averaged over, a channel's shape in x, and how many numbers a channel has."""
    dims = [0, *range(2, x.dim())]
    return dims, [1, -1] + [1] * (x.dim() - 2), x.numel() // x.shape[1]


def batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The normalized tensor, the batch's mean and 1/std.

    In training the running statistics are changed in place.

    Shapes: ``x`` [N, C, …], all others [C].
    """
    dims, channel, count = _layout(x)
    if not training:
        assert running_mean is not None
        assert running_var is not None
        scale = torch.rsqrt(running_var + eps)
        a = scale if weight is None else scale * weight
        shift = -running_mean * a if bias is None else bias - running_mean * a
        return x * a.reshape(channel) + shift.reshape(channel), x.new_empty(0), x.new_empty(0)
    mean = x.mean(dims)
    centred = x - mean.reshape(channel)
    var = (centred * centred).mean(dims)
    rstd = torch.rsqrt(var + eps)
    if running_mean is not None and running_var is not None:
        n = torch.full((), float(count), dtype=x.dtype)
        running_mean.copy_((1 - momentum) * running_mean + momentum * mean)
        running_var.copy_((1 - momentum) * running_var + momentum * (var * (n / (n - 1))))
    a = rstd if weight is None else rstd * weight
    y = centred * a.reshape(channel)
    return (y if bias is None else y + bias.reshape(channel)), mean, rstd


def batch_norm_no_stats(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same for a layer without running statistics."""
    assert training
    return batch_norm(x, weight, bias, None, None, True, momentum, eps)


def batch_norm_no_training(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same with fixed statistics."""
    return batch_norm(x, weight, bias, running_mean, running_var, False, momentum, eps)


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
    dims, channel, count = _layout(x)
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
            of_x = of_x - (centred * slope.reshape(channel) + level.reshape(channel))
    return of_x, (correlation * rstd if mask[1] else None), (of_bias if mask[2] else None)
