"""Recommenders that go by the order of things: what somebody took up, and what came next.

The data are those of :mod:`devicelab.data.histories`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everybody uses
from torch import Tensor, nn

from devicelab.plans.optimizers import SGD, Optimizer
from devicelab.plans.plan import Batch, TrainingPlan

__all__ = ["DecayedHistories"]

_EXCLUDED: Final = -1e9  # added to a score; no softmax notices what is left of it
_TOP: Final = 10
_RECALLED: Final = 20
_PROTOCOLS: Final = ("a", "b")


class _Decayed(nn.Module):
    """Scores of all items, from a weighted mean of the factors of those before; linear in everything.

    Args:
        items: How many there are.
        width: Factors of an item.
        horizons: For each weighting, after how many items a weight has fallen to 1/e; None: never.
        scale: Standard deviation of the first factors.
    """

    def __init__(self, items: int, width: int, horizons: Sequence[float | None], scale: float) -> None:
        super().__init__()
        self.horizons = tuple(horizons)
        self.watched = nn.Embedding(items, width)
        self.score = nn.Linear(width, items)
        self.mix = nn.Parameter(torch.full((len(self.horizons), width), len(self.horizons) ** -0.5))
        nn.init.normal_(self.watched.weight, std=scale)
        nn.init.normal_(self.score.weight, std=scale)
        nn.init.zeros_(self.score.bias)

    def forward(self, factors: Tensor, age: Tensor, past: Tensor) -> Tensor:
        """Scores [queries, items].

        Args:
            factors: Of the items before: ``watched`` of them, [places, width] or [queries, places, width].
            age: How many came between each of them and the query, [queries, places].
            past: Whether it did come before, [queries, places].
        """
        weights = torch.stack([self._weights(age, past, horizon) for horizon in self.horizons], dim=1)
        length = (weights * weights).sum(-1, keepdim=True).sqrt()
        means = (weights / length.clamp(min=1e-6)).to(factors.dtype) @ factors  # [queries, horizons, width]
        scores: Tensor = self.score((means * self.mix).sum(1))
        return scores

    @staticmethod
    def _weights(age: Tensor, past: Tensor, horizon: float | None) -> Tensor:
        here = past.to(torch.float32)
        if horizon is None:
            return here
        return here * torch.exp(age.clamp(min=0).to(torch.float32) * (-1.0 / horizon))


class DecayedHistories(TrainingPlan):
    """The next item from exponentially decayed histories: a linear model of the order in which things happen.

    score = W_out · Σ_k a_k ⊙ (W_in · x_k) + b, where x_k is what was taken up so far, weighted by
    exp(-age / horizon_k) and scaled to length 1. It is FISM's item-item factorization (Kabbur, Ning & Karypis
    2013) with a sense of time, trained like a multinomial autoencoder (Liang et al. 2018): softmax over all
    items at random points of the client's own history, what came before excluded, and a random part of the
    inputs dropped.

    A batch is one client's history, or a random part of it; the order of its rows is of no matter. Everything
    the client does not know of yet counts as a negative, held-out items included: nothing is sampled.

    A client's default is one step with the learning rate 1, so that its delta is minus its gradient and the
    server's optimizer does the rest.

    Args:
        items: How many there are.
        width: Factors of an item.
        horizons: See :class:`_Decayed`.
        length: The longest history, at evaluation; what is longer does not fit.
        negatives: Items that a target is ranked among, at evaluation.
        cuts: At how many points of the history a step predicts.
        dropout: Part of the inputs that a step leaves out.
        scale: Standard deviation of the first factors.
        initial_seed: What the first factors are drawn from.
        optimizer: How gradients become updates.
    """

    name = "decayed-histories"

    def __init__(
        self,
        *,
        items: int = 1682,
        width: int = 32,
        horizons: Sequence[float | None] = (3.0, 30.0, None),
        length: int = 736,
        negatives: int = 99,
        cuts: int = 16,
        dropout: float = 0.5,
        scale: float = 0.1,
        initial_seed: int = 0,
        optimizer: Optimizer | None = None,
    ) -> None:
        self.items = items
        self.width = width
        self.horizons = horizons
        self.length = length
        self.negatives = negatives
        self.cuts = cuts
        self.dropout = dropout
        self.scale = scale
        self.initial_seed = initial_seed
        self.optimizer = optimizer or SGD(lr=1.0, weight_decay=1e-4)

    def module(self) -> nn.Module:
        """Two tables of factors, a bias an item, and how the horizons are mixed."""
        torch.manual_seed(self.initial_seed)
        return _Decayed(self.items, self.width, self.horizons, self.scale)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy of the next item: at random points in training, of the target in evaluation."""
        assert isinstance(model, _Decayed)
        return self._next_loss(model, batch) if model.training else self._target_loss(model, batch)

    def _next_loss(self, model: _Decayed, batch: Batch) -> Tensor:
        item, position = batch["item"], batch["position"]
        places = len(item)
        row = (torch.rand(self.cuts) * places).long().clamp(max=places - 1)
        kept = torch.rand(places) >= self.dropout
        age = position[row].unsqueeze(1) - 1 - position.unsqueeze(0)
        past = age >= 0
        scores = model(model.watched(item), age, past & kept.unsqueeze(0))
        before = torch.zeros(self.items, self.cuts).index_add(0, item, past.to(torch.float32).t())
        losses = _cross_entropy(scores, item[row], before.t() > 0)
        told = (position[row] > 0).to(losses.dtype)  # the first item of a history follows from nothing
        return (losses * told).sum() / told.sum().clamp(min=1.0)

    def _target_loss(self, model: _Decayed, batch: Batch) -> Tensor:
        return _cross_entropy(self._scores(model, batch), batch["target"], self._known(batch)).mean()

    def _scores(self, model: _Decayed, batch: Batch) -> Tensor:
        history = batch["history"]
        age = batch["length"].unsqueeze(1) - 1 - torch.arange(self.length)
        scores: Tensor = model(model.watched(history), age, age >= 0)
        return scores

    def _known(self, batch: Batch) -> Tensor:
        """Which items are no candidates, [queries, items]."""
        known = torch.arange(self.length) < batch["seen"].unsqueeze(1)
        counts = torch.zeros(len(known), self.items).scatter_add(1, batch["history"], known.to(torch.float32))
        return counts > 0

    def metrics(self, model: nn.Module, batch: Batch) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Where the target ranks, in evaluation only.

        ``hr@10`` and ``ndcg@10`` among the negatives, ``full_…`` among all items that are not known yet; ``.a``
        and ``.b`` by the two protocols of :mod:`devicelab.data.histories`. A rank is 1, plus one for every item
        with a higher score, plus one half for every other with the same.
        """
        assert isinstance(model, _Decayed)
        if model.training:
            return {}
        scores = self._scores(model, batch)
        own = scores.gather(1, batch["target"].unsqueeze(1))
        sampled = scores.gather(1, batch["negatives"])
        rank = 1 + _before(sampled, own).sum(1)
        candidates = (~self._known(batch)).to(scores.dtype)
        full_rank = 0.5 + (_before(scores, own) * candidates).sum(1)  # the target is as good as itself
        found = {
            "hr@10": _hit(rank, _TOP),
            "ndcg@10": _gain(rank),
            "full_hr@10": _hit(full_rank, _TOP),
            "full_ndcg@10": _gain(full_rank),
            "full_recall@20": _hit(full_rank, _RECALLED),
        }
        here = [(batch["protocol"] == number).to(scores.dtype) for number, _ in enumerate(_PROTOCOLS)]
        return {
            f"{metric}.{protocol}": ((values * chosen).sum(), chosen.sum())
            for protocol, chosen in zip(_PROTOCOLS, here, strict=True)
            for metric, values in found.items()
        }

    def recommend(self, model: nn.Module, known: Batch, top: int) -> Tensor:
        """From the whole history, what is held out included; nothing of it is recommended again."""
        assert isinstance(model, _Decayed)
        item, age, here = _everything(known) if "history" in known else _trained_on(known)
        scores = model(model.watched(item), age.unsqueeze(0), here.unsqueeze(0))[0]
        taken = torch.zeros(self.items).scatter_add(0, item, here.to(torch.float32)) > 0
        return torch.topk(scores.masked_fill(taken, _EXCLUDED), top).indices

    def item_factors(self, model: nn.Module) -> Tensor:
        """What comes after an item and what before; alike for items that come in the same company."""
        assert isinstance(model, _Decayed)
        return torch.cat([model.watched.weight, model.score.weight], dim=1)

    def example_batch(self) -> Batch:
        """A history with every item in it once, as far as it goes."""
        generator = torch.Generator().manual_seed(7)
        places = min(64, self.items, self.length)
        item = torch.randperm(self.items, generator=generator)[:places]
        item[:2] = torch.tensor([0, self.items - 1])
        position = torch.arange(places)
        position[-1] = self.length - 1
        return {"item": item, "position": position}

    def evaluation_batch(self) -> Batch:
        """Histories of all lengths, by both protocols."""
        generator = torch.Generator().manual_seed(7)
        history = torch.stack(
            [torch.randint(self.items, (self.length,), generator=generator) for _ in range(16)]
        )
        history[0, 0], history[0, 1] = 0, self.items - 1
        seen = torch.linspace(1, self.length, 16).long()
        protocol = torch.arange(16) % 2
        target = torch.randint(self.items, (16,), generator=generator)
        target[:2] = torch.tensor([0, self.items - 1])
        negatives = torch.randint(self.items, (16, self.negatives), generator=generator)
        negatives[:2, 0] = target[:2]
        length = (seen - 1 + protocol).clamp(min=1)
        return {
            "history": history,
            "length": length,
            "seen": seen,
            "target": target,
            "negatives": negatives,
            "protocol": protocol,
        }


def _everything(known: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Items, ages, and which of them are there: the last query's history and its target."""
    seen = known["seen"][-1:]
    place = torch.arange(known["history"].shape[1] + 1)
    longer = torch.cat([known["history"][-1], torch.zeros(1, dtype=torch.int64)])
    return torch.where(place == seen, known["target"][-1:], longer), seen - place, place <= seen


def _trained_on(known: Batch) -> tuple[Tensor, Tensor, Tensor]:
    position = known["position"]
    return known["item"], position.max() - position, torch.ones_like(position, dtype=torch.bool)


def _cross_entropy(scores: Tensor, target: Tensor, excluded: Tensor) -> Tensor:
    """-log softmax of each query's target among the items that are not excluded; itself never is."""
    penalty = torch.where(excluded, _EXCLUDED, 0.0).to(scores.dtype).scatter(1, target.unsqueeze(1), 0.0)
    return F.cross_entropy(scores + penalty, target, reduction="none")


def _before(scores: Tensor, own: Tensor) -> Tensor:
    """1 where a score is higher than the target's, one half where it is the same."""
    return (scores > own).to(scores.dtype) + 0.5 * (scores == own).to(scores.dtype)


def _hit(rank: Tensor, top: int) -> Tensor:
    return (rank <= top).to(rank.dtype)


def _gain(rank: Tensor) -> Tensor:
    """1 / log2(1 + rank) within the first ten (Järvelin & Kekäläinen 2002, one relevant item)."""
    return _hit(rank, _TOP) / torch.log2(1 + rank)
