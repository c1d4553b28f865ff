"""How good a global model is on the host's own test set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devicelab.data.shards import read_shard
from devicelab.errors import PlanError
from devicelab.plans.signature import Role, Signature
from devicelab.rounds.setup import Setup
from devicelab.runner.messages import Metric

__all__ = ["Central"]

Arrays = Mapping[str, NDArray[Any]]


class Central:
    """Runs the evaluation plan with onnxruntime; the session is made once and kept.

    Args:
        setup: With an evaluation plan and a test set.

    Attributes:
        examples: How many examples are measured.
    """

    def __init__(self, setup: Setup) -> None:
        import onnxruntime  # noqa: PLC0415 - only experiments with a test set need it

        plan, test = setup.plans.evaluate, setup.shards.test
        assert plan is not None
        assert test is not None
        self._signature: Signature = plan.signature
        self._batch = plan.signature.batch or setup.experiment.evaluation.batch_size
        self._hyper = setup.experiment.round.hyper
        self._private = setup.private
        self._test = read_shard(test)
        # A plan with a fixed batch takes whole ones only: the rest at the end is left out.
        self.examples = test.examples - (test.examples % self._batch if plan.signature.batch else 0)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        try:
            self._session: Any = onnxruntime.InferenceSession(
                plan.content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own classes are not public
            raise PlanError(f"the evaluation plan does not load on this host: {error}") from error

    def measure(self, model: Arrays) -> dict[str, Metric]:
        """Metrics of a global model, as sums and counts.

        Args:
            model: Its parameters and buffers by input name.
        """
        fixed = self._fixed(model)
        names = [o.name for o in self._signature.outputs]
        sums: dict[str, list[float]] = {}
        for rows in self._batches():
            feeds = {i.name: self._test[i.label][rows] for i in self._signature.with_role(Role.DATA)}
            found = dict(zip(names, self._session.run(names, {**fixed, **feeds}), strict=True))
            for o in self._signature.outputs:
                if o.role is Role.METRIC and o.metric is not None:
                    parts = sums.setdefault(o.metric, [0.0, 0.0])
                    parts[0 if o.part == "sum" else 1] += float(found[o.name])
        return {name: Metric(total, count) for name, (total, count) in sums.items()}

    def _fixed(self, model: Arrays) -> dict[str, NDArray[Any]]:
        values: dict[str, NDArray[Any]] = {}
        for i in self._signature.inputs:
            if i.role in (Role.PARAMETER, Role.BUFFER):
                values[i.name] = model[i.name]
            elif i.role is Role.PRIVATE:
                values[i.name] = self._private[i.name]  # nobody's own: the host has only first values
            elif i.role is Role.HYPER:
                values[i.name] = np.array(self._hyper.get(i.label, i.default or 0), i.dtype)
        return values

    def _batches(self) -> list[slice]:
        starts = range(0, self.examples, self._batch)
        return [slice(at, min(at + self._batch, self.examples)) for at in starts]
