"""Whether a run's numbers are right: every round once more on this host, from the model that it began with.

What the ledger says of each client, the averaged model and what phones measured is held against what ONNX
Runtime makes of the same plan, data and seeds here (:mod:`devicelab.runner.onhost`). No phone is asked. Each
round is checked by itself, so that rounding does not add up; only what clients keep on their phones is carried
from round to round, as they do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from devicelab.aggregation.norms import l2_norm
from devicelab.aggregation.rule import Rule
from devicelab.aggregation.update import ClientUpdate
from devicelab.config import Experiment
from devicelab.data.shards import read_shard
from devicelab.errors import ConfigError, StoreError
from devicelab.plans.signature import Role
from devicelab.rounds.averaging import rule_for, server_for
from devicelab.rounds.central import Central
from devicelab.rounds.jobs import Asking, Parameters
from devicelab.rounds.runs import find_trained, setup_of
from devicelab.rounds.setup import Setup
from devicelab.rounds.subtables import Subtables
from devicelab.runner.messages import Metric, summed_metrics
from devicelab.runner.onhost import HostEngines, Trained
from devicelab.store.records import CheckpointRecord, EvaluationRecord, JobState, UpdateRecord
from devicelab.store.run import RunReader

__all__ = ["TOLERANCE", "Difference", "RoundVerified", "Verification", "verify_run"]

TOLERANCE: Final = 1e-3
_SMALL: Final = 0.01  # a number below it is compared as if it were that large: a loss of almost nothing
_ENDED_BADLY: Final = (JobState.FAILED, JobState.LATE, JobState.REJECTED)

Arrays = Mapping[str, NDArray[Any]]
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Difference:
    """A number that is not what it should be.

    Attributes:
        what: Which number: ``model``, ``norm``, ``loss_before``, ``loss_after``, ``eval/…`` or ``test/…``.
        said: What the run says; for ``model``, how long its step is.
        computed: What it is on this host; for ``model``, how far from its step that of this host is.
        device: The phone whose number it is; None if it is that of several, or of the host.
        client: The client that it is about; None if it is about all.
    """

    what: str
    said: float
    computed: float
    device: str | None = None
    client: str | None = None


@dataclass(frozen=True, slots=True)
class RoundVerified:
    """One round. Errors are relative; None where nothing was compared.

    Attributes:
        round: Its number.
        clients: How many clients were trained again.
        model: Distance between the two models after the round, in lengths of the step that the round took;
            None in a private round, whose noise nobody can draw again.
        updates: The largest error in what is known of the clients' updates: norms, losses before and after.
        metrics: The largest error in what was measured after the round, on phones and on the host; None if
            nothing was.
        differences: What is further off than the tolerance.
    """

    round: int
    clients: int
    model: float | None
    updates: float | None
    metrics: float | None
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class Verification:
    """All of a run's finished rounds.

    Attributes:
        run: The run's id.
        tolerance: How far off, relative, is right.
        rounds: In order.
    """

    run: str
    tolerance: float
    rounds: tuple[RoundVerified, ...]

    @property
    def right(self) -> bool:
        """Whether there is no difference."""
        return not any(each.differences for each in self.rounds)


def verify_run(
    state: Path,
    experiment: Experiment,
    *,
    run: str | None = None,
    tolerance: float = TOLERANCE,
    tell: Tell = lambda _: None,
) -> Verification:
    """Do a run's finished rounds again on this host.

    Args:
        state: The state directory.
        experiment: Whose run; its data must be at hand.
        run: Which run: the beginning of its id, or its directory; the experiment's newest by default.
        tolerance: How far off, relative, is right. Phones of another kind round differently.
        tell: Told what is being done, in a few words.

    Raises:
        ConfigError: There is no such run, it has no finished round, or its experiment or data
            are others by now.
        PlanError: Its plan does not load here.
        StoreError: Its directory is damaged.
    """
    path = find_trained(state, experiment, run)
    with RunReader(path) as opened:
        setup = setup_of(opened, experiment, instead="name another run with --run")
        checkpoints = opened.ledger.checkpoints()
        if len(checkpoints) < 2:
            raise ConfigError(
                f"the run {path.name} has no finished round to verify",
                hint=f"go on with it: devicelab run-round EXPERIMENT --resume --run {path.name}",
            )
        again = _Again(opened, setup, tolerance)
        rounds = []
        for before, after in pairwise(checkpoints):
            tell(f"round {after.round} of {checkpoints[-1].round} once more on this host")
            rounds.append(again.round(before, after))
    return Verification(path.name, tolerance, tuple(rounds))


class _Comparison:
    """Collects what is off in a round."""

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance
        self.differences: list[Difference] = []

    def numbers(
        self, what: str, said: float, computed: float, device: str | None = None, client: str | None = None
    ) -> float:
        """Compare two numbers; their relative error."""
        error = abs(said - computed) / max(abs(computed), _SMALL)
        error = error if math.isfinite(error) else math.inf
        self.within(error, Difference(what, said, computed, device, client))
        return error

    def within(self, error: float, difference: Difference) -> None:
        """Note a difference if the error is too large."""
        if error > self._tolerance:
            self.differences.append(difference)


class _Again:
    """One run, done again."""

    def __init__(self, run: RunReader, setup: Setup, tolerance: float) -> None:
        self._run = run
        self._setup = setup
        self._tolerance = tolerance
        self._asking = Asking(run.path.name, setup, Subtables(setup))
        self._engines = HostEngines(setup.plans)
        self._serials = {each.identity: each.serial for each in run.ledger.devices()}
        self._kept: dict[str, dict[str, NDArray[Any]]] = {}
        self._shards: dict[str, Arrays] = {}
        self._central: Central | None = None

    def round(self, before: CheckpointRecord, after: CheckpointRecord) -> RoundVerified:
        """Do one round again and compare."""
        found = _Comparison(self._tolerance)
        start, said = self._run.load_checkpoint(before), self._run.load_checkpoint(after)
        errors: list[float] = []
        records = self._run.ledger.updates(after.round, accepted=True)
        if not records and (
            self._setup.experiment.privacy is None or self._run.ledger.cohort(after.round)
        ):  # only a private round in which nobody was drawn is made all the same
            raise StoreError(
                f"the ledger of {self._run.path.name} is damaged: no update of round {after.round} is left",
                hint="restore the run from a copy",
            )
        rule = (
            None if self._setup.experiment.privacy is not None else rule_for(self._setup.experiment.aggregation)
        )
        for record, trained in self._trained(records, start, after.round):
            if rule is not None:
                weight = record.weight if record.weight is not None else float(record.examples)
                rule.add(ClientUpdate(trained.delta, weight, record.examples, record.client, record.device))
            errors += self._compare_update(found, record, trained)
        # Nobody can draw a private round's noise again, so its model is not compared.
        model = (
            None if rule is None else self._compare_models(found, start, said, self._next(before, start, rule))
        )
        updates = max(errors, default=None)
        metrics = max(self._compare_evaluations(found, after.round, said), default=None)
        return RoundVerified(after.round, len(records), model, updates, metrics, tuple(found.differences))

    def _next(self, before: CheckpointRecord, start: Arrays, rule: Rule) -> Arrays:
        """The model after a round whose updates the rule has taken in."""
        optimized = [i.name for i in self._setup.plans.train.signature.with_role(Role.PARAMETER)]
        server = server_for(self._setup.experiment.aggregation, optimized)
        server.load_state(self._run.load_server_state(before))
        return server.step(start, rule.result())

    def _trained(
        self, records: list[UpdateRecord], start: Arrays, number: int
    ) -> Iterator[tuple[UpdateRecord, Trained]]:
        if not records:
            return
        private = self._setup.private
        task = self._asking.train(
            "verify",
            round_number=number,
            clients=[each.client for each in records],
            parameters=Parameters(start, private),
        )
        for record, client in zip(records, task.job.clients, strict=True):
            kept = self._kept.get(record.client, {})
            shard = self._shard(record.client, "train")
            trained = self._engines.train(task.job, client, {**private, **start}, shard, kept)
            if trained.kept:
                self._kept[record.client] = trained.kept
            yield record, trained

    def _compare_update(self, found: _Comparison, record: UpdateRecord, trained: Trained) -> list[float]:
        device = self._serials.get(record.device, record.device)
        pairs: list[tuple[str, float | None, float | None]] = [("norm", record.norm, trained.norm)]
        if record.loss_before is not None:  # else what is called the loss after is that of the last step
            pairs.append(("loss_before", record.loss_before, trained.before.loss if trained.before else None))
            pairs.append(("loss_after", record.loss_after, trained.after.loss if trained.after else None))
        return [
            found.numbers(what, said, computed, device, record.client)
            for what, said, computed in pairs
            if said is not None and computed is not None
        ]

    @staticmethod
    def _compare_models(found: _Comparison, start: Arrays, said: Arrays, computed: Arrays) -> float:
        """The distance of the two models in lengths of the step between the round's beginning and its end."""
        step = l2_norm(_difference(computed, start))
        distance = l2_norm(_difference(said, computed))
        error = distance / step if step else distance
        error = error if math.isfinite(error) else math.inf
        found.within(error, Difference("model", l2_norm(_difference(said, start)), distance))
        return error

    # --- what was measured ---

    def _compare_evaluations(self, found: _Comparison, number: int, model: Arrays) -> list[float]:
        errors = []
        for said in self._run.ledger.evaluations():
            if said.round != number:
                continue
            prefix = "eval" if said.place == "devices" else "test"
            examples, computed = self._measured(said, model)
            if examples != said.examples:
                found.within(math.inf, Difference(f"{prefix}/examples", said.examples, examples))
            for name, metric in computed.items():
                told = said.metrics.get(name)
                if told is None or not told.count or not metric.count:
                    told = Metric(math.nan, 1.0)
                value = metric.sum / metric.count if metric.count else math.nan
                errors.append(found.numbers(f"{prefix}/{name}", told.sum / told.count, value))
        return errors

    def _measured(self, said: EvaluationRecord, model: Arrays) -> tuple[int, Mapping[str, Metric]]:
        if said.place == "host":
            if self._setup.plans.evaluate is None or self._setup.shards.test is None:
                return 0, {}
            self._central = self._central or Central(self._setup)
            return self._central.examples, self._central.measure(model)
        clients = [
            client
            for job in self._run.ledger.jobs(said.round)
            if job.verb == "evaluate" and job.state not in _ENDED_BADLY
            for client in job.clients
        ]
        return self._on_devices(clients, model) if clients else (0, {})

    def _on_devices(self, clients: list[str], model: Arrays) -> tuple[int, Mapping[str, Metric]]:
        """What phones should have measured on what clients hold out."""
        private, part = self._setup.private, self._setup.experiment.evaluation.split
        parameters = Parameters(model, private)
        job = self._asking.evaluate("verify", clients=clients, parameters=parameters).job
        parts = []
        examples = 0
        for client in job.clients:
            shard = self._shard(client.client, part)
            kept = self._kept.get(client.client, {})
            measured = self._engines.evaluate(job, client, {**private, **model, **kept}, shard)
            examples += len(next(iter(shard.values())))
            parts.append(measured.metrics)
        return examples, summed_metrics(parts)

    def _shard(self, client: str, part: Any) -> Arrays:  # noqa: ANN401 - a Part
        shard = self._setup.shards.clients[client][part]
        known = self._shards.get(shard.sha256)
        if known is None:
            known = self._shards[shard.sha256] = read_shard(shard)
        return known


def _difference(one: Arrays, other: Arrays) -> dict[str, NDArray[Any]]:
    return {name: one[name].astype(np.float64) - other[name] for name in one}
