"""Synthetic(alpha, beta) of Li et al. 2020, "Federated Optimization in Heterogeneous Networks" (FedProx), 5.1.

Client k labels its inputs by argmax(W_k x + b_k) with W_k, b_k ~ N(u_k, 1), u_k ~ N(0, alpha); its inputs are
x ~ N(v_k, Sigma), Sigma diagonal with j^-1.2, v_k ~ N(B_k, 1), B_k ~ N(0, beta). Sizes are log-normal. The
second numbers are standard deviations, as in the authors' code. A client's data depend on its own number and
the seed alone, so that more clients are further clients.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from devicelab.config.data import SyntheticData
from devicelab.data.examples import Array, Dataset, generator
from devicelab.errors import DataError

__all__ = ["load"]

_LARGEST = 1 << 31  # numbers in all; more would not fit a host's memory


def load(config: SyntheticData, *, seed: int, directory: Path) -> Dataset:
    """``x`` float32 (examples, features), ``label`` int64 (examples,), of owners from 0."""
    del directory
    rngs = [generator(seed, "data/synthetic", client) for client in range(config.clients)]
    sizes = [_size(config, rng) for rng in rngs]
    total = sum(sizes)
    if total * config.features > _LARGEST:
        raise DataError(f"{total} examples of {config.features} features are more than fit into memory")
    x = np.empty((total, config.features), np.float32)
    label = np.empty(total, np.int64)
    end = 0
    for rng, size in zip(rngs, sizes, strict=True):
        start, end = end, end + size
        x[start:end], label[start:end] = _client(config, size, rng)
    owners = np.repeat(np.arange(config.clients), sizes)
    return Dataset({"x": x, "label": label}, owners)


def _size(config: SyntheticData, rng: np.random.Generator) -> int:
    return max(1, round(config.examples * float(np.exp(config.spread * rng.standard_normal()))))


def _client(config: SyntheticData, size: int, rng: np.random.Generator) -> tuple[Array, Array]:
    truth = rng.normal(0, config.alpha) if config.alpha else 0.0
    weights = rng.normal(truth, 1, (config.features, config.classes))
    biases = rng.normal(truth, 1, config.classes)
    middle = rng.normal(0, config.beta) if config.beta else 0.0
    means = rng.normal(middle, 1, config.features)
    scales = np.arange(1, config.features + 1) ** -0.6  # roots of the variances j^-1.2
    x = (means + scales * rng.standard_normal((size, config.features))).astype(np.float32)
    return x, (x @ weights + biases).argmax(axis=1)
