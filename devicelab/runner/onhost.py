"""A job's numbers once more, on this host: the plan under ONNX Runtime in Python, by docs/runner.md alone.

No runner, no IO binding, nothing in place: every step's outputs are fed back in. So what a runner gets wrong
shows here, on whatever phone it was. What the plan gets wrong shows in :mod:`devicelab.runner.reference`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devicelab.plans.build import PlanFiles
from devicelab.plans.engine import Engine
from devicelab.plans.signature import Role, Signature
from devicelab.runner.deltas import clipped_delta
from devicelab.runner.job import Client, Job
from devicelab.runner.messages import Metric
from devicelab.runner.shuffle import batches

__all__ = ["HostEngines", "Measured", "Trained"]

Array = NDArray[Any]
Arrays = Mapping[str, Array]

_CARRIED = (Role.PARAMETER, Role.PRIVATE, Role.BUFFER, Role.STATE)


@dataclass(frozen=True, slots=True)
class Measured:
    """What an evaluation of one shard comes to.

    Attributes:
        loss: Its example-weighted mean, None where the plan tells none.
        metrics: By name.
    """

    loss: float | None
    metrics: Mapping[str, Metric]


@dataclass(frozen=True, slots=True)
class Trained:
    """What the training of one client comes to.

    Attributes:
        delta: Trained minus first value, by input name, after clipping; shared inputs of floating point only.
        norm: Its L2 norm before clipping.
        kept: What the client keeps, by input name.
        before: Its shard, measured with the values that it began with; None if that was not asked for.
        after: The same with the trained ones.
    """

    delta: dict[str, Array]
    norm: float
    kept: dict[str, Array]
    before: Measured | None
    after: Measured | None


class HostEngines:
    """An experiment's plans, loaded once.

    Args:
        plans: The plan's files.

    Raises:
        PlanError: This host's ONNX Runtime does not load them, here or in a later step.
    """

    def __init__(self, plans: PlanFiles) -> None:
        self._train = plans.train.signature
        self._training = Engine(plans.train.content)
        self._evaluate = plans.evaluate.signature if plans.evaluate is not None else None
        self._evaluation = Engine(plans.evaluate.content) if plans.evaluate is not None else None

    def train(self, job: Job, client: Client, parameters: Arrays, shard: Arrays, kept: Arrays) -> Trained:
        """Train one client of a job.

        Args:
            job: Of which its paths play no part, but that there is one to an evaluation plan.
            client: Which client.
            parameters: The values that the job begins with: global ones, and first ones of what clients keep.
            shard: The client's data by label.
            kept: What it has kept so far; empty at first.
        """
        signature = self._train
        first = {**_first(signature, parameters), **kept}
        fixed = {**_hyper(signature, job, client.seed), **_anchors(signature, first)}
        values = dict(first)
        for _, rows in batches(_examples(shard), job, signature, client.seed):
            outputs = self._training.run({**values, **fixed, **_data(signature, shard, rows)})
            values |= {name: outputs[output] for output, name in signature.replacements.items()}
        delta, norm = clipped_delta(signature, first, values, job.clip_norm)
        roles = (Role.PRIVATE, Role.STATE) if job.state == "keep" else (Role.PRIVATE,)
        return Trained(
            delta=delta,
            norm=norm,
            kept={i.name: values[i.name] for i in signature.with_role(*roles)},
            before=self.evaluate(job, client, {**parameters, **first}, shard) if job.evaluation else None,
            after=self.evaluate(job, client, {**parameters, **values}, shard) if job.evaluation else None,
        )

    def evaluate(self, job: Job, client: Client, values: Arrays, shard: Arrays) -> Measured:
        """Measure one client's shard with given values.

        Raises:
            ValueError: There is no evaluation plan.
        """
        signature, engine = self._evaluate, self._evaluation
        if signature is None or engine is None:
            raise ValueError("there is no evaluation plan")
        # in the shard's own order, once, with a fixed batch filled up as in training
        order = replace(job, verb="train", epochs=1, steps=None, shuffle=False)
        fixed = {**_hyper(signature, job, client.seed), **_first(signature, values)}
        sums: dict[str, list[float]] = {}
        losses, seen = 0.0, 0
        for _, rows in batches(_examples(shard), order, signature, client.seed):
            outputs = engine.run({**fixed, **_data(signature, shard, rows)})
            for o in signature.outputs:
                if o.metric is not None:
                    sums.setdefault(o.metric, [0.0, 0.0])[o.part == "count"] += float(outputs[o.name])
                elif o.role is Role.LOSS:
                    losses += float(outputs[o.name]) * len(rows)
            seen += len(rows)
        metrics = {name: Metric(total, count) for name, (total, count) in sums.items()}
        if any(o.role is Role.LOSS for o in signature.outputs):
            return Measured(losses / seen, metrics)
        loss = metrics.get("loss")
        return Measured(loss.sum / loss.count if loss is not None and loss.count else None, metrics)


def _examples(shard: Arrays) -> int:
    return len(next(iter(shard.values())))


def _data(signature: Signature, shard: Arrays, rows: NDArray[np.int64]) -> dict[str, Array]:
    return {i.name: shard[i.label][rows] for i in signature.with_role(Role.DATA)}


def _first(signature: Signature, parameters: Arrays) -> dict[str, Array]:
    """The first value of all that steps carry on; state without one is zero."""
    return {
        i.name: parameters[i.name]
        if i.name in parameters
        else np.zeros(tuple(int(size) for size in i.shape), i.dtype)
        for i in signature.with_role(*_CARRIED)
        if i.name in parameters or i.role is Role.STATE
    }


def _anchors(signature: Signature, first: Arrays) -> dict[str, Array]:
    return {i.name: first[i.of] for i in signature.with_role(Role.ANCHOR) if i.of is not None}


def _hyper(signature: Signature, job: Job, seed: int) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for i in signature.with_role(Role.HYPER):
        value = seed if i.label == "seed" else job.hyper.get(i.label, i.default or 0)
        found[i.name] = np.asarray(value, i.dtype)
    return found
