"""The order in which a runner trains on a shard's examples, and its batches, as docs/runner.md defines them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from devicelab.plans.signature import Signature
from devicelab.runner.job import Job

__all__ = ["batches", "epoch_order"]

_GOLDEN: Final = 0x9E3779B97F4A7C15
_MASK: Final = (1 << 64) - 1


def epoch_order(examples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The permutation of an epoch: Fisher & Yates's shuffle, drawn from SplitMix64 (Steele, Lea & Flood 2014).

    Args:
        examples: How many the shard has.
        seed: The client's, in [0, 2^63).
        epoch: Counted from 0.

    Returns:
        Indices into the shard, shape [examples].
    """
    key = int(_mix(np.array([(seed + _GOLDEN * (epoch + 1)) & _MASK], np.uint64))[0])
    counters = np.arange(1, examples + 1, dtype=np.uint64)  # those of uint64 wrap around, as they should
    random = _mix(np.uint64(key) + np.uint64(_GOLDEN) * counters)
    order = list(range(examples))
    for i, draw in zip(range(examples - 1, 0, -1), random.tolist(), strict=False):
        j = draw * (i + 1) >> 64
        order[i], order[j] = order[j], order[i]
    return np.array(order, np.int64)


def batches(
    examples: int, job: Job, signature: Signature, seed: int
) -> Iterator[tuple[bool, NDArray[np.int64]]]:
    """The batches of one client, as indices into its shard; each with whether an epoch begins with it."""
    size = signature.batch or job.batch_size
    assert size is not None  # a job for a plan with any batch says how many
    taken, epoch = 0, 0
    while job.epochs is None or epoch < job.epochs:
        order = epoch_order(examples, seed, epoch) if job.shuffle else np.arange(examples)
        for start in range(0, examples, size):
            if job.steps is not None and taken == job.steps:
                return
            batch = order[start : start + size]
            if signature.batch is not None:
                batch = np.concatenate([batch, np.resize(order, size - len(batch))])
            yield start == 0, batch
            taken += 1
        epoch += 1


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = z ^ (z >> np.uint64(30))
    z = z * np.uint64(0xBF58476D1CE4E5B9)
    z = z ^ (z >> np.uint64(27))
    z = z * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
