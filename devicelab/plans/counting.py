"""First values that come from counting: how often each item occurs in everybody's shards together.

A softmax over all items spends its first hundred rounds learning what is popular. One count tells it: the log
of how often each item occurs, one added, as a share of all; an item's first score is then its popularity.

It takes one pass over all clients, in which each adds its own counts. Here the sum is made where the shards are
made, on this host, which divides the data and knows them anyway. Where nobody may see a client's shard, each
client has to send its counts, which are its history without the order, and a secure sum is needed so that
nobody sees them alone. The sum itself tells how popular every item is, and of an item that one client alone has
taken up, that somebody has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from devicelab.data.shards import ShardSet, read_shard
from devicelab.dotted import nearest
from devicelab.errors import ConfigError
from devicelab.plans.build import PlanFiles
from devicelab.plans.signature import Role

__all__ = ["with_counts"]

Array = np.ndarray[Any, Any]


def with_counts(plans: PlanFiles, counts: Mapping[str, str], shards: ShardSet) -> PlanFiles:
    """The plan's files, with other first values for the parameters that begin as log counts.

    Only what clients train on is counted, and never what they hold out.

    Args:
        plans: The files.
        counts: For each such parameter, by its name in the model, the data tensor whose values are counted.
        shards: Everybody's data.

    Raises:
        ConfigError: There is no such parameter or tensor, or they do not fit each other.
        DataError: A shard is missing or damaged.
    """
    if not counts:
        return plans
    sizes = {label: _entries(plans, label) for label in counts}
    for label, tensor in counts.items():
        _check_tensor(label, tensor, sizes[label], shards)
    totals = {label: np.zeros(size, np.int64) for label, size in sizes.items()}
    for parts in shards.clients.values():
        data = read_shard(parts["train"])
        for label, tensor in counts.items():
            totals[label] += np.bincount(data[tensor], minlength=sizes[label])
    first = {f"param/{label}": _log_share(total) for label, total in totals.items()}
    return PlanFiles(plans.train, plans.evaluate, {**plans.initial, **first})


def _log_share(total: Array) -> Array:
    share: Array = np.log((total + 1) / (total + 1).sum()).astype(np.float32)
    return share


def _entries(plans: PlanFiles, label: str) -> int:
    """How many entries the parameter has."""
    known = {i.label: i for i in plans.train.signature.with_role(Role.PARAMETER)}
    if label not in known:
        raise ConfigError(f"plan.counts: the plan shares no parameter {label!r}{nearest(label, known)}")
    (size, *others), dtype = known[label].shape or (0, 0), known[label].dtype
    if others or dtype != "float32":
        raise ConfigError(f"plan.counts: {label!r} is {dtype}{list(known[label].shape)}, not a row of float32")
    return int(size)


def _check_tensor(label: str, tensor: str, size: int, shards: ShardSet) -> None:
    spec = shards.tensors.get(tensor)
    if spec is None:
        raise ConfigError(f"plan.counts: the data have no {tensor!r}{nearest(tensor, shards.tensors)}")
    if spec.shape or spec.range is None:
        raise ConfigError(
            f"plan.counts: {tensor!r} is {spec.dtype}{list(spec.shape)}, not one whole number each"
        )
    low, high = spec.range
    if low < 0 or high >= size:
        raise ConfigError(
            f"plan.counts: {tensor!r} holds numbers from {low} to {high}, {label!r} has {size} entries"
        )
