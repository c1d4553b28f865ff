"""What a runner must compute: the local loop in eager PyTorch, with torch.optim and the same shuffling.

Slow and plain, for tests and for whoever doubts a runner's numbers. Importing it loads PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from devicelab.errors import ConfigError, DataError
from devicelab.plans.eager import EagerTrainer, evaluate_eagerly
from devicelab.plans.signature import Input, Role, Signature
from devicelab.plans.step import Step
from devicelab.plans.tables import ROWS_PREFIX, renumbered
from devicelab.runner.deltas import clipped_delta
from devicelab.runner.job import Client, Job
from devicelab.runner.shuffle import batches

__all__ = ["LocalTraining", "TrainedClient", "train_locally"]

Array = np.ndarray[Any, Any]
Arrays = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class TrainedClient:
    """What came of one client.

    Attributes:
        client: Its id.
        examples: In its shard.
        weight: Of its delta.
        losses: The training loss of every step.
        metrics: (sum, count) by metric, over the last epoch.
        norm: L2 norm of its delta before clipping.
        delta: Trained minus first value, by input name, clipped; shared inputs of floating point only.
        kept: What it keeps: private parameters, and optimizer state if the job keeps it.
        loss_before: Mean loss over its shard with the global values; None without an evaluation step.
        loss_after: The same with its trained values.
    """

    client: str
    examples: int
    weight: float
    losses: list[float]
    metrics: dict[str, tuple[float, float]]
    norm: float
    delta: dict[str, Array]
    kept: dict[str, Array]
    loss_before: float | None = None
    loss_after: float | None = None


@dataclass(frozen=True, slots=True)
class LocalTraining:
    """What came of a job.

    Attributes:
        update: The tensors of ``update.safetensors``.
        clients: In the job's order.
    """

    update: dict[str, Array]
    clients: list[TrainedClient] = field(default_factory=list)


def train_locally(
    step: Step,
    signature: Signature,
    job: Job,
    parameters: Arrays,
    shards: Mapping[str, Arrays],
    *,
    kept: Mapping[str, Arrays] | None = None,
    evaluation: Step | None = None,
    dtype: torch.dtype = torch.float32,
) -> LocalTraining:
    """Do a training job as docs/runner.md describes it.

    Args:
        step: The training step that the plan was made from.
        signature: The plan's.
        job: What to do; its paths play no part.
        parameters: The global values by input name, and first values of private inputs; where they list rows of
            a table, the table has these rows only, and so has its delta.
        shards: Data by client and label, first dimension = examples.
        kept: What clients have kept, by client and input name.
        evaluation: The evaluation step, if the losses before and after are wanted.
        dtype: float32, or float64 to know what rounding alone does to the numbers.

    Raises:
        ConfigError: The job keeps state where there are only some rows of a table.
        DataError: The rows of a table, or the numbers of rows in a shard, are not as they must be.
    """
    rows = _rows(signature, parameters)
    if rows and job.state == "keep":
        raise ConfigError(f"job {job.job}: state cannot be kept of some rows of table {next(iter(rows))!r}")
    local = _Local(step, signature, job, _whole(signature, parameters, rows), rows, evaluation, dtype)
    clients = [
        local.train(each, shards[each.client], (kept or {}).get(each.client, {})) for each in job.clients
    ]
    if job.combine == "each":
        update = {f"{n}/{name}": delta for n, each in enumerate(clients) for name, delta in each.delta.items()}
    else:
        update = _weighted_sum(clients)
    return LocalTraining(update, clients)


@dataclass(frozen=True, slots=True)
class _Local:
    """What all clients of a job have in common; see :func:`train_locally`."""

    step: Step
    signature: Signature
    job: Job
    parameters: Arrays  # whole tables: what is not in a job makes no difference to what is
    rows: Arrays  # by table
    evaluation: Step | None
    dtype: torch.dtype

    def train(self, client: Client, shard: Arrays, kept: Arrays) -> TrainedClient:
        self._check_numbers(client, shard)
        data = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in shard.items()}
        examples = len(next(iter(shard.values())))
        trainer = EagerTrainer(self.step, dtype=self.dtype)
        trainer.set_hyper(self.job.hyper)
        trainer.load({**self.parameters, **kept}, anchor=True)
        first = _values(trainer)
        before = _mean_loss(self.evaluation, trainer, data)
        losses: list[float] = []
        metrics: dict[str, list[float]] = {}
        for begins, rows in batches(examples, self.job, self.signature, client.seed):
            outputs = trainer.step({name: tensor[rows] for name, tensor in data.items()}, seed=client.seed)
            losses.append(float(outputs["loss"]))
            metrics = {} if begins else metrics
            for o in self.signature.outputs:
                if o.metric is not None:
                    total = metrics.setdefault(o.metric, [0.0, 0.0])
                    total[o.part == "count"] += float(outputs[o.name])
        last = _values(trainer)
        delta, norm = self._delta(first, last)
        roles = (Role.PRIVATE, Role.STATE) if self.job.state == "keep" else (Role.PRIVATE,)
        return TrainedClient(
            client=client.client,
            examples=examples,
            weight=float(examples) if client.weight is None else client.weight,
            losses=losses,
            metrics={name: (total, count) for name, (total, count) in metrics.items()},
            norm=norm,
            delta=delta,
            kept={i.name: last[i.name] for i in self.signature.with_role(*roles)},
            loss_before=before,
            loss_after=_mean_loss(self.evaluation, trainer, data),
        )

    def _check_numbers(self, client: Client, shard: Arrays) -> None:
        """Refuse a shard that names rows which the job has not."""
        for i in self.signature.with_role(Role.DATA):
            if (rows := _rows_of(i, self.rows)) is not None:
                try:
                    renumbered(shard[i.label], rows)
                except ValueError as error:
                    raise DataError(f"client {client.client}: {i.label!r}: {error}") from error

    def _delta(self, first: Arrays, last: Arrays) -> tuple[dict[str, Array], float]:
        """What a client hands back, and its norm before it was scaled down."""
        first, last = self._listed(first), self._listed(last)
        return clipped_delta(self.signature, first, last, self.job.clip_norm)

    def _listed(self, values: Arrays) -> dict[str, Array]:
        """Whole tables cut down to the rows that the job has."""
        found = dict(values)
        for i in self.signature.with_role(Role.PARAMETER):
            if (rows := _rows_of(i, self.rows)) is not None:
                found[i.name] = values[i.name][rows]
        return found


def _values(trainer: EagerTrainer) -> dict[str, Array]:
    return {name: tensor.numpy().copy() for name, tensor in trainer.carried().items()}


def _mean_loss(evaluation: Step | None, trainer: EagerTrainer, data: dict[str, torch.Tensor]) -> float | None:
    if evaluation is None:
        return None
    outputs = evaluate_eagerly(evaluation, trainer.model, data)
    return float(outputs["metric/loss/sum"] / outputs["metric/loss/count"])


def _weighted_sum(clients: Sequence[TrainedClient]) -> dict[str, Array]:
    """Summed in double precision in the order of the clients, and rounded once."""
    update = {}
    for name, like in clients[0].delta.items():
        total = np.zeros(like.shape, np.float64)
        for each in clients:
            total += each.weight * each.delta[name].astype(np.float64)
        update[name] = total.astype(like.dtype)
    return update


def _rows(signature: Signature, parameters: Arrays) -> dict[str, Array]:
    """The rows that there are, by the tables of which there are not all."""
    found = {
        name.removeprefix(ROWS_PREFIX): array
        for name, array in parameters.items()
        if name.startswith(ROWS_PREFIX)
    }
    for table, rows in found.items():
        if table not in signature.tables:
            raise DataError(f"the plan has no table {table!r}")
        listed = rows.dtype == np.int64 and rows.ndim == 1 and len(rows) > 0
        inside = listed and rows[0] >= 0 and rows[-1] < signature.tables[table].rows
        if not (inside and (rows[1:] > rows[:-1]).all()):
            raise DataError(f"{ROWS_PREFIX}{table} is no ascending list of the table's rows")
    return found


def _whole(signature: Signature, parameters: Arrays, rows: Arrays) -> dict[str, Array]:
    """The parameters with whole tables, which are zero where there is no row."""
    values = {name: array for name, array in parameters.items() if not name.startswith(ROWS_PREFIX)}
    for i in signature.inputs:
        if i.rows is None or i.name not in values:
            continue
        some, listed = values[i.name], rows.get(i.rows)
        if some.shape != (i.shape if listed is None else (len(listed), *i.shape[1:])):
            raise DataError(f"{i.name!r} has the shape {list(some.shape)}, which is not that of its rows")
        if listed is None:
            continue
        values[i.name] = np.zeros([int(size) for size in i.shape], some.dtype)
        values[i.name][listed] = some
    return values


def _rows_of(i: Input, rows: Arrays) -> Array | None:
    """The rows of an input's table; None if all are there, or it belongs to none."""
    return None if i.rows is None else rows.get(i.rows)
