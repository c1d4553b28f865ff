"""What user-level differential privacy costs the movie recommender: a row for each noise, simulated.

Cohorts, clipping, noise and ε are those of :mod:`devicelab.rounds.privacy`, but for the draw of the cohorts: it
comes from the seed here, so that two noises see the same clients.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from devicelab.aggregation.accounting import epsilon_of
from devicelab.aggregation.privacy import PrivateMean
from devicelab.config import Experiment, load_experiment
from devicelab.rounds.cohort import drawn
from devicelab.rounds.privacy import private_rule
from devicelab.rounds.setup import Setup

CONFIG = Path(__file__).parents[2] / "configs" / "movielens-private.yaml"
NOISES = (0.5, 1.0, 2.0, 4.0)


def private_round(setup: Setup, number: int) -> tuple[PrivateMean, list[str]]:
    """A round's rule, noise included, and its clients."""
    experiment, clients = setup.experiment, setup.shards.clients
    chance = experiment.round.clients.chance
    assert chance is not None
    secret = f"for a simulation: {experiment.seed}".encode()
    cohort = drawn(clients, chance, secret=secret, round_number=number)
    return private_rule(experiment, setup.plans.train.signature, len(clients)), cohort


def with_noise(experiment: Experiment, noise: float, seed: int) -> Experiment:
    """The experiment with another noise and another seed, also for the first values of its model."""
    plan, aggregation = experiment.plan, experiment.aggregation
    privacy = experiment.privacy.model_copy(update={"noise_multiplier": noise})
    return experiment.model_copy(
        update={
            "seed": seed,
            "plan": plan.model_copy(update={"args": {**plan.args, "initial_seed": seed}}),
            "aggregation": aggregation.model_copy(update={"privacy": privacy}),
        }
    )


def privacy_table(
    seeds: list[int], simulate: Callable[[Experiment], dict[str, float]]
) -> dict[float, list[dict[str, float]]]:
    """Print ε and the metrics for each noise, mean ± standard deviation over the seeds."""
    experiment, found = load_experiment(CONFIG), {}
    round_, privacy = experiment.round, experiment.privacy
    print(
        f"{round_.rounds} rounds, q {round_.clients.chance:g}, clip {round_.clip_norm:g}, δ {privacy.delta:g}"
    )
    print(f"{'noise':>6}{'ε':>9}{'hr@10 A':>16}{'hr@10 B':>16}{'ndcg@10 A':>16}{'ndcg@10 B':>16}")
    for noise in NOISES:
        began = time.perf_counter()
        found[noise] = [simulate(with_noise(experiment, noise, seed)) for seed in seeds]
        epsilon = epsilon_of(
            sampling=round_.clients.chance, noise_multiplier=noise, rounds=round_.rounds, delta=privacy.delta
        )
        cells = "".join(_cell(found[noise], name) for name in ("hr@10.a", "hr@10.b", "ndcg@10.a", "ndcg@10.b"))
        print(f"{noise:6.1f}{epsilon:9.2f}{cells}   {time.perf_counter() - began:.0f} s", flush=True)
    return found


def _cell(metrics: list[dict[str, float]], name: str) -> str:
    values: list[Any] = [100 * each[name] for each in metrics]
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):9.2f} ± {spread:4.2f}"
