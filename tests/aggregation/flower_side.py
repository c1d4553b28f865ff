"""Runs in Flower's own environment: what do its strategies make of these updates?

    python flower_side.py IN.npz OUT.npz

IN holds ``global/<tensor>``, ``examples`` and ``delta/<round>/<client>/<tensor>``; OUT then holds
``<strategy>/<round>/<tensor>``, the global values after that round.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server.strategy import (
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    Strategy,
)


class Proxy:
    """Stands where Flower has its connection to a client; aggregation never looks at it."""


def strategies(start: Any) -> dict[str, tuple[Strategy, bool]]:
    """Each by our name, and whether its clients have the same number of examples."""
    return {
        "fedavg": (FedAvg(), False),
        "fedavg-not-in-place": (FedAvg(inplace=False), False),
        "median": (FedMedian(), False),
        "trimmed-mean": (FedTrimmedAvg(beta=0.2), False),
        "krum": (Krum(num_malicious_clients=2), False),
        "multi-krum": (Krum(num_malicious_clients=2, num_clients_to_keep=4), True),
        "fedavgm": (
            FedAvgM(initial_parameters=start, server_learning_rate=0.7, server_momentum=0.9),
            False,
        ),
        "fedadagrad": (FedAdagrad(initial_parameters=start, eta=0.1, tau=1e-3), False),
        "fedadam": (FedAdam(initial_parameters=start, eta=0.01, beta_1=0.9, beta_2=0.99, tau=1e-3), False),
        "fedyogi": (FedYogi(initial_parameters=start, eta=0.01, beta_1=0.9, beta_2=0.99, tau=1e-3), False),
    }


def main(source: str, target: str) -> None:
    given = np.load(source)
    names = sorted(key.removeprefix("global/") for key in given if key.startswith("global/"))
    start = [given[f"global/{name}"] for name in names]
    rounds = sorted({int(key.split("/")[1]) for key in given if key.startswith("delta/")})
    found = {}
    for label, (strategy, equal) in strategies(ndarrays_to_parameters(start)).items():
        current = start
        for number in rounds:
            results = []
            for client, examples in enumerate(given["examples"]):
                deltas = [given[f"delta/{number}/{client}/{name}"] for name in names]
                trained = [x + delta for x, delta in zip(current, deltas, strict=True)]
                count = 1 if equal else int(examples)
                status = Status(code=Code.OK, message="")
                results.append((Proxy(), FitRes(status, ndarrays_to_parameters(trained), count, {})))
            parameters, _ = strategy.aggregate_fit(number, results, [])
            assert parameters is not None
            current = parameters_to_ndarrays(parameters)
            for name, value in zip(names, current, strict=True):
                found[f"{label}/{number}/{name}"] = value
    np.savez(target, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
