"""One device's part of a round: the work, what earlier rounds left on it, and what the ledger is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from devicelab.deadline import Deadline
from devicelab.devices.health import Gates
from devicelab.rounds.bookkeeping import job_from, loss_after, record_accepted, record_outcome
from devicelab.rounds.events import DeviceUpdate, Event, Excluded, Exclusion, Phase
from devicelab.rounds.health import HealthWatch
from devicelab.rounds.intake import Asked, check_result, check_update
from devicelab.rounds.jobs import Task
from devicelab.rounds.lanes import Lanes
from devicelab.rounds.setup import Setup
from devicelab.rounds.station import JobPhone, Station
from devicelab.rounds.worker import Outcome, Step, Worker
from devicelab.runner.messages import ClientResult, Result, TrainResult
from devicelab.store.records import JobRecord, JobState
from devicelab.store.run import Run

__all__ = ["Context", "Part", "settle"]

_SETTLE: Final = 30.0  # seconds for what earlier rounds left on a device


@dataclass(frozen=True)
class Context:
    """What all parts of a run share.

    Attributes:
        run: Its directory.
        setup: The experiment, its plan and its data.
        lanes: Turns for what is large.
        gates: The health limits.
        tell: Hears events.
        interrupted: Raises InterruptedRoundError once the run is not to go on in this process.
        doubt: Called when something went wrong with a device.
    """

    run: Run
    setup: Setup
    lanes: Lanes
    gates: Gates
    tell: Callable[[Event], object]
    interrupted: Callable[[], object]
    doubt: Callable[[], object]


class Part:
    """A training job on a device.

    Args:
        context: What all parts share.
        station: The device.
        record: The job, as it is planned in the ledger.
        task: The job and its files.
        decided: Called once it is clear whether there is an update, in the device's thread.
    """

    def __init__(
        self,
        context: Context,
        station: Station,
        record: JobRecord,
        task: Task,
        decided: Callable[[], object],
    ) -> None:
        self._context = context
        self._station = station
        self._record = record
        self._decided = decided
        setup = context.setup
        self._asked = Asked(
            task.job,
            {each.client: setup.shards.clients[each.client]["train"].examples for each in task.job.clients},
            setup.plans.train.signature,
            {table: len(numbers) for table, numbers in task.rows.items()},
        )
        self._phone = JobPhone(
            station,
            task,
            lanes=context.lanes,
            pull_to=context.run.incoming(record.id),
            largest=self._asked.largest,
            keeps=setup.keeps,
        )
        self._began = time.time()
        self._seconds: dict[str, float] = {}

    def run(self) -> None:
        """Do it, to its end; runs in the device's thread.

        Raises:
            InterruptedRoundError: The run is not to go on in this process.
            StoreError, ConfigError, OSError: This host cannot do its share.
        """
        context, record = self._context, self._record
        config = context.setup.experiment.round
        self._began = time.time()
        watch = HealthWatch(
            self._station,
            record.id,
            record.round,
            gates=context.gates,
            ledger=context.run.ledger,
            tell=context.tell,
        )
        worker = Worker(
            phone=self._phone,
            round_number=record.round,
            deadline=Deadline(f"round {record.round}", config.deadline, self._station.serial),
            idle=config.idle,
            retries=config.retries,
            take=self._take,
            tell=context.tell,
            health=watch,
            interrupted=context.interrupted,
            has_taken=self._decided,
            seconds=self._seconds,
        )
        if settle(context, self._station, except_for=record.id) or not context.setup.keeps:
            outcome = worker.run()
        else:
            reason = "what its clients keep of an earlier round cannot be put in its place"
            outcome = Outcome(Phase.FAILED, reason, removed=True, seconds={})
        record_outcome(context.run, record, outcome, began=self._began)
        if not outcome.removed:
            context.doubt()
        if outcome.phase is not Phase.DONE:
            give_up(context, record, self._station.serial, outcome)
        self._decided()

    def _take(self, result: Result) -> None:
        """Check what came and store it."""
        context, record, serial = self._context, self._record, self._station.serial
        update = context.run.incoming(record.id)
        checked = check_result(result, self._asked, device=serial)
        check_update(update, checked, self._asked, device=serial)
        sent, received = self._phone.bytes_sent, self._phone.bytes_received
        record_accepted(context.run, record, checked, update, sent=sent, received=received)
        context.tell(
            DeviceUpdate(
                round=record.round,
                device=serial,
                clients=len(checked.clients),
                examples=checked.examples,
                loss_before=_mean(checked, lambda each: each.loss_before),
                loss_after=_mean(checked, loss_after),
                bytes_sent=sent,
                bytes_received=received,
                seconds=dict(self._seconds),
            )
        )


def give_up(context: Context, record: JobRecord, serial: str, outcome: Outcome) -> None:
    """Say that a round goes on without a device."""
    number, device = record.round, record.device
    context.doubt()
    context.run.ledger.exclude(number, device, f"{outcome.phase}: {outcome.reason}", record.clients)
    context.tell(Excluded(number, Exclusion(serial, outcome.reason, record.clients)))


def settle(context: Context, station: Station, *, except_for: str = "") -> bool:
    """Finish what earlier rounds left on a device: commit and remove what was stored, remove the rest.

    Args:
        context: What all parts share.
        station: The device.
        except_for: A job that is going to be done now.

    Returns:
        Whether nothing is left.
    """
    ledger, clean = context.run.ledger, True
    for record in ledger.leftovers():
        if record.device != station.identity or record.id == except_for:
            continue
        stored = record.state in (JobState.COLLECTED, JobState.COMMITTED)
        phone = JobPhone(
            station,
            Task(job_from(record.payload), ()),
            lanes=context.lanes,
            pull_to=context.run.incoming(record.id),
            keeps=context.setup.keeps and stored,
        )
        worker = Worker(
            phone=phone,
            round_number=record.round,
            deadline=Deadline(f"end of job {record.id}", _SETTLE, station.serial),
            idle=_SETTLE,
            retries=1,
            take=lambda _result: None,
            tell=lambda _event: None,
            interrupted=context.interrupted,
        )
        if worker.run(Step.FINISH).removed:
            if stored:
                ledger.advance_job(record.id, JobState.REMOVED)
            ledger.clear_job(record.id)
        else:
            clean = clean and not stored
    return clean


def _mean(result: TrainResult, loss: Callable[[ClientResult], float | None]) -> float | None:
    """Mean of what was measured, weighted by examples; None if nothing was."""
    known = [(value, each.examples) for each in result.clients if (value := loss(each)) is not None]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else None
