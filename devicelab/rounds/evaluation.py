"""How good a global model is on what clients hold out: measured on their devices, told as sums and counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from threading import Lock

from devicelab.deadline import Deadline
from devicelab.errors import UpdateError
from devicelab.rounds.bookkeeping import payload_of, record_outcome
from devicelab.rounds.events import Phase
from devicelab.rounds.intake import check_numbers
from devicelab.rounds.jobs import Task
from devicelab.rounds.part import Context
from devicelab.rounds.station import JobPhone, Station
from devicelab.rounds.worker import Worker
from devicelab.runner.job import Job
from devicelab.runner.messages import EvaluateResult, Metric, Result, summed_metrics
from devicelab.store.records import JobRecord, JobState

__all__ = ["Tally", "check_measured", "measure", "plan_evaluation", "values"]


class Tally:
    """Adds up what devices measured, whoever is first; the sums are made in the order of the devices' names.

    Attributes:
        examples: How many examples it stands for so far.
    """

    def __init__(self) -> None:
        self._results: dict[str, EvaluateResult] = {}
        self._guard = Lock()

    def add(self, device: str, result: EvaluateResult) -> None:
        """Take one device's result; said twice, it counts once."""
        with self._guard:
            self._results[device] = result

    @property
    def examples(self) -> int:
        """How many examples were looked at."""
        return sum(result.examples for result in self._results.values())

    def metrics(self) -> dict[str, Metric]:
        """Sums and counts over all clients, by the metric's name."""
        results = [self._results[device] for device in sorted(self._results)]
        return summed_metrics(client.metrics for result in results for client in result.clients)


def values(metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Each metric's value: all sums over all counts. One that was never counted has none."""
    return {name: metric.sum / metric.count for name, metric in sorted(metrics.items()) if metric.count}


def plan_evaluation(context: Context, station: Station, task: Task, number: int) -> JobRecord:
    """Say in the ledger what a device is going to measure. It may be on the device from then on."""
    ledger, job = context.run.ledger, task.job
    with ledger.together():
        record = ledger.plan_job(
            job.job,
            number=number,
            device=station.identity,
            clients=[each.client for each in job.clients],
            payload=payload_of(job),
            verb="evaluate",
        )
        if record.state is JobState.PLANNED:
            ledger.advance_job(job.job, JobState.PUSHED)
    return record


def measure(context: Context, station: Station, record: JobRecord, task: Task) -> Callable[[Tally], None]:
    """The work of one device, to be done in its thread.

    What fails, fails for this device alone: its examples are missing from the tally and the ledger says why.
    """

    def work(tally: Tally) -> None:
        config = context.setup.experiment.round
        phone = JobPhone(station, task, lanes=context.lanes, pull_to=context.run.incoming(record.id))

        def take(result: Result) -> None:
            tally.add(station.identity, check_measured(result, task.job, context, device=station.serial))

        began = time.time()
        worker = Worker(
            phone=phone,
            round_number=record.round,
            deadline=Deadline(f"evaluation of round {record.round}", config.deadline, station.serial),
            idle=config.idle,
            retries=config.retries,
            take=take,
            tell=context.tell,
            interrupted=context.interrupted,
            away=config.idle,  # nothing that it has done would be lost
            wary=any(
                job.device == station.identity and job.state in (JobState.FAILED, JobState.LATE)
                for job in context.run.ledger.jobs(record.round)
                if job.verb == "train"
            ),
        )
        outcome = worker.run()
        if outcome.phase is not Phase.DONE:
            context.doubt()
        context.run.ledger.count_bytes(record.id, sent=phone.bytes_sent, received=phone.bytes_received)
        record_outcome(context.run, record, outcome, began=began)

    return work


def check_measured(result: Result, job: Job, context: Context, *, device: str) -> EvaluateResult:
    """Hold what a device says it measured against what it was asked for.

    Raises:
        UpdateError: It is the answer to something else, or claims other examples than its clients hold out,
            or numbers that cannot be (:func:`devicelab.rounds.intake.check_numbers`).
    """
    if not isinstance(result, EvaluateResult) or result.job != job.job:
        raise UpdateError("it answered with something that is no evaluation of this job", device=device)
    shards, part = context.setup.shards.clients, context.setup.experiment.evaluation.split
    expected = [(each.client, shards[each.client][part].examples) for each in job.clients]
    if [(each.client, each.examples) for each in result.clients] != expected:
        raise UpdateError("it evaluated other clients or examples than it was asked to", device=device)
    assert context.setup.plans.evaluate is not None
    check_numbers(result.clients, context.setup.plans.evaluate.signature, device=device)
    return result
