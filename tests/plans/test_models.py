"""Models that are in no zoo, written after the exporter was: they export too, or are refused with a reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name that everybody uses
from torch import Tensor, nn

from devicelab.errors import PlanError
from devicelab.plans.check import VALUE_TOLERANCE
from devicelab.plans.export import build_plan
from devicelab.plans.optimizers import SGD, Adam, Optimizer
from devicelab.plans.plan import Batch, TrainingPlan


class Simple(TrainingPlan):
    """A plan out of a module, some inputs and a loss."""

    name = "simple"

    def __init__(
        self,
        module: Callable[[], nn.Module],
        inputs: Mapping[str, Tensor],
        loss: Callable[[nn.Module, Batch], Tensor],
        optimizer: Optimizer | None = None,
    ) -> None:
        self._module, self._inputs, self._loss = module, inputs, loss
        self.optimizer = optimizer or SGD(lr=0.05, momentum=0.9)

    def module(self) -> nn.Module:
        torch.manual_seed(0)
        return self._module()

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return self._loss(model, batch)

    def example_batch(self) -> Batch:
        return self._inputs


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def _ints(high: int, *shape: int) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(2))


def _classified(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"])


class DLRM(nn.Module):
    """Several tables, a dense tower, and the products of all pairs (Naumov et al. 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(n, 8) for n in (50, 400, 90))
        self.bottom = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU())
        self.top = nn.Sequential(nn.Linear(8 + 6, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, dense: Tensor, sparse: Tensor) -> Tensor:
        bottom = self.bottom(dense)
        features = torch.stack([bottom, *(t(sparse[:, n]) for n, t in enumerate(self.tables))], 1)
        pairs = features @ features.transpose(1, 2)
        row, column = torch.triu_indices(4, 4, offset=1)
        score: Tensor = self.top(torch.cat([bottom, pairs[:, row, column]], 1))
        return score.squeeze(1)


class Residual(nn.Module):
    """A residual network with strides, shortcuts, overlapping pooling and in-place ReLU (He et al. 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.a = nn.Sequential(
            nn.Conv2d(8, 16, 3, 2, 1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(inplace=True),
            nn.Conv2d(16, 16, 3, 1, 1, bias=False),
            nn.BatchNorm2d(16),
        )
        self.shortcut = nn.Conv2d(8, 16, 1, 2, bias=False)
        self.out = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.stem(x), inplace=True))
        y = self.a(x)
        y += self.shortcut(x)
        score: Tensor = self.out(F.relu(y).mean((2, 3)))
        return score


class BiLSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 6, padding_idx=0)
        self.lstm = nn.LSTM(6, 7, batch_first=True, bidirectional=True)
        self.out = nn.Linear(14, 4)

    def forward(self, words: Tensor) -> Tensor:
        states, _ = self.lstm(self.embedding(words))
        score: Tensor = self.out(states.amax(1))
        return score


class Tied(nn.Module):
    """The table that reads words also writes them (Press & Wolf 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(25, 8)
        self.mix = nn.Linear(8, 8)
        self.out = nn.Linear(8, 25, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, words: Tensor) -> Tensor:
        score: Tensor = self.out(torch.tanh(self.mix(self.embedding(words).mean(1))))
        return score


class TwoTowers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.LayerNorm(8))
        self.right = nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.SiLU(), nn.Flatten(), nn.Linear(20, 8))

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return F.normalize(self.left(a), dim=1), F.normalize(self.right(b), dim=1)


def _contrastive(model: nn.Module, batch: Batch) -> Tensor:
    """Every example's own partner against all others in the batch: the graph holds a square of the batch."""
    left, right = model(batch["a"], batch["b"])
    logits = left @ right.t() / 0.2
    target = torch.arange(logits.shape[0])
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.t(), target)) / 2


class Encoder(nn.Module):
    """PyTorch's own transformer layer, with dropout and a padding mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8, padding_idx=0)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.out = nn.Linear(8, 4)

    def forward(self, words: Tensor) -> Tensor:
        states = self.encoder(self.embedding(words), src_key_padding_mask=words == 0)
        score: Tensor = self.out(states[:, 0])
        return score


class Decoder(nn.Module):
    """Transposed convolutions, upsampling, group norm: the picture given back."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv2d(1, 4, 3, 2, 1), nn.GroupNorm(2, 4), nn.LeakyReLU(0.1), nn.AvgPool2d(2)
        )
        self.up = nn.Sequential(
            nn.ConvTranspose2d(4, 4, 2, 2),
            nn.ELU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(4, 1, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        picture: Tensor = self.up(self.down(x))
        return picture


def _reconstruction(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch["x"]), batch["x"])


def _dlrm_loss(model: nn.Module, batch: Batch) -> Tensor:
    return F.binary_cross_entropy_with_logits(model(batch["dense"], batch["sparse"]), batch["y"])


_WORDS = {"x": _ints(19, 16, 6) + 1, "y": _ints(4, 16)}
MODELS: dict[str, Callable[[], Simple]] = {
    "dlrm": lambda: Simple(
        DLRM,
        {"dense": _random(16, 5), "sparse": _ints(50, 16, 3), "y": _ints(2, 16).float()},
        _dlrm_loss,
        SGD(lr=0.1),
    ),
    "residual": lambda: Simple(Residual, {"x": _random(16, 3, 12, 12), "y": _ints(4, 16)}, _classified),
    "bilstm": lambda: Simple(BiLSTM, {"x": _ints(30, 16, 6), "y": _ints(4, 16)}, _classified),
    "tied": lambda: Simple(Tied, {"x": _ints(25, 16, 4), "y": _ints(25, 16)}, _classified, SGD(lr=0.1)),
    "two towers": lambda: Simple(
        TwoTowers, {"a": _random(16, 6), "b": _random(16, 2, 5)}, _contrastive, Adam(lr=0.01)
    ),
    "encoder": lambda: Simple(Encoder, _WORDS, _classified, Adam(lr=0.01)),
    "decoder": lambda: Simple(Decoder, {"x": _random(16, 1, 8, 8).sigmoid()}, _reconstruction),
}


@pytest.mark.parametrize("name", MODELS)
def test_it_exports(name: str) -> None:
    plan = build_plan(MODELS[name]())
    assert plan.difference.relative <= 10 * VALUE_TOLERANCE
    build_plan(MODELS[name](), "evaluate")


def test_dlrms_tables_are_scattered_into() -> None:
    in_place = [o.name for o in build_plan(MODELS["dlrm"]()).signature.outputs if o.in_place]
    assert in_place == [f"new/param/tables.{n}.weight" for n in range(3)]


def test_a_tied_table_is_not() -> None:
    plan = build_plan(MODELS["tied"]())
    assert [i.name for i in plan.signature.inputs if "weight" in i.name] == [
        "param/embedding.weight",
        "param/mix.weight",
    ]
    assert not any(o.in_place for o in plan.signature.outputs)


class _Determinant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3))

    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = torch.linalg.svdvals(self.weight * x[:, :, None])
        return values.sum(1)


class _Branching(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if y.sum() > 0:  # the line
            y = y * 2
        return y


class _Counting(nn.Linear):
    limit: ClassVar = 12

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y * 2 if x.shape[0] > self.limit else y


class _Permuting(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[torch.randperm(x.shape[0])])


def _mean(model: nn.Module, batch: Batch) -> Tensor:
    score: Tensor = model(batch["x"])
    return (score * score).mean()


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (_Determinant, [r"aten\._linalg_svd", r"test_models\.py:\d+ in forward", "cannot be written as ONNX"]),
        (lambda: _Branching(3, 3), ["cannot be traced", r"test_models\.py:\d+ in forward"]),
        (lambda: _Counting(3, 3), ["another program for another number of examples"]),
        (lambda: _Permuting(3, 3), ["aten.randperm", "which no plan can repeat"]),
    ],
)
def test_what_cannot_be_exported_is_named(module: Callable[[], nn.Module], words: list[str]) -> None:
    with pytest.raises(PlanError) as caught:
        build_plan(Simple(module, {"x": _random(16, 3)}, _mean))
    for word in words:
        caught.match(word)
    assert caught.value.exit_code == 5
    assert caught.value.hint


def test_a_plan_that_depends_on_the_batch_can_have_a_fixed_one() -> None:
    plan = Simple(lambda: _Counting(3, 3), {"x": _random(16, 3)}, _mean)
    plan.fixed_batch = True
    built = build_plan(plan)
    assert built.signature.batch == 16
    assert built.signature.inputs[-2].shape == (16, 3)


def test_a_loss_that_is_no_scalar_is_refused() -> None:
    plan = Simple(lambda: nn.Linear(3, 3), {"x": _random(16, 3)}, lambda m, b: m(b["x"]))
    with pytest.raises(PlanError, match=r"the loss must be a scalar tensor, it is of shape \[\d+, 3\]"):
        build_plan(plan)


def test_a_loss_without_parameters_is_refused() -> None:
    plan = Simple(lambda: nn.Linear(3, 3), {"x": _random(16, 3)}, lambda m, b: b["x"].sum())
    with pytest.raises(PlanError, match="does not depend on any trainable parameter"):
        build_plan(plan)


def test_frozen_parameters_stay_as_they_are() -> None:
    def module() -> nn.Module:
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        model[0].weight.requires_grad_(False)
        return model

    signature = build_plan(Simple(module, {"x": _random(16, 3)}, _mean)).signature
    assert "param/0.weight" in {i.name for i in signature.inputs}
    assert "param/0.weight" not in signature.replacements.values()
    assert "param/2.weight" in signature.replacements.values()
