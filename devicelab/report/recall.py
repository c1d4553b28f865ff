"""A run's history from its ledger."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import fsum
from typing import Final, Protocol, TypeVar

import yaml

from devicelab.report.history import Missing, Part, Reading, RoundHistory, RunHistory
from devicelab.runner.messages import Metric
from devicelab.store.reading import LedgerReader
from devicelab.store.records import (
    DeviceRecord,
    EvaluationRecord,
    ExclusionRecord,
    JobRecord,
    JobState,
    PhaseRecord,
    RoundRecord,
    RoundState,
    RoundSummary,
    RunRecord,
    UpdateRecord,
)

__all__ = ["recall", "state_of", "wanted_rounds"]

_BROUGHT: Final = frozenset({JobState.COLLECTED, JobState.COMMITTED, JobState.REMOVED})
_ENDED_BADLY: Final = frozenset({JobState.LATE, JobState.REJECTED, JobState.FAILED})
_PREFIX: Final = {"devices": "eval", "host": "test"}


def recall(ledger: LedgerReader, *, running: bool) -> RunHistory:
    """Read everything that a report tells.

    Args:
        ledger: The run's.
        running: Whether somebody is writing to it.

    Raises:
        StoreError: It cannot be read.
    """
    with ledger.snapshot():
        return _recall(ledger, running=running)


def _recall(ledger: LedgerReader, *, running: bool) -> RunHistory:
    run, summaries, jobs = ledger.run(), ledger.summaries(), ledger.jobs()
    names = _names(ledger.devices())
    evaluations = ledger.evaluations()
    measured = {number: _evaluated(evaluations, number) for number in {each.round for each in evaluations}}
    told = _Told(
        names,
        _by_round(jobs),
        _by_round(ledger.updates(accepted=True)),
        _by_round(ledger.phases()),
        _by_round(ledger.exclusions()),
        measured,
    )
    rounds = tuple(_round(summary, told) for summary in summaries)
    wanted = max(wanted_rounds(run) or 0, len(rounds))
    last = ledger.checkpoint()
    newest = summaries[-1].round if summaries else None
    state, reason = state_of(newest, 0 if last is None else last.round, wanted, running=running)
    times = [run.created, *(each.changed for each in jobs), *(each.created for each in evaluations)]
    times += [each.round.ended for each in summaries if each.round.ended is not None]
    return RunHistory(
        run=run.id,
        experiment=run.name,
        state=state,
        reason=reason,
        started=_when(run.created),
        ended=_when(max(times)),
        wanted=wanted,
        models={names[each.identity]: _model(each) for each in ledger.devices()},
        initial=measured.get(0, {}),
        rounds=rounds,
        readings=_readings(ledger, jobs, names, run.created),
        seed=run.seed,
        plan_sha256=run.plan_sha256,
        files=run.files,
        versions=run.versions,
        checkpoint="" if last is None else last.file,
        checkpoint_sha256="" if last is None else last.sha256,
        config=run.experiment,
        privacy=ledger.spent(),
    )


def wanted_rounds(run: RunRecord) -> int | None:
    """How many rounds a run is to have: as was last asked, else as its experiment's text says."""
    if run.rounds is not None:
        return run.rounds
    try:
        rounds = yaml.safe_load(run.experiment)["round"]["rounds"]
    except (yaml.YAMLError, TypeError, KeyError, ValueError, RecursionError):
        return None
    return rounds if type(rounds) is int and rounds > 0 else None


def _when(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _names(devices: Iterable[DeviceRecord]) -> dict[str, str]:
    """Devices as people know them: by serial, with the identity where two had the same one after another."""
    by_serial: dict[str, list[str]] = defaultdict(list)
    for each in devices:
        by_serial[each.serial].append(each.identity)
    return {
        identity: serial if len(identities) == 1 else f"{serial} ({identity})"
        for serial, identities in by_serial.items()
        for identity in identities
    }


def _model(device: DeviceRecord) -> str:
    model, android = device.facts.get("model"), device.facts.get("android")
    parts = [str(model)] if model else []
    parts += [f"Android {android}"] if android else []
    return ", ".join(parts)


def _means(metrics: Mapping[str, Metric]) -> dict[str, float]:
    return {name: value.sum / value.count for name, value in sorted(metrics.items()) if value.count}


def _evaluated(evaluations: Iterable[EvaluationRecord], number: int) -> dict[str, float]:
    return {
        f"{_PREFIX[each.place]}/{name}": value
        for each in evaluations
        if each.round == number
        for name, value in _means(each.metrics).items()
    }


def state_of(last: RoundRecord | None, checkpointed: int, wanted: int, *, running: bool) -> tuple[str, str]:
    """The state of a run in a word, and why it is not done.

    Args:
        last: The last round that was begun.
        checkpointed: How many rounds have a checkpoint.
        wanted: How many it is to have.
        running: Whether somebody is writing to it.
    """
    if running:
        return "running", ""
    if 0 < wanted <= checkpointed:
        return "done", ""
    if last is not None and last.state is RoundState.FAILED:
        which = f"round {last.number}"  # most reasons name it themselves
        return "failed", last.reason if last.reason.startswith(f"{which} ") else f"{which}: {last.reason}"
    if last is not None and not last.state.ended:
        return "stopped", f"in round {last.number}, {last.state}; run-round --resume goes on with it"
    return "stopped", ""


class _OfRound(Protocol):
    """A record that is about one round."""

    @property
    def round(self) -> int: ...


_Record = TypeVar("_Record", bound=_OfRound)


def _by_round(records: Iterable[_Record]) -> dict[int, list[_Record]]:
    found: dict[int, list[_Record]] = {}
    for each in records:
        found.setdefault(each.round, []).append(each)
    return found


@dataclass(frozen=True, slots=True)
class _Told:
    """What the ledger says, by round."""

    names: Mapping[str, str]
    jobs: Mapping[int, Sequence[JobRecord]]
    updates: Mapping[int, Sequence[UpdateRecord]]
    phases: Mapping[int, Sequence[PhaseRecord]]
    exclusions: Mapping[int, Sequence[ExclusionRecord]]
    measured: Mapping[int, Mapping[str, float]]

    def name(self, device: str) -> str:
        return self.names.get(device, device)


def _round(summary: RoundSummary, told: _Told) -> RoundHistory:
    number, record = summary.round.number, summary.round
    jobs, phases = told.jobs.get(number, []), told.phases.get(number, [])
    updates = told.updates.get(number, [])
    parts = [
        _part(told.name(device), device, jobs, phases, updates)
        for device in dict.fromkeys(job.device for job in jobs if job.verb == "train")
    ]
    states = {RoundState.CHECKPOINTED: "done", RoundState.FAILED: "failed"}
    return RoundHistory(
        number=number,
        state=states.get(record.state, "open"),
        reason=record.reason,
        started=_when(record.started),
        seconds=None if record.ended is None else max(record.ended - record.started, 0.0),
        host_seconds=_sums(phase for phase in phases if not phase.job),
        devices=summary.devices,
        clients=summary.clients,
        examples=summary.examples,
        loss_before=summary.loss_before,
        loss_after=summary.loss_after,
        metrics={**_means(summary.metrics), **told.measured.get(number, {})},
        bytes_sent=summary.bytes_sent,
        bytes_received=summary.bytes_received,
        parts=tuple(parts),
        missing=tuple(_missing(jobs, told.exclusions.get(number, []), told)),
    )


def _sums(phases: Iterable[PhaseRecord]) -> dict[str, float]:
    found: dict[str, float] = {}
    for each in phases:
        found[each.phase] = found.get(each.phase, 0.0) + each.seconds
    return found


def _part(
    name: str,
    device: str,
    jobs: Sequence[JobRecord],
    phases: Sequence[PhaseRecord],
    updates: Sequence[UpdateRecord],
) -> Part:
    """All that a device did in a round; a failed round that was begun anew may have given it several jobs."""
    own = [job for job in jobs if job.device == device]
    train = [job for job in own if job.verb == "train"]
    evaluate = {job.id for job in own if job.verb == "evaluate"}
    counted = [update for update in updates if update.device == device]
    seconds = _sums(phase for phase in phases if phase.device == device and phase.job not in evaluate)
    spent = fsum(phase.seconds for phase in phases if phase.job in evaluate)
    return Part(
        device=name,
        state="done" if any(job.state in _BROUGHT for job in train) else train[-1].state.value,
        clients=len(counted),
        examples=sum(update.examples for update in counted),
        loss_before=_mean((update.loss_before, update.examples) for update in counted),
        loss_after=_mean((update.loss_after, update.examples) for update in counted),
        bytes_sent=sum(job.bytes_sent for job in own),
        bytes_received=sum(job.bytes_received for job in own),
        seconds={**seconds, "evaluate": spent} if spent else seconds,
    )


def _mean(values: Iterable[tuple[float | None, int]]) -> float | None:
    known = [(value, examples) for value, examples in values if value is not None]
    total = sum(examples for _, examples in known)
    return fsum(value * examples for value, examples in known) / total if total else None


def _missing(
    jobs: Sequence[JobRecord], exclusions: Iterable[ExclusionRecord], told: _Told
) -> Iterable[Missing]:
    """Jobs that ended badly (their ids are of no use here), and exclusions that are about something else."""
    bad = [job for job in jobs if job.state in _ENDED_BADLY]
    for job in bad:
        how = job.state.value if job.verb == "train" else f"evaluation {job.state.value}"
        reason = job.reason.removeprefix(f"job {job.id}: ")
        yield Missing(told.name(job.device), how, reason, asked=tuple(job.clients))
    known = {(job.device, frozenset(job.clients)) for job in bad} | {(job.device, job.reason) for job in bad}
    for each in exclusions:
        if known.isdisjoint({(each.device, frozenset(each.clients)), (each.device, each.reason)}):
            yield Missing(told.name(each.device), "excluded", each.reason, each.clients)


def _readings(
    ledger: LedgerReader, jobs: Iterable[JobRecord], names: Mapping[str, str], began: float
) -> tuple[Reading, ...]:
    found = [
        Reading(
            names.get(job.device, job.device),
            sample.time - began,
            sample.battery_percent,
            sample.battery_celsius,
            sample.thermal_status,
        )
        for job in jobs
        for sample in ledger.samples(job.id)
    ]
    return tuple(sorted(found, key=lambda reading: reading.seconds))
