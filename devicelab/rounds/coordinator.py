"""Rounds, one after the other: select, configure, train, collect, aggregate, evaluate, checkpoint.

Everything is in the ledger before anything happens because of it, and every step may be done again: a run that
was interrupted anywhere goes on by going through the same steps. What is decided stays decided: who is in the
cohort and on which device (once the round is configured), whose update counts (once it is stored), and that no
more updates are wanted (once the round is aggregated).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, Final

from numpy.typing import NDArray

from devicelab.config.experiment import Place
from devicelab.errors import ConfigError, NoDeviceError, RoundError
from devicelab.rounds.aggregate import next_model
from devicelab.rounds.bookkeeping import payload_of
from devicelab.rounds.central import Central
from devicelab.rounds.crew import Crew
from devicelab.rounds.evaluation import Tally, measure, plan_evaluation, values
from devicelab.rounds.events import (
    CohortChosen,
    DevicePhase,
    Evaluated,
    Event,
    Excluded,
    Exclusion,
    Phase,
    RoundFinished,
    RoundResult,
    RoundStarted,
    RunFinished,
    RunStarted,
)
from devicelab.rounds.health import health_event, sample_of
from devicelab.rounds.jobs import Asking, Parameters, Task, job_id
from devicelab.rounds.lanes import Lanes
from devicelab.rounds.members import choose_cohort, require_quorum
from devicelab.rounds.part import Context, Part, settle
from devicelab.rounds.placing import Placing, place_clients
from devicelab.rounds.setup import Setup
from devicelab.rounds.station import Station
from devicelab.rounds.subtables import Subtables
from devicelab.rounds.team import Countdown, Team
from devicelab.store.records import (
    CheckpointRecord,
    CohortClient,
    JobRecord,
    JobState,
    RoundRecord,
    RoundState,
)
from devicelab.store.run import Run

__all__ = ["Coordinator", "no_device"]

_WAITING: Final = (JobState.PLANNED, JobState.PUSHED, JobState.STARTED, JobState.DONE)

Model = dict[str, NDArray[Any]]


class Coordinator:
    """Brings one run forward. Its devices' work is done in their threads, everything else in the caller's.

    Args:
        run: The run, opened to write.
        setup: The experiment, its plan and its data.
        crew: The devices.
        lanes: Turns for what is large.
        tell: Hears events, one at a time.
    """

    def __init__(
        self, run: Run, setup: Setup, crew: Crew, *, lanes: Lanes, tell: Callable[[Event], object]
    ) -> None:
        self._run = run
        self._ledger = run.ledger
        self._setup = setup
        self._crew = crew
        self._subtables = Subtables(setup)
        self._asking = Asking(run.path.name, setup, self._subtables)
        self._tell = tell
        self._last = setup.experiment.round.rounds
        self._team = Team()
        self._planned: dict[str, tuple[JobRecord, Task]] = {}  # by this process, in the round that is under way
        self._context = Context(run, setup, lanes, crew.gates, tell, self._team.check, crew.doubt)

    def advance(self, last: int) -> list[RoundResult]:
        """Go on with the run until a round is done.

        Args:
            last: Which round.

        Returns:
            What the rounds that were done now came to; nothing is begun where all are done already.

        Raises:
            NoDeviceError: There is no device to work with.
            RoundError: A round failed: too few updates. It may be tried again.
            StoreError: This host cannot store what comes.
            KeyboardInterrupt: Somebody wants it to end. What devices do, they go on doing.
        """
        point = self._run.resume_point()
        self._last = last
        self._ledger.ask_rounds(last)
        if point.next_round <= last:
            resumed = point.round is not None or point.next_round > 1
            name = self._setup.experiment.name
            self._tell(RunStarted(self._run.path.name, name, point.next_round, last, resumed=resumed))
        try:
            results = [self._round(number) for number in range(point.next_round, last + 1)]
            self._team.join()
            self._settle()
        except BaseException:
            self._team.interrupt()
            raise
        finally:
            self._team.join()
        checkpoint = self._checkpoint()
        if results:
            self._tell(RunFinished(self._run.path.name, str(self._run.checkpoint_path(checkpoint))))
        return results

    def _settle(self) -> None:
        """Have nothing left on the devices that are here: the last commits may have been interrupted."""
        if self._ledger.leftovers():
            stations, _ = self._crew.muster()
            for station in stations:
                self._team.submit(station, partial(_settled, self._context, station))
            self._team.join()

    def _round(self, number: int) -> RoundResult:
        record = self._ledger.begin_round(number)
        began = time.time() if record.state is RoundState.SELECTING else record.started
        self._tell(RoundStarted(number))
        self._team.join()
        stations, excluded = self._crew.muster()
        try:
            return self._through(record, stations, excluded, began)
        except RoundError as error:
            self._team.join()
            self._ledger.fail_round(number, error.message)
            raise

    def _through(
        self, record: RoundRecord, stations: list[Station], excluded: list[Exclusion], began: float
    ) -> RoundResult:
        """The steps of a round, from wherever it stands."""
        number, before = record.number, self._checkpoint()
        parameters = self._parameters(self._run.load_checkpoint(before))
        placing: Placing | None = None
        # of a private round whose noisy mean is made no update is wanted any more
        made = self._ledger.release(number) is not None
        if record.state is RoundState.SELECTING and not made:
            placing = self._placing(stations, excluded)
            self._configure(record, stations, placing, parameters)
        if record.state is not RoundState.AGGREGATED and not made:
            self._train(record, stations, parameters)
            require_quorum(self._run, self._setup, number, self._serials())
            self._ledger.advance_round(number, RoundState.AGGREGATED)
        started = time.time()
        model, memory = next_model(self._run, self._setup, self._subtables, number, before)
        self._ledger.record_phase(number, "aggregate", started=started, seconds=time.time() - started)
        self._evaluate(number, model, stations, placing)
        self._run.save_checkpoint(number, model, memory)
        self._ledger.forget_updates(number)
        self._run.sweep()
        result = self._result(number, began)
        self._tell(RoundFinished(result))
        return result

    # --- select and configure ---

    def _placing(self, stations: Sequence[Station], excluded: Sequence[Exclusion]) -> Placing:
        if not stations:
            raise no_device(excluded)
        placing = place_clients(self._setup.shards, stations, self._ledger, keeps=self._setup.keeps)
        return Placing(placing.device, (*excluded, *placing.excluded))

    def _configure(
        self, record: RoundRecord, stations: Sequence[Station], placing: Placing, parameters: Parameters
    ) -> None:
        """Choose the cohort and plan everybody's job, in one transaction."""
        number, shards = record.number, self._setup.shards.clients
        self._planned.clear()
        counted = {each.client: each.device for each in self._ledger.updates(number, accepted=True)}
        device = {**placing.device, **counted}
        cohort = choose_cohort(self._run, self._setup, number, available=device, counted=list(counted))
        by_device = {
            station.identity: sorted(c for c in cohort if c not in counted and device[c] == station.identity)
            for station in stations
        }
        serials = {station.identity: station.serial for station in stations}
        with self._ledger.together():
            self._ledger.set_cohort(
                number, [CohortClient(c, device[c], shards[c]["train"].examples) for c in cohort]
            )
            for each in placing.excluded:
                self._ledger.exclude(number, each.device, each.reason, each.clients)
            for station in stations:
                self._ledger.record_device(station.identity, station.serial, station.device.facts.summary())
                if clients := by_device[station.identity]:
                    job = job_id(self._run.path.name, "r", number, station.identity, record.attempt)
                    self._planned[job] = self._plan(job, number, station.identity, clients, parameters)
                    self._ledger.record_samples(job, [sample_of(station.device.facts)])
            self._ledger.advance_round(number, RoundState.CONFIGURED)
        chosen = {serials[key]: tuple(clients) for key, clients in by_device.items() if clients}
        self._tell(CohortChosen(number, chosen, placing.excluded))
        for station in stations:
            if by_device[station.identity]:
                self._tell(health_event(number, station.serial, sample_of(station.device.facts)))

    def _plan(
        self, job: str, number: int, device: str, clients: Sequence[str], parameters: Parameters
    ) -> tuple[JobRecord, Task]:
        """A job and its record; the same again for one that is planned already."""
        task = self._asking.train(job, round_number=number, clients=clients, parameters=parameters)
        try:
            record = self._ledger.plan_job(
                job, number=number, device=device, clients=clients, payload=payload_of(task.job)
            )
        except ValueError as error:
            raise ConfigError(
                f"round {number} cannot go on as it began: {error}",
                hint="undo what was changed in the experiment, or begin a new run",
            ) from error
        if record.state is JobState.PLANNED:  # from now on something of it may be on the device
            self._ledger.advance_job(job, JobState.PUSHED)
        return record, task

    # --- train and collect ---

    def _train(self, record: RoundRecord, stations: Sequence[Station], parameters: Parameters) -> None:
        number = record.number
        here = {station.identity: station for station in stations}
        jobs = [job for job in self._ledger.jobs(number) if job.verb == "train" and job.state in _WAITING]
        if record.state in (RoundState.SELECTING, RoundState.CONFIGURED):
            self._ledger.advance_round(number, RoundState.TRAINING)
        undecided = Countdown(job.id for job in jobs)
        for job in jobs:
            station = here.get(job.device)
            if station is None:
                self._absent(job)
                undecided.done(job.id)
                continue
            planned, task = self._planned.get(job.id) or self._plan(
                job.id, number, job.device, job.clients, parameters
            )
            decided = partial(undecided.done, job.id)
            part = Part(self._context, station, planned, task, decided)
            self._team.submit(station, part.run, decided)
        self._team.wait_for(undecided)
        self._ledger.advance_round(number, RoundState.COLLECTING)

    def _absent(self, job: JobRecord) -> None:
        reason = "it is not here, or not ready, to go on with what it was asked"
        serial = self._serials().get(job.device, job.device)
        with self._ledger.together():
            self._ledger.end_job(job.id, JobState.FAILED, reason)
            self._ledger.exclude(job.round, job.device, reason, job.clients)
        self._tell(DevicePhase(job.round, serial, Phase.FAILED, reason))
        self._tell(Excluded(job.round, Exclusion(serial, reason, job.clients)))

    # --- evaluate ---

    def _evaluate(
        self, number: int, model: Model, stations: Sequence[Station], placing: Placing | None
    ) -> None:
        """Measure a model where the experiment wants it, before it becomes the checkpoint."""
        experiment = self._setup.experiment
        every = experiment.evaluation.every
        if not every or (number % every and number != self._last):
            return
        known = {each.place for each in self._ledger.evaluations() if each.round == number}
        places = experiment.evaluates_on
        if "devices" in places and "devices" not in known and stations:
            self._on_devices(number, model, stations, placing or self._placing(stations, ()))
        if "host" in places and "host" not in known:
            measured = self._central.measure(model)
            self._note(number, "host", values(measured), self._central.examples)
            self._ledger.record_evaluation(number, "host", measured, examples=self._central.examples)

    @cached_property
    def _central(self) -> Central:
        return Central(self._setup)

    def _on_devices(self, number: int, model: Model, stations: Sequence[Station], placing: Placing) -> None:
        shards, parameters = self._setup.shards.clients, self._parameters(model)
        part = self._setup.experiment.evaluation.split
        tally, work = Tally(), []
        for station in stations:
            clients = sorted(
                client
                for client, device in placing.device.items()
                if device == station.identity and part in shards[client]
            )
            if clients:
                job = job_id(self._run.path.name, "e", number, station.identity)
                task = self._asking.evaluate(job, clients=clients, parameters=parameters)
                record = plan_evaluation(self._context, station, task, number)
                work.append((station, measure(self._context, station, record, task)))
        remaining = Countdown(str(place) for place in range(len(work)))
        for place, (station, one) in enumerate(work):
            self._team.submit(station, partial(one, tally), partial(remaining.done, str(place)))
        self._team.wait_for(remaining)
        if tally.examples:
            metrics = tally.metrics()
            self._note(number, "devices", values(metrics), tally.examples)
            self._ledger.record_evaluation(number, "devices", metrics, examples=tally.examples)

    def _note(self, number: int, where: Place, metrics: dict[str, float], examples: int) -> None:
        self._tell(Evaluated(number, where, metrics, examples))

    # --- parts ---

    def _parameters(self, model: Model) -> Parameters:
        return Parameters(model, self._setup.private)

    def _checkpoint(self) -> CheckpointRecord:
        checkpoint = self._ledger.checkpoint()
        assert checkpoint is not None  # a run is made with its first one
        return checkpoint

    def _result(self, number: int, began: float) -> RoundResult:
        summary = self._ledger.summary(number)
        assert summary is not None  # it was begun
        release = self._ledger.release(number)
        metrics = values(summary.metrics)
        for each in self._ledger.evaluations():
            if each.round == number:
                prefix = "eval" if each.place == "devices" else "test"
                metrics |= {f"{prefix}/{name}": value for name, value in values(each.metrics).items()}
        return RoundResult(
            round=number,
            devices=summary.devices,
            clients=summary.clients,
            examples=summary.examples,
            loss_before=summary.loss_before,
            loss_after=summary.loss_after,
            metrics=metrics,
            seconds=time.time() - began,
            bytes_sent=summary.bytes_sent,
            bytes_received=summary.bytes_received,
            excluded=self._missing(number),
            epsilon=release.epsilon if release is not None else None,
        )

    def _missing(self, number: int) -> tuple[Exclusion, ...]:
        """Who is not part of a round after all: what failed in one attempt may have worked in the next."""
        accepted = self._ledger.updates(number, accepted=True)
        clients, devices = {each.client for each in accepted}, {each.device for each in accepted}
        names = self._serials()
        return tuple(
            Exclusion(names.get(each.device, each.device), each.reason, each.clients)
            for each in self._ledger.exclusions(number)
            if not (set(each.clients) <= clients if each.clients else each.device in devices)
        )

    def _serials(self) -> dict[str, str]:
        """How devices are called, by identity."""
        return {each.identity: each.serial for each in self._ledger.devices()}


def no_device(excluded: Sequence[Exclusion]) -> NoDeviceError:
    """The error where no device may work; says why none of those on the desk may."""
    reasons = "; ".join(f"{each.device} {each.reason}" for each in excluded)
    hint = reasons or "plug a phone in, or try virtual ones: devicelab virtual up --phones 4"
    return NoDeviceError("there is no device to work with", hint=hint)


def _settled(context: Context, station: Station) -> None:
    settle(context, station)
