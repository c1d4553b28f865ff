"""Jobs made of zoo plans and random shards: the same for a runner on a phone and for the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save

from devicelab.plans.export import ExportedPlan, build_plan
from devicelab.plans.optimizers import SGD, Optimizer
from devicelab.plans.signature import Role
from devicelab.plans.zoo import ZOO
from devicelab.runner.cache import Blob
from devicelab.runner.job import Client, Job
from devicelab.runner.layout import cached, kept_path
from devicelab.runner.reference import LocalTraining, train_locally

Array = np.ndarray[Any, Any]
Arrays = Mapping[str, Array]


_SGD = SGD(lr=0.05)


@cache
def exported(model: str, optimizer: Optimizer, *, evaluation: bool = False) -> ExportedPlan:
    """A zoo plan, exported once a process."""
    plan = ZOO[model]()
    plan.optimizer = optimizer
    return build_plan(plan, "evaluate" if evaluation else "train")


@dataclass
class Work:
    """A plan, its global values and some clients' data.

    Attributes:
        model: Name in the zoo.
        sizes: Examples of each client.
        optimizer: The plan's.
    """

    model: str
    sizes: Sequence[int] = (13, 20)
    optimizer: Optimizer = _SGD

    def __post_init__(self) -> None:
        torch.set_num_threads(1)
        self.plan = exported(self.model, self.optimizer)
        self.evaluation = exported(self.model, self.optimizer, evaluation=True)
        self.parameters = {
            i.name: self.plan.initial[i.name]
            for i in self.plan.signature.with_role(Role.PARAMETER, Role.PRIVATE, Role.BUFFER)
        }
        described = self.plan.traced.step.plan
        generator = torch.Generator().manual_seed(7)
        self.shards = {
            f"c{n}": {name: tensor.numpy() for name, tensor in described.random_batch(size, generator).items()}
            for n, size in enumerate(self.sizes)
        }
        self._plan = Blob.of(self.plan.onnx)
        self._evaluation = Blob.of(self.evaluation.onnx)
        self._parameters = Blob.of(_safetensors(self.parameters))
        labels = {i.label for i in self.plan.signature.with_role(Role.DATA)}
        self._shards = {
            client: Blob.of(_safetensors({name: array for name, array in shard.items() if name in labels}))
            for client, shard in self.shards.items()
        }

    @property
    def blobs(self) -> list[Blob]:
        """What a device must have."""
        return [self._plan, self._evaluation, self._parameters, *self._shards.values()]

    def job(self, name: str, **changes: Any) -> Job:
        """A training job over all clients, two epochs unless it is said otherwise."""
        keeps = changes.get("state") == "keep" or bool(self.plan.signature.with_role(Role.PRIVATE))
        clients = tuple(
            Client(
                client,
                cached(blob.sha256),
                seed=100 + n,
                kept=kept_path(self.model, client) if keeps else None,
            )
            for n, (client, blob) in enumerate(self._shards.items())
        )
        settings: dict[str, Any] = {"batch_size": 8, "clients": clients, "combine": "each"}
        if "steps" not in changes:
            settings["epochs"] = 2
        return Job(
            job=name,
            verb="train",
            plan=cached(self._plan.sha256),
            parameters=cached(self._parameters.sha256),
            **{**settings, **changes},
        )

    @property
    def evaluation_path(self) -> str:
        """The evaluation plan, as a job names it."""
        return cached(self._evaluation.sha256)

    def reference(
        self, job: Job, kept: Mapping[str, Arrays] | None = None, dtype: torch.dtype = torch.float32
    ) -> LocalTraining:
        """What must come out."""
        return train_locally(
            self.plan.traced.step,
            self.plan.signature,
            job,
            self.parameters,
            self.shards,
            kept=kept,
            evaluation=self.evaluation.traced.step if job.evaluation else None,
            dtype=dtype,
        )


def _safetensors(arrays: Arrays) -> bytes:
    return save({name: np.array(array, order="C") for name, array in arrays.items()})
