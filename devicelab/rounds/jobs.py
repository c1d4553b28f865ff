"""What each device is asked in a round: the job, and the files of this host that it needs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devicelab.data.shards import Shard
from devicelab.plans.signature import Role, Signature
from devicelab.rounds.averaging import weight_of
from devicelab.rounds.setup import Setup
from devicelab.rounds.subtables import Numbers, Subtables, cut
from devicelab.runner.cache import Blob
from devicelab.runner.job import Client, Job
from devicelab.runner.layout import cached, kept_path
from devicelab.seeds import client_seed

__all__ = ["Asking", "Parameters", "Task", "job_id"]

_WORD = 20  # characters of the experiment's name in a job's id


@dataclass(frozen=True)
class Task:
    """A job for a device, and what of this host's files it names.

    Attributes:
        job: What is asked.
        blobs: Everything that the device must have in its cache for it, runner and engine apart.
        rows: Which rows it has of the tables that it does not have whole.
    """

    job: Job
    blobs: tuple[Blob, ...]
    rows: Numbers = field(default_factory=dict)


def job_id(run: str, kind: str, round_number: int, device: str, attempt: int = 1) -> str:
    """The id of one device's job in one round: always the same, so that a job is found again.

    Args:
        run: The run's id.
        kind: ``r`` for training, ``e`` for evaluation.
        round_number: From 1.
        device: The device's identity.
        attempt: Which attempt at the round the job was planned in.
    """
    word = run.rpartition("-")[0].rpartition("-")[0].rpartition("-")[0] or run
    again = f"a{attempt}" if attempt > 1 else ""
    return f"{word[:_WORD]}-{_digest(run, 10)}-{kind}{round_number}{again}-{_digest(device, 8)}"


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]


class Parameters:
    """The parameters that a round's jobs start from, as files whose bytes depend on nothing else.

    Args:
        model: The global model.
        private: First values of what clients keep, for those that have nothing yet.
    """

    def __init__(self, model: Mapping[str, NDArray[Any]], private: Mapping[str, NDArray[Any]]) -> None:
        self._tensors = {**private, **model}

    def blob(self, signature: Signature, rows: Numbers) -> Blob:
        """The file for a job.

        Args:
            signature: Of the job's plan.
            rows: Which rows it is to have of tables that it is not to have whole.
        """
        return _encoded(cut(self._tensors, signature, rows)) if rows else self._whole

    @cached_property
    def _whole(self) -> Blob:
        return _encoded(self._tensors)


def _encoded(tensors: Mapping[str, NDArray[Any]]) -> Blob:
    from safetensors.numpy import save  # noqa: PLC0415 - not needed before there is a round

    return Blob.of(save({name: np.asarray(tensors[name], order="C") for name in sorted(tensors)}))


class Asking:
    """Makes the jobs of one run.

    Args:
        run: The run's id. What clients keep on their devices belongs to it: another run begins anew.
        setup: The experiment, its plan and its data.
        subtables: Knows which rows of tables clients need.
    """

    def __init__(self, run: str, setup: Setup, subtables: Subtables) -> None:
        self._run = run
        self._setup = setup
        self._subtables = subtables
        self._train = Blob.of(setup.plans.train.content)
        evaluate = setup.plans.evaluate
        self._evaluate = Blob.of(evaluate.content) if evaluate is not None else None
        self._shards: dict[str, Blob] = {}

    def train(self, job: str, *, round_number: int, clients: Sequence[str], parameters: Parameters) -> Task:
        """Local training of some clients.

        Args:
            job: Its id.
            round_number: Decides the clients' seeds.
            clients: In the order in which they are trained.
            parameters: What they start from.
        """
        experiment = self._setup.experiment
        config = experiment.round
        measured = self._evaluate if experiment.evaluation.training_loss else None
        asked = [self._client(client, round_number) for client in clients]
        rows = self._subtables.of_training(clients)
        start = parameters.blob(self._setup.plans.train.signature, rows)
        return Task(
            Job(
                job=job,
                verb="train",
                plan=cached(self._train.sha256),
                threads=config.threads,
                parameters=cached(start.sha256),
                clients=tuple(asked),
                batch_size=config.batch_size,
                hyper=dict(config.hyper),
                epochs=config.local_epochs,
                steps=config.steps,
                shuffle=config.shuffle,
                state=config.state,
                combine=experiment.combine,
                clip_norm=config.clip_norm,
                evaluation=cached(measured.sha256) if measured is not None else None,
            ),
            (
                self._train,
                *((measured,) if measured is not None else ()),
                start,
                *(self._shard(self._setup.shards.clients[client]["train"]) for client in clients),
            ),
            rows,
        )

    def evaluate(self, job: str, *, clients: Sequence[str], parameters: Parameters) -> Task:
        """Metrics of a global model on what some clients hold out.

        Raises:
            ValueError: The experiment has no evaluation plan.
        """
        if self._evaluate is None or self._setup.plans.evaluate is None:
            raise ValueError("there is no evaluation plan")
        experiment = self._setup.experiment
        part = experiment.evaluation.split
        held = {client: self._setup.shards.clients[client][part] for client in clients}
        signature = self._setup.plans.evaluate.signature
        labels = {i.label for i in signature.with_role(Role.HYPER)}
        rows = self._subtables.of_evaluation(clients)
        model = parameters.blob(signature, rows)
        return Task(
            Job(
                job=job,
                verb="evaluate",
                plan=cached(self._evaluate.sha256),
                threads=experiment.round.threads,
                parameters=cached(model.sha256),
                clients=tuple(
                    Client(client, cached(shard.sha256), kept=self._kept(client))
                    for client, shard in held.items()
                ),
                batch_size=experiment.evaluation.batch_size,
                hyper={key: value for key, value in experiment.round.hyper.items() if key in labels},
            ),
            (self._evaluate, model, *(self._shard(shard) for shard in held.values())),
            rows,
        )

    def _client(self, client: str, round_number: int) -> Client:
        experiment = self._setup.experiment
        shard = self._setup.shards.clients[client]["train"]
        return Client(
            client,
            cached(shard.sha256),
            seed=client_seed(experiment.seed, round_number, client),
            weight=weight_of(experiment.aggregation, shard.examples),
            kept=self._kept(client),
        )

    def _kept(self, client: str) -> str | None:
        return kept_path(self._run, client) if self._setup.keeps else None

    def _shard(self, shard: Shard) -> Blob:
        known = self._shards.get(shard.sha256)
        if known is None:
            known = self._shards[shard.sha256] = Blob(shard.sha256, shard.size, shard.path)
        return known
