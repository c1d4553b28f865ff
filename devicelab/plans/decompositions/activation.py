"""Activations and their gradients in as few passes over memory as ONNX Runtime allows.

Gradients of those with a kink are products with a mask: PyTorch's own use ``where``, which takes ONNX Runtime
six times as long. For finite gradients the two are equal (a zero may have another sign).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch._decomp import decompositions

from devicelab.plans.decompositions.normalization import affine

__all__ = ["gelu", "gelu_backward", "hardtanh_backward", "leaky_relu_backward", "safe_softmax"]

aten = torch.ops.aten


def hardtanh_backward(grad: Tensor, x: Tensor, min_val: float, max_val: float) -> Tensor:
    """Gradient of hardtanh and ReLU6: through strictly between the limits."""
    return grad * ((x > min_val) & (x < max_val)).to(grad.dtype)


def leaky_relu_backward(
    grad: Tensor,
    x: Tensor,
    negative_slope: float,
    self_is_result: bool,
) -> Tensor:
    """Gradient of leaky ReLU: all of it above zero, a part below."""
    del self_is_result  # the sign is the same
    above = (x > 0).to(grad.dtype)
    return grad * (above + (1 - above) * negative_slope)


def _normal_distribution(x: Tensor) -> Tensor:
    """Φ, as half of 1 + erf(x/√2)."""
    return affine(torch.erf(x * math.sqrt(0.5)), 0.5, 0.5)


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """x·Φ(x) (Hendrycks & Gimpel 2016), exact or by tanh."""
    if approximate == "tanh":
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))
        return x * 0.5 * (1 + torch.tanh(inner))
    return x * _normal_distribution(x)


def gelu_backward(grad: Tensor, x: Tensor, approximate: str = "none") -> Tensor:
    """Φ(x) + x·φ(x), with the normal density's factor in its exponent."""
    if approximate == "tanh":
        result: Tensor = decompositions.gelu_backward(grad, x, approximate)
        return result
    density = torch.exp(affine(x * x, -0.5, -0.5 * math.log(2 * math.pi)))
    return grad * (_normal_distribution(x) + x * density)


def safe_softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Softmax that is zero where a whole row is minus infinity, as attention with masks wants it.

    PyTorch's own takes the softmax and then looks for such rows, with a ``where``.
    """
    x = x if dtype is None else x.to(dtype)
    top = x.amax(dim, keepdim=True).clamp(min=torch.finfo(x.dtype).min)
    powers = torch.exp(x - top)
    total = powers.sum(dim, keepdim=True)
    return powers / (total + (total == 0).to(x.dtype))
