"""What the movie recommender is compared with, and how rankings are measured: on the shards that phones get.

Scores are arrays [queries, items], higher is better. A rank is 1, plus one for every candidate with a higher score,
plus one half for every other with the same, as in the plan's own metrics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that everybody uses
from torch import nn

from devicelab.data.shards import ShardSet, read_shard

Array = np.ndarray[Any, Any]
METRICS = ("hr@10", "ndcg@10", "full_hr@10", "full_ndcg@10", "full_recall@20")


@dataclass
class Split:
    """All clients' shards.

    Attributes:
        items: How many there are.
        train: Each client's items in order of time.
        validation: One query a client.
        a: The last item from the items to train on.
        b: The same, with the validation item as input.
    """

    items: int
    train: list[Array]
    validation: dict[str, Array]
    a: dict[str, Array]
    b: dict[str, Array]

    @classmethod
    def of(cls, shards: ShardSet, items: int) -> Split:
        def joined(part: str, protocol: int) -> dict[str, Array]:
            found = [read_shard(parts[part]) for parts in shards.clients.values()]
            return {
                name: np.concatenate([each[name][each["protocol"] == protocol] for each in found])
                for name in found[0]
            }

        train = []
        for parts in shards.clients.values():
            shard = read_shard(parts["train"])
            train.append(shard["item"][np.argsort(shard["position"])])
        return cls(items, train, joined("validation", 0), joined("held_out", 0), joined("held_out", 1))

    def queries(self) -> dict[str, dict[str, Array]]:
        return {"validation": self.validation, "a": self.a, "b": self.b}


def measured(scores: Array, queries: dict[str, Array]) -> dict[str, float]:
    """Each metric's mean over the queries."""
    rows = np.arange(len(scores))
    own = scores[rows, queries["target"]][:, None]
    sampled = np.take_along_axis(scores, queries["negatives"], 1)
    rank = 1 + ((sampled > own) + 0.5 * (sampled == own)).sum(1)
    candidates = np.ones(scores.shape, bool)
    for row, history, seen in zip(candidates, queries["history"], queries["seen"], strict=True):
        row[history[:seen]] = False
    full = 0.5 + (((scores > own) + 0.5 * (scores == own)) * candidates).sum(1)
    values = (
        rank <= 10,
        np.where(rank <= 10, 1 / np.log2(1 + rank), 0),
        full <= 10,
        np.where(full <= 10, 1 / np.log2(1 + full), 0),
        full <= 20,
    )
    return {name: float(value.mean()) for name, value in zip(METRICS, values, strict=True)}


def inputs(queries: dict[str, Array], items: int, horizon: float | None = None) -> Array:
    """What each query is given, one row a query: ones, or exp(-age / horizon)."""
    rows = np.zeros((len(queries["length"]), items), np.float32)
    for row, history, length in zip(rows, queries["history"], queries["length"], strict=True):
        age = np.arange(length)[::-1]
        row[history[:length]] = 1 if horizon is None else np.exp(-age / horizon)
    return rows


def chosen(candidates: Any, split: Split) -> tuple[str, dict[str, dict[str, float]]]:
    """Of several (description, scorer) the one that is best on validation, and what it comes to everywhere."""
    best: tuple[float, str, Any] | None = None
    for description, scorer in candidates:
        found = measured(scorer(split.validation), split.validation)
        worth = found["hr@10"] + found["ndcg@10"]
        if best is None or worth > best[0]:
            best = (worth, description, scorer)
    assert best is not None
    return best[1], {name: measured(best[2](queries), queries) for name, queries in split.queries().items()}


def popularity(split: Split) -> Any:
    counts = np.bincount(np.concatenate(split.train), minlength=split.items).astype(np.float32)
    yield "", lambda queries: np.tile(counts, (len(queries["target"]), 1))


def ease(split: Split) -> Any:
    """EASE (Steck 2019): item-item regression in closed form."""
    rows = np.zeros((len(split.train), split.items), np.float32)
    for row, items in zip(rows, split.train, strict=True):
        row[items] = 1
    gram = rows.T @ rows
    for penalty in (100, 200, 400, 800):
        weights = _solved(gram, penalty)
        yield f"penalty {penalty}", lambda queries, w=weights: inputs(queries, split.items) @ w


def recent_ease(split: Split) -> Any:
    """EASE whose pairs count by how close in time they are, and whose inputs by how recent they are."""
    gram = np.zeros((split.items, split.items), np.float32)
    for items in split.train:
        place = np.arange(len(items))
        near = np.exp(-np.abs(place[:, None] - place[None]) / 20)
        gram[np.ix_(items, items)] += (0.1 + 0.9 * near) * len(items) ** -0.3 * 63**0.3
    for penalty in (200, 400, 800, 1600):
        weights = _solved(gram, penalty)
        for horizon in (3, 5, 10):
            yield (
                f"penalty {penalty}, horizon {horizon}",
                lambda queries, w=weights, h=horizon: inputs(queries, split.items, h) @ w,
            )


BASELINES = {"popularity": popularity, "EASE": ease, "recency-weighted EASE": recent_ease}
"""Candidates by name: what needs no gradient."""


def _solved(gram: Array, penalty: float) -> Array:
    inverse = np.linalg.inv(gram.astype(np.float64) + penalty * np.eye(len(gram)))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return weights.astype(np.float32)


def central(split: Split, model: nn.Module, *, seed: int, dropout: float = 0.5, steps: int = 800) -> Any:
    """The plan's own model and loss, trained by Adam on everybody's histories in one place.

    A batch is 1,500 random places of random histories; the step is chosen on validation.
    """
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([len(items) for items in split.train])
    places = torch.full((len(split.train), split.items), -1)
    longest = int(lengths.max())
    history = torch.zeros(len(split.train), longest, dtype=torch.int64)
    for row, (place, items) in enumerate(zip(places, split.train, strict=True)):
        place[items] = torch.arange(len(items))
        history[row, : len(items)] = torch.from_numpy(items)
    counts = torch.from_numpy(np.bincount(np.concatenate(split.train), minlength=split.items) + 1.0)
    with torch.no_grad():
        model.score.bias.copy_(torch.log(counts / counts.sum()))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, betas=(0.9, 0.99), weight_decay=1e-4)
    for step in range(1, steps + 1):
        who = torch.multinomial(lengths.sqrt(), 1500, replacement=True, generator=generator)
        cut = 1 + (torch.rand(1500, generator=generator) * (lengths[who] - 1)).long()
        age = cut[:, None] - 1 - places[who]
        past = (places[who] >= 0) & (age >= 0)
        kept = torch.rand(past.shape, generator=generator) >= dropout
        scores = model(model.watched.weight, age, past & kept).masked_fill(past, -1e9)
        optimizer.zero_grad()
        F.cross_entropy(scores, history[who, cut]).backward()
        optimizer.step()
        if step % 50 == 0:
            frozen = {name: value.clone() for name, value in model.state_dict().items()}
            yield f"step {step}", lambda queries, values=frozen: _scored(model, values, queries)


def _scored(model: nn.Module, values: Any, queries: dict[str, Array]) -> Array:
    now = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(values)
    rows = []
    for history, length in zip(queries["history"], queries["length"], strict=True):
        item = torch.from_numpy(history[:length])
        age = torch.arange(length - 1, -1, -1)[None]
        with torch.no_grad():
            rows.append(model(model.watched(item), age, age >= 0)[0])
    model.load_state_dict(now)
    return torch.stack(rows).numpy()
