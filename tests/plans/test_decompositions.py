"""What operators are made of computes what PyTorch's own kernels do."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name that everybody uses
from torch import Tensor, nn

from devicelab.errors import PlanError
from devicelab.plans.check import VALUE_TOLERANCE
from devicelab.plans.decompositions import activation, convolution, indexing, normalization, pooling
from devicelab.plans.engine import Engine
from devicelab.plans.export import build_plan
from devicelab.plans.optimizers import SGD
from devicelab.plans.plan import Batch, TrainingPlan
from devicelab.plans.reader import read_plan_bytes

aten = torch.ops.aten


def _random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _close(ours: Any, theirs: Any) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * max(1.0, float(b.abs().max())))


# Sizes, then channels in and out, kernel, stride, padding, dilation and groups.
_LAYERS = {
    "pointwise": ((9, 9), 12, 20, 1, 1, 0, 1, 1),
    "pointwise, strided": ((9, 9), 12, 20, 1, 2, 0, 1, 1),
    "few channels": ((12, 12), 1, 6, 5, 1, 2, 1, 1),
    "many channels": ((11, 11), 9, 7, 3, 2, 1, 1, 1),
    "dilated": ((13, 13), 9, 7, 3, 1, 2, 2, 1),
    "depthwise, small": ((8, 8), 6, 6, 3, 1, 1, 1, 6),
    "depthwise, small and strided": ((9, 9), 6, 6, 3, 2, 1, 1, 6),
    "depthwise, no rim": ((7, 7), 4, 4, 2, 1, 0, 1, 4),
    "depthwise, middling": ((20, 24), 4, 4, 3, 2, 1, 1, 4),
    "depthwise, middling and dilated": ((20, 24), 4, 4, 3, 1, 2, 2, 4),
    "depthwise, large": ((20, 90), 3, 3, 3, 1, 1, 1, 3),
    "depthwise, a line": ((40,), 5, 5, 3, 2, 1, 1, 5),
    "a line": ((30,), 9, 4, 5, 2, 2, 1, 1),
    "a space": ((6, 6, 6), 2, 3, 2, 1, 1, 1, 1),
    "groups": ((10, 10), 6, 9, 3, 2, 1, 1, 3),
    "a large kernel": ((16, 16), 3, 4, 7, 2, 3, 1, 1),
}


@pytest.mark.parametrize("layer", _LAYERS)
def test_convolutions_backwards(layer: str) -> None:
    sizes, cin, cout, kernel, stride, padding, dilation, groups = _LAYERS[layer]
    n = len(sizes)
    x, weight = _random(5, cin, *sizes), _random(cout, cin // groups, *[kernel] * n, seed=2)
    settings = ([stride] * n, [padding] * n, [dilation] * n)
    grad = _random(*aten.convolution(x, weight, None, *settings, False, [0] * n, groups).shape, seed=3)
    arguments = (grad, x, weight, [cout], *settings, False, [0] * n, groups, [True] * 3)
    _close(convolution.convolution_backward(*arguments), aten.convolution_backward(*arguments))


def test_transposed_convolutions_backwards() -> None:
    x, weight = _random(3, 4, 6, 6), _random(4, 5, 3, 3, seed=2)
    rest = ([2, 2], [1, 1], [1, 1], True, [1, 1], 1)
    grad = _random(*aten.convolution(x, weight, None, *rest).shape, seed=3)
    arguments = (grad, x, weight, [5], *rest, [True] * 3)
    _close(convolution.convolution_backward(*arguments), aten.convolution_backward(*arguments))


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 0)])
def test_average_pooling_backwards(kernel: int, stride: int, padding: int) -> None:
    x = _random(2, 3, 8, 8)
    rest = ([kernel], [stride], [padding], False, True, None)
    grad = _random(*aten.avg_pool2d(x, *rest).shape, seed=3)
    _close([pooling.avg_pool2d_backward(grad, x, *rest)], [aten.avg_pool2d_backward(grad, x, *rest)])
    with pytest.raises(PlanError, match="ceil_mode"):
        pooling.avg_pool2d_backward(grad, x, [kernel], [stride], [padding], True, True, None)


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 5, 5)])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_and_back(shape: tuple[int, ...], affine: bool) -> None:
    x, grad = _random(*shape) * 3 + 2, _random(*shape, seed=2)
    weight, bias = (_random(4, seed=3), _random(4, seed=4)) if affine else (None, None)
    statistics = _random(4), torch.ones(4)
    (mean, var), theirs = ([s.clone() for s in statistics] for _ in range(2))
    found = normalization.batch_norm(x, weight, bias, mean, var, True, 0.2, 1e-4)
    right = aten.native_batch_norm(x, weight, bias, *theirs, True, 0.2, 1e-4)
    _close([*found, mean, var], [*right, *theirs])
    mask = [True, affine, affine]
    backwards: tuple[Any, ...] = (grad, x, weight, mean, var, *right[1:], True, 1e-4, mask)
    _close(normalization.batch_norm_backward(*backwards), aten.native_batch_norm_backward(*backwards))
    frozen: tuple[Any, ...] = (grad, x, weight, mean, var, None, None, False, 1e-4, mask)
    _close(normalization.batch_norm_backward(*frozen), aten.native_batch_norm_backward(*frozen))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [[7], [3, 7]])
def test_layer_norm_backwards(shape: list[int], affine: bool) -> None:
    x, grad = _random(4, 5, 3, 7) * 2 + 1, _random(4, 5, 3, 7, seed=2)
    weight, bias = (_random(*shape, seed=3), _random(*shape, seed=4)) if affine else (None, None)
    _, mean, rstd = aten.native_layer_norm(x, shape, weight, bias, 1e-5)
    arguments = (grad, x, shape, mean, rstd, weight, bias, [True, affine, affine])
    _close(normalization.layer_norm_backward(*arguments), aten.native_layer_norm_backward(*arguments))


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gelu_and_back(approximate: str, dtype: torch.dtype) -> None:
    x, grad = (_random(40, 5) * 4).to(dtype), _random(40, 5, seed=2).to(dtype)
    _close([activation.gelu(x, approximate)], [aten.gelu(x, approximate=approximate)])
    _close(
        [activation.gelu_backward(grad, x, approximate)], [aten.gelu_backward(grad, x, approximate=approximate)]
    )


def test_kinks_backwards() -> None:
    x, grad = torch.tensor([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0]), torch.arange(1.0, 7.0)
    _close([activation.hardtanh_backward(grad, x, -1.0, 1.0)], [aten.hardtanh_backward(grad, x, -1.0, 1.0)])
    _close(
        [activation.leaky_relu_backward(grad, x, 0.1, False)], [aten.leaky_relu_backward(grad, x, 0.1, False)]
    )


def test_softmax_of_rows_that_are_masked_in_part_or_whole() -> None:
    x = _random(6, 5) * 10
    x[0, 2:], x[1] = -torch.inf, -torch.inf
    x[2, 0] = 1e4
    for dim in (0, 1):
        _close([activation.safe_softmax(x, dim)], [aten._safe_softmax(x, dim)])


@pytest.mark.parametrize(("dim", "index"), list(itertools.product((0, 1, -1), (0, 2, -1))))
def test_selecting_backwards(dim: int, index: int) -> None:
    sizes = [4, 5, 6]
    grad = _random(*[size for n, size in enumerate(sizes) if n != dim % 3])
    _close([indexing.select_backward(grad, sizes, dim, index)], [aten.select_backward(grad, sizes, dim, index)])


class _Shift(nn.Module):
    """Its gradient tells who won in each window."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift


class _Pooled(TrainingPlan):
    """Coarse pictures, so that there are ties in every window."""

    name = "pooled"
    optimizer = SGD(lr=0.5)

    def __init__(self, *layers: nn.Module) -> None:
        self.layers = layers

    def module(self) -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(_Shift(), *self.layers, nn.Flatten(), nn.LazyLinear(3))
        model(torch.zeros(1, 1, 8, 8))
        return model

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(model(batch["x"]), batch["y"])

    def example_batch(self) -> Batch:
        generator = torch.Generator().manual_seed(5)
        x = torch.randint(-2, 2, (16, 1, 8, 8), generator=generator).float()
        return {"x": x, "y": torch.randint(3, (16,), generator=generator)}


@pytest.mark.parametrize(
    ("layers", "operators"),
    [
        ([nn.MaxPool2d(2)], {"Resize": 3}),
        ([nn.ReLU(), nn.MaxPool2d((4, 2))], {"Resize": 3}),
        ([nn.MaxPool2d(3, 2, 1)], {"ScatterElements": 2}),
        ([nn.ReLU(), nn.MaxPool2d(3, 1)], {"ScatterElements": 2}),
        ([nn.MaxPool2d(3)], {"ScatterElements": 2}),
    ],
)
def test_of_equals_the_first_wins(layers: list[nn.Module], operators: dict[str, int]) -> None:
    exported = build_plan(_Pooled(*layers))  # compares with eager PyTorch
    assert exported.difference.relative <= VALUE_TOLERANCE
    found = Counter(node.op_type for node in read_plan_bytes(exported.onnx).model.graph.node)
    assert operators.items() <= found.items()
    assert found["MaxPool"] == (2 if "Resize" in operators else 1)


def test_relus_mask_comes_before_unpooling() -> None:
    """The only comparison with a threshold is as small as the pooled picture."""
    model = read_plan_bytes(build_plan(_Pooled(nn.ReLU(), nn.MaxPool2d(4))).onnx).model
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    sizes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim][1:] for v in inferred.value_info}
    (greater,) = [node for node in inferred.node if node.op_type == "Greater"]
    assert sizes[greater.output[0]] == [1, 2, 2]


class _Normalized(_Pooled):
    def __init__(self, *layers: nn.Module, frozen: bool = False) -> None:
        super().__init__(*layers)
        self.frozen = frozen

    def module(self) -> nn.Module:
        model = super().module()
        for layer in model.modules():
            if self.frozen and isinstance(layer, nn.BatchNorm2d):
                layer.register_forward_pre_hook(lambda module, _: module.eval() and None)
        return model


@pytest.mark.parametrize(
    ("layer", "frozen"),
    [
        (nn.BatchNorm2d(1), False),
        (nn.BatchNorm2d(1, affine=False), False),
        (nn.BatchNorm2d(1, track_running_stats=False), False),
        (nn.BatchNorm2d(1, affine=False, track_running_stats=False), False),
        (nn.BatchNorm2d(1), True),
        (nn.InstanceNorm2d(1, affine=True), False),
    ],
)
def test_batch_norm_in_all_its_forms(layer: nn.Module, frozen: bool) -> None:
    plan = _Normalized(layer, nn.Tanh(), frozen=frozen)
    assert build_plan(plan).difference.relative <= VALUE_TOLERANCE
    assert build_plan(plan, "evaluate").difference.relative <= VALUE_TOLERANCE


def test_one_example_of_a_vector_has_no_variance_but_finite_statistics() -> None:
    class Vectors(_Pooled):
        def module(self) -> nn.Module:
            torch.manual_seed(0)
            return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))

        def example_batch(self) -> Batch:
            return {"x": _random(16, 4), "y": torch.randint(3, (16,))}

    exported = build_plan(Vectors())
    feeds = dict(exported.initial) | {
        "data/x": np.ones((1, 4), np.float32),
        "data/y": np.zeros(1, np.int64),
        "hyper/lr": np.float32(0.1),
    }
    results = Engine(exported.onnx).run({name: np.asarray(value) for name, value in feeds.items()})
    assert all(np.isfinite(value).all() for value in results.values())
