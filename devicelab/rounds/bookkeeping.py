"""What the ledger is told of one device's job, from its plan to its end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from devicelab.rounds.events import Phase
from devicelab.rounds.worker import Outcome
from devicelab.runner.job import Client, Job
from devicelab.runner.messages import ClientResult, TrainResult
from devicelab.store.records import JobRecord, JobState, UpdateFacts
from devicelab.store.run import Run

__all__ = ["facts_of", "job_from", "loss_after", "payload_of", "record_accepted", "record_outcome"]

_ENDS: Mapping[Phase, JobState] = {
    Phase.FAILED: JobState.FAILED,
    Phase.REJECTED: JobState.REJECTED,
    Phase.LATE: JobState.LATE,
}


def payload_of(job: Job) -> dict[str, Any]:
    """A job as the ledger keeps it."""
    document: dict[str, Any] = json.loads(job.to_json())
    return document


def job_from(payload: Mapping[str, Any]) -> Job:
    """The job that :func:`payload_of` was given."""
    values = {key: value for key, value in payload.items() if key != "protocol"}
    values["clients"] = tuple(Client(**each) for each in values.get("clients", ()))
    return Job(**values)


def facts_of(client: ClientResult) -> UpdateFacts:
    """What is kept of a client's part of an update."""
    return UpdateFacts(
        client=client.client,
        examples=client.examples,
        weight=client.weight or 0.0,
        loss_before=client.loss_before,
        loss_after=loss_after(client),
        norm=client.norm,
        clipped=client.clipped,
        metrics=client.metrics,
    )


def loss_after(client: ClientResult) -> float | None:
    """A client's loss after training: on its whole shard if that was measured, else in the last step."""
    return client.loss_last if client.loss_after is None else client.loss_after


def record_accepted(
    run: Run, record: JobRecord, result: TrainResult, update: Path, *, sent: int, received: int
) -> None:
    """Store an update and count its clients: when this returns, the device may forget it.

    Raises:
        UpdateError: A client has been counted already.
        StoreError: It cannot be stored.
    """
    facts = [facts_of(client) for client in result.clients]
    plain = {**asdict(result), "clients": len(result.clients)}
    with run.ledger.together():
        run.ledger.advance_job(record.id, JobState.DONE, result=plain)
        run.ledger.count_bytes(record.id, sent=sent, received=received)
    run.record_update(record.id, update, facts, sha256=result.update.sha256)


def record_outcome(run: Run, record: JobRecord, outcome: Outcome, *, began: float) -> None:
    """Say how a device's part ended and how long its phases took."""
    ledger = run.ledger
    with ledger.together():
        if outcome.phase in (Phase.REJECTED, Phase.LATE) and record.verb == "train":
            ledger.reject_update(record.id, outcome.reason, state=_ENDS[outcome.phase])
        elif outcome.phase is not Phase.DONE:
            ledger.end_job(record.id, _ENDS[outcome.phase], outcome.reason)
        elif outcome.removed:
            ledger.advance_job(record.id, JobState.REMOVED)
        if outcome.removed:
            ledger.clear_job(record.id)
        at = began
        for phase, seconds in outcome.seconds.items():
            ledger.record_phase(record.round, phase, started=at, seconds=seconds, job=record.id)
            at += seconds
