"""Batch norm in training, with its running statistics.

Source: Ioffe & Szegedy 2015, algorithm 1; the backward pass is its derivative with the sums shared. With
a = weight/std, the gradient of x is a·(g - mean(g) - (x - mean)·sum(g·(x - mean))/(n·var)). A tensor is read as
seldom as possible, because on an engine without fused kernels every operator is a pass over memory: forwards
the engine's own batch norm is three times as fast as its parts, and backwards it serves once more, as the only
operator that multiplies and adds in one pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["batch_norm", "batch_norm_backward"]

aten = torch.ops.aten


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
            zero, one = torch.zeros_like(level), torch.ones_like(level)
            of_x = (
                of_x - aten._native_batch_norm_legit_no_training(centred, slope, level, zero, one, 0.0, 0.0)[0]
            )
    return of_x, (correlation * rstd if mask[1] else None), (of_bias if mask[2] else None)
