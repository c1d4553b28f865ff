"""Recommenders: who likes what. Default sizes are those of MovieLens-100K."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everybody uses
from torch import Tensor, nn

from devicelab.plans.optimizers import SGD, Optimizer
from devicelab.plans.plan import Batch, NamedRows, TrainingPlan

__all__ = ["MatrixFactorization", "MultinomialAutoencoder", "NeuMF"]


def _table(rows: int, width: int, scale: float) -> nn.Embedding:
    table = nn.Embedding(rows, width)
    nn.init.normal_(table.weight, std=scale)
    return table


class _Factors(nn.Module):
    def __init__(self, users: int, items: int, width: int) -> None:
        super().__init__()
        self.user = _table(users, width, 0.1)
        self.item = _table(items, width, 0.1)
        self.user_bias = _table(users, 1, 0.01)
        self.item_bias = _table(items, 1, 0.01)
        self.mean = nn.Parameter(torch.tensor(3.5))

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        affinity: Tensor = (self.user(user) * self.item(item)).sum(-1)
        biases: Tensor = self.user_bias(user)[:, 0] + self.item_bias(item)[:, 0]
        return affinity + biases + self.mean


class _Interactions(TrainingPlan):
    """Plans whose examples are a user, an item and something to predict."""

    item_parameters: tuple[str, ...]

    def __init__(
        self, *, users: int = 943, items: int = 1682, width: int = 32, optimizer: Optimizer | None = None
    ) -> None:
        self.users = users
        self.items = items
        self.width = width
        self.optimizer = optimizer or SGD(lr=0.05)

    @property
    def tables(self) -> Mapping[str, NamedRows]:
        """A client needs the rows of its own items, unless the optimizer shrinks all rows at each step."""
        if self.optimizer.weight_decay:
            return {}
        return {"item": NamedRows(parameters=self.item_parameters, ids=("item",))}

    def _pairs(self, examples: int = 64) -> tuple[Tensor, Tensor, torch.Generator]:
        generator = torch.Generator().manual_seed(7)
        user = torch.randint(self.users, (examples,), generator=generator)
        item = torch.randint(self.items, (examples,), generator=generator)
        user[:2], item[:2] = torch.tensor([0, self.users - 1]), torch.tensor([0, self.items - 1])
        return user, item, generator


class MatrixFactorization(_Interactions):
    """Biased matrix factorization of ratings (Koren, Bell & Volinsky 2009).

    A user's own factors stay at home.
    """

    name = "mf"
    private = ("user.*", "user_bias.*")
    item_parameters = ("item.*", "item_bias.*")

    def module(self) -> nn.Module:
        """Tables of users and items, one row each, and their biases."""
        torch.manual_seed(0)
        return _Factors(self.users, self.items, self.width)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean squared error of the rating."""
        return F.mse_loss(model(batch["user"], batch["item"]), batch["rating"])

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Squared error; its mean's root is the RMSE."""
        error = model(batch["user"], batch["item"]) - batch["rating"]
        return {"squared_error": ((error * error).sum(), torch.ones_like(error).sum())}

    def recommend(self, model: nn.Module, known: Batch, top: int) -> Tensor:
        """The items that the user would rate highest, without those it has rated in its shard to train on."""
        assert isinstance(model, _Factors)
        item = known["item"]
        scores = model(known["user"][:1].expand(self.items), torch.arange(self.items))
        rated = torch.zeros(self.items).scatter_add(0, item, torch.ones_like(item, dtype=torch.float32)) > 0
        return torch.topk(scores.masked_fill(rated, -1e9), top).indices

    def item_factors(self, model: nn.Module) -> Tensor:
        """What kind of user likes an item."""
        assert isinstance(model, _Factors)
        return model.item.weight

    def example_batch(self) -> Batch:
        """Random pairs with ratings from 1 to 5."""
        user, item, generator = self._pairs()
        rating = torch.randint(1, 6, user.shape, generator=generator).float()
        return {"user": user, "item": item, "rating": rating}


class _NeuMFModule(nn.Module):
    def __init__(self, users: int, items: int, width: int) -> None:
        super().__init__()
        self.user_product = _table(users, width, 0.05)
        self.item_product = _table(items, width, 0.05)
        self.user_deep = _table(users, width, 0.05)
        self.item_deep = _table(items, width, 0.05)
        self.deep = nn.Sequential(
            nn.Linear(2 * width, 2 * width),
            nn.ReLU(),
            nn.Linear(2 * width, width),
            nn.ReLU(),
            nn.Linear(width, width // 2),
            nn.ReLU(),
        )
        self.score = nn.Linear(width + width // 2, 1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        product = self.user_product(user) * self.item_product(item)
        deep = self.deep(torch.cat([self.user_deep(user), self.item_deep(item)], -1))
        score: Tensor = self.score(torch.cat([product, deep], -1))
        return score[:, 0]


class NeuMF(_Interactions):
    """Neural matrix factorization of implicit feedback (He et al. 2017)."""

    name = "neumf"
    private = ("user_*",)
    item_parameters = ("item_*",)

    def module(self) -> nn.Module:
        """A product of factors and a tower of layers side by side."""
        torch.manual_seed(0)
        return _NeuMFModule(self.users, self.items, self.width)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy of "has the user seen it"."""
        return F.binary_cross_entropy_with_logits(model(batch["user"], batch["item"]), batch["seen"])

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """How often the sign is right."""
        right = ((model(batch["user"], batch["item"]) > 0) == (batch["seen"] > 0.5)).float()
        return {"accuracy": (right.sum(), torch.ones_like(right).sum())}

    def example_batch(self) -> Batch:
        """Random pairs, seen or not."""
        user, item, generator = self._pairs()
        seen = torch.randint(2, user.shape, generator=generator).float()
        return {"user": user, "item": item, "seen": seen}


class _Autoencoder(nn.Module):
    def __init__(self, items: int, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.encoder = nn.Linear(items, width)
        self.decoder = nn.Linear(width, items)

    def forward(self, seen: Tensor) -> Tensor:
        scores: Tensor = self.decoder(torch.tanh(self.encoder(self.dropout(F.normalize(seen, dim=-1)))))
        return scores


class MultinomialAutoencoder(TrainingPlan):
    """Multinomial denoising autoencoder (Liang et al. 2018): from what was seen to what will be."""

    name = "autoencoder"

    def __init__(
        self,
        *,
        items: int = 1682,
        width: int = 64,
        dropout: float = 0.5,
        optimizer: Optimizer | None = None,
    ) -> None:
        self.items = items
        self.width = width
        self.dropout = dropout
        self.optimizer = optimizer or SGD(lr=0.5)

    def module(self) -> nn.Module:
        """One hidden layer; the input is normalized, and dropped in part."""
        torch.manual_seed(0)
        return _Autoencoder(self.items, self.width, self.dropout)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Multinomial log likelihood, per seen item."""
        seen = batch["seen"]
        likelihood = (F.log_softmax(model(seen), -1) * seen).sum(-1)
        return -(likelihood / seen.sum(-1).clamp(min=1.0)).mean()

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """How often the highest score is an item that was seen."""
        seen = batch["seen"]
        best = model(seen).argmax(-1, keepdim=True)
        hit = seen.gather(-1, best)
        return {"hit@1": (hit.sum(), torch.ones_like(hit).sum())}

    def example_batch(self) -> Batch:
        """Rows of zeros and ones, three in a hundred being ones."""
        generator = torch.Generator().manual_seed(7)
        seen = (torch.rand(64, self.items, generator=generator) < 0.03).float()
        seen[:, 0] = 1.0
        return {"seen": seen}
