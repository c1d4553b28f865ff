"""The same federated training as anybody would write it in PyTorch and NumPy: no phone, no file, no thread."""

from __future__ import annotations

import numpy as np

from devicelab.config import Experiment
from devicelab.config.training import FedAdam
from devicelab.data.prepare import prepare
from devicelab.data.shards import read_shard
from devicelab.plans.export import build_plan
from devicelab.plans.plan import TrainingPlan
from devicelab.rounds.averaging import weight_of
from devicelab.rounds.cohort import cohort_of
from devicelab.rounds.setup import set_up
from devicelab.runner.job import Client, Job
from devicelab.runner.reference import train_locally
from devicelab.seeds import client_seed
from tests.rounds.small import Arrays

__all__ = ["simulate"]


def simulate(experiment: Experiment, plan: TrainingPlan, rounds: int) -> list[Arrays]:
    """Global models after each round, the initial one first.

    FedAvg as in McMahan et al. 2017, FedAdam as in Reddi et al. 2021 (Algorithm 2), in float64 throughout.
    """
    shards = {client: read_shard(parts["train"]) for client, parts in prepare(experiment).clients.items()}
    exported = build_plan(plan, "train")
    names = [i.name for i in exported.signature.inputs if i.role.value in ("parameter", "buffer")]
    model = {name: np.asarray(value, np.float64) for name, value in set_up(experiment).model.items()}
    first = {name: np.zeros_like(value) for name, value in model.items()}
    second: Arrays | None = None
    found = [dict(model)]
    size = experiment.round.clients.size(len(shards))
    for number in range(1, rounds + 1):
        cohort = cohort_of(list(shards), list(shards), size, seed=experiment.seed, round_number=number)
        start = {name: value.astype(exported.initial[name].dtype) for name, value in model.items()}
        total, weight = {name: np.zeros_like(value) for name, value in model.items()}, 0.0
        for client in cohort:
            job = Job(
                job="simulated",
                verb="train",
                plan="",
                parameters="",
                clients=(Client(client, "-", seed=client_seed(experiment.seed, number, client)),),
                batch_size=experiment.round.batch_size,
                epochs=experiment.round.local_epochs,
                steps=experiment.round.steps,
                hyper=experiment.round.hyper,
                shuffle=experiment.round.shuffle,
                combine="each",
            )
            trained = train_locally(exported.traced.step, exported.signature, job, start, shards)
            (one,) = trained.clients
            counts = weight_of(experiment.aggregation, one.examples) or one.examples
            for name in names:
                total[name] += counts * one.delta[name].astype(np.float64)
            weight += counts
        delta = {name: value / weight for name, value in total.items()}
        server = experiment.aggregation.server
        if isinstance(server, FedAdam):
            second = second or {name: np.full_like(value, server.tau**2) for name, value in model.items()}
            for name, value in delta.items():
                first[name] = server.beta1 * first[name] + (1 - server.beta1) * value
                second[name] = server.beta2 * second[name] + (1 - server.beta2) * value**2
                model[name] = model[name] + server.lr * first[name] / (np.sqrt(second[name]) + server.tau)
        else:
            model = {name: model[name] + server.lr * value for name, value in delta.items()}
        found.append(dict(model))
    return found
