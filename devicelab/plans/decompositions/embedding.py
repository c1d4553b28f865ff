"""Gradients of embedding tables: the rows' gradients added up where they were looked up."""

from __future__ import annotations

import torch
from torch import Tensor

from devicelab.errors import PlanError

__all__ = ["embedding_dense_backward"]


def embedding_dense_backward(
    grad: Tensor,
    indices: Tensor,
    num_weights: int,
    padding_idx: int,
    scale_grad_by_freq: bool,
) -> Tensor:
    """Gradient of the table [num_weights, width]; ``grad`` is [*indices.shape, width].

    Written as one accumulating index_put into zeros, which the clean-up turns into a scatter into the table
    itself where the optimizer allows it.
    """
    if scale_grad_by_freq:
        raise PlanError("embeddings with scale_grad_by_freq cannot be exported", hint="leave that option out")
    if padding_idx >= 0:
        grad = grad * (indices != padding_idx).unsqueeze(-1).to(grad.dtype)
    width = grad.shape[-1]
    table = torch.zeros((num_weights, width), dtype=grad.dtype)
    return torch.ops.aten.index_put(table, [indices.reshape(-1)], grad.reshape(-1, width), True)  # type: ignore[no-any-return] # operators are untyped
