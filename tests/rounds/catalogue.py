"""A plan with tables, and a few clients whose data name some of their rows; nothing of it is trained."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from devicelab.config import Experiment
from devicelab.data.examples import Part, Tensors
from devicelab.data.shards import Shard, ShardSet, TensorSpec, encode
from devicelab.plans.build import PlanFile, PlanFiles
from devicelab.plans.signature import Input, Kind, Output, Role, Signature
from devicelab.rounds.setup import Setup

__all__ = [
    "INITIAL",
    "ITEMS",
    "KINDS",
    "MODEL",
    "PRIVATE",
    "experiment",
    "ids",
    "plans",
    "setup",
    "shards",
    "signature",
]

ITEMS, KINDS, WIDTH = 40, 6, 3

MODEL = {
    "param/item": np.arange(ITEMS * WIDTH, dtype=np.float32).reshape(ITEMS, WIDTH),
    "param/bias": -np.arange(ITEMS, dtype=np.float32),
    "param/kind": np.arange(KINDS * 2, dtype=np.float32).reshape(KINDS, 2),
    "param/w": np.full(WIDTH, 0.5, np.float32),
}
PRIVATE = {"param/mine": np.ones(WIDTH, np.float32)}
INITIAL = {**MODEL, **PRIVATE}


def signature(kind: Kind = "train", *, tables: Mapping[str, str] | None = None) -> Signature:
    """The plan's.

    Args:
        kind: What it does.
        tables: The table of each input that has one; items and kinds if not given.
    """
    if tables is None:
        items = ("param/item", "param/bias", "state/item", "data/item", "data/seen")
        tables = {**dict.fromkeys(items, "item"), "param/kind": "kind", "data/kind": "kind"}
    inputs = [
        *(Input(name, Role.PARAMETER, "float32", MODEL[name].shape, rows=tables.get(name)) for name in MODEL),
        Input("param/mine", Role.PRIVATE, "float32", (WIDTH,)),
        Input("data/item", Role.DATA, "int64", ("batch",), rows=tables.get("data/item")),
        Input("data/seen", Role.DATA, "int32", ("batch", 2), rows=tables.get("data/seen")),
        Input("data/kind", Role.DATA, "int64", ("batch",), rows=tables.get("data/kind")),
    ]
    outputs = [Output("loss", Role.LOSS, "float32", ())]
    if kind == "train":
        state = Input("state/item", Role.STATE, "float32", (ITEMS, WIDTH), rows=tables.get("state/item"))
        inputs.append(state)
        outputs.append(Output("new/item", Role.PARAMETER, "float32", (ITEMS, WIDTH), replaces="param/item"))
    return Signature("shop", kind, tuple(inputs), tuple(outputs))


def plans(train: Signature | None = None, evaluate: Signature | None = None) -> PlanFiles:
    """Files that nobody loads."""
    return PlanFiles(
        PlanFile(b"train", train or signature()),
        PlanFile(b"evaluate", evaluate or signature("evaluate")),
        INITIAL,
    )


def ids(item: list[int], seen: list[list[int]], kind: list[int]) -> Tensors:
    """A shard's tensors."""
    return {"item": np.array(item), "seen": np.array(seen, np.int32), "kind": np.array(kind)}


_TRAIN = {
    "ann": ids([7, 3, 7], [[3, 3], [0, 39], [7, 7]], [5, 5, 5]),
    "bob": ids([12], [[12, 7]], [0]),
    "eve": ids([20, 21], [[22, 23], [24, 20]], [1, 2]),
}
_HELD = {"ann": ids([30], [[7, 3]], [4])}


def shards(directory: Path) -> ShardSet:
    """Three clients; ann holds something out."""
    clients: dict[str, dict[Part, Shard]] = {}
    for client, tensors in _TRAIN.items():
        clients[client] = {"train": _written(directory, tensors)}
        if client in _HELD:
            clients[client]["held_out"] = _written(directory, _HELD[client])
    specs = {
        "item": TensorSpec("int64", (), (3, 30)),
        "seen": TensorSpec("int32", (2,), (0, 39)),
        "kind": TensorSpec("int64", (), (0, 5)),
    }
    return ShardSet("made up", specs, specs, clients, None)


def _written(directory: Path, tensors: Tensors) -> Shard:
    content = encode(tensors)
    digest = hashlib.sha256(content).hexdigest()
    path = directory / f"{digest}.safetensors"
    path.write_bytes(content)
    return Shard(path, digest, len(content), len(tensors["item"]))


def experiment(**changes: Any) -> Experiment:
    """With sub-tables.

    Args:
        changes: Keys of the section ``round``, and whole other sections.
    """
    document = {
        "name": "shop",
        "plan": {"class": "a:B"},
        "data": {"source": "movielens"},
        "round": {"rounds": 1, "subtables": True, **changes.pop("round", {})},
        **changes,
    }
    return Experiment.model_validate(document)


def setup(directory: Path, **changes: Any) -> Setup:
    """All of it together; see :func:`experiment`."""
    return Setup(experiment(**changes), plans(), shards(directory))
