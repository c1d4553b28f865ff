"""How operators that no engine knows are made of ones it does, a family a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final

import torch
from torch._decomp import core_aten_decompositions, get_decompositions

from devicelab.plans.decompositions.activation import (
    gelu,
    gelu_backward,
    hardtanh_backward,
    leaky_relu_backward,
    safe_softmax,
)
from devicelab.plans.decompositions.convolution import convolution_backward
from devicelab.plans.decompositions.embedding import embedding_dense_backward
from devicelab.plans.decompositions.indexing import select_backward
from devicelab.plans.decompositions.normalization import batch_norm, batch_norm_backward, layer_norm_backward
from devicelab.plans.decompositions.pooling import avg_pool2d_backward

__all__ = ["decomposition_table"]

aten = torch.ops.aten
Table = dict[Any, Callable[..., Any]]

# PyTorch would take these apart, but ONNX has them whole, or it matters how they are taken apart.
_KEPT: Final = (
    aten.addmm.default,
    aten._log_softmax.default,
    aten._softmax.default,
    aten.native_layer_norm.default,
    aten._native_batch_norm_legit.no_stats,
    aten._native_batch_norm_legit_functional.default,
    aten._native_batch_norm_legit_no_training.default,
    aten.max_pool2d_with_indices_backward.default,
    aten.threshold_backward.default,
    aten.relu.default,
    aten.hardtanh.default,
    aten.leaky_relu.default,
    aten.elu.default,
    aten.masked_fill.Scalar,
    aten.stack.default,
    aten.upsample_nearest2d.default,
)


_OURS: Final[Table] = {
    aten.hardtanh_backward.default: hardtanh_backward,
    aten.leaky_relu_backward.default: leaky_relu_backward,
    aten.gelu.default: gelu,
    aten.gelu_backward.default: gelu_backward,
    aten._safe_softmax.default: safe_softmax,
    aten.select_backward.default: select_backward,
    aten.native_layer_norm_backward.default: layer_norm_backward,
    aten.convolution_backward.default: convolution_backward,
    aten.embedding_dense_backward.default: embedding_dense_backward,
    aten._native_batch_norm_legit.default: batch_norm,
    aten.native_batch_norm.default: batch_norm,
    aten.native_batch_norm_backward.default: batch_norm_backward,
    aten.avg_pool2d_backward.default: avg_pool2d_backward,
}


@cache
def decomposition_table() -> Mapping[Any, Callable[..., Any]]:
    """All decompositions used in tracing: PyTorch's core set, less what is kept, plus ours."""
    table: Table = dict(core_aten_decompositions())
    for op in _KEPT:
        table.pop(op, None)
    table.update(_OURS)
    table.update(
        get_decompositions(
            [
                aten.native_dropout_backward.default,
                aten.native_group_norm.default,
                aten.native_group_norm_backward.default,
            ]
        )
    )
    return table
