"""Between rows of the ledger and its records."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from sqlite3 import Row
from typing import Any

from devicelab.runner.messages import Metric
from devicelab.store.records import (
    CheckpointRecord,
    CohortClient,
    DeviceRecord,
    EvaluationRecord,
    EventRecord,
    ExclusionRecord,
    JobRecord,
    JobState,
    PhaseRecord,
    RoundRecord,
    RoundState,
    RunRecord,
    Sample,
    UpdateRecord,
)
from devicelab.store.releases import ReleaseRecord

__all__ = [
    "checkpoint",
    "cohort_client",
    "device",
    "encoded",
    "encoded_metrics",
    "evaluation",
    "event",
    "exclusion",
    "job",
    "metrics",
    "phase",
    "release",
    "round_",
    "run",
    "sample",
    "update",
]


def encoded(value: object) -> str:
    """Compact JSON, the same for the same value; what is not a finite number becomes null."""
    return json.dumps(_plain(value), separators=(",", ":"), sort_keys=True, ensure_ascii=False, allow_nan=False)


def _plain(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value


def encoded_metrics(values: Mapping[str, Metric]) -> str:
    """Metrics as JSON: name to sum and count."""
    return encoded({name: [value.sum, value.count] for name, value in values.items()})


def metrics(text: str) -> dict[str, Metric]:
    """What :func:`encoded_metrics` wrote."""
    nan = math.nan
    return {
        name: Metric(nan if total is None else total, nan if count is None else count)
        for name, (total, count) in json.loads(text).items()
    }


def run(row: Row) -> RunRecord:
    """A row of ``run``."""
    return RunRecord(
        id=row["id"],
        name=row["name"],
        seed=int(row["seed"]),
        experiment=row["experiment"],
        plan_sha256=row["plan_sha256"],
        files=json.loads(row["files"]),
        versions=json.loads(row["versions"]),
        created=row["created"],
        rounds=row["rounds"],
    )


def device(row: Row) -> DeviceRecord:
    """A row of ``devices``."""
    return DeviceRecord(row["identity"], row["serial"], json.loads(row["facts"]))


def round_(row: Row) -> RoundRecord:
    """A row of ``rounds``."""
    seed = None if row["seed"] is None else int(row["seed"])
    return RoundRecord(
        number=row["number"],
        state=RoundState(row["state"]),
        attempt=row["attempt"],
        seed=seed,
        started=row["started"],
        ended=row["ended"],
        reason=row["reason"],
    )


def release(row: Row) -> ReleaseRecord:
    """A row of ``releases``."""
    return ReleaseRecord(**{key: row[key] for key in row.keys() if key != "kept"})  # noqa: SIM118 - not a mapping


def cohort_client(row: Row) -> CohortClient:
    """A row of ``cohort``."""
    return CohortClient(row["client"], row["device"], row["examples"])


def exclusion(row: Row) -> ExclusionRecord:
    """A row of ``exclusions``."""
    return ExclusionRecord(row["round"], row["device"], row["reason"], tuple(json.loads(row["clients"])))


def job(row: Row) -> JobRecord:
    """A row of ``jobs``."""
    return JobRecord(
        id=row["id"],
        round=row["round"],
        device=row["device"],
        verb=row["verb"],
        attempt=row["attempt"],
        state=JobState(row["state"]),
        reason=row["reason"],
        gone=bool(row["gone"]),
        clients=tuple(json.loads(row["clients"])),
        payload=json.loads(row["payload"]),
        result=None if row["result"] is None else json.loads(row["result"]),
        bytes_sent=row["bytes_sent"],
        bytes_received=row["bytes_received"],
        created=row["created"],
        changed=row["changed"],
    )


def update(row: Row) -> UpdateRecord:
    """A row of ``updates`` with its job's device."""
    values: dict[str, Any] = {key: row[key] for key in row.keys() if key != "id"}  # noqa: SIM118 - no mapping
    for key in ("accepted", "kept", "clipped"):
        values[key] = bool(values[key])
    return UpdateRecord(**{**values, "metrics": metrics(row["metrics"])})


def evaluation(row: Row) -> EvaluationRecord:
    """A row of ``evaluations``."""
    return EvaluationRecord(
        row["round"], row["place"], row["examples"], metrics(row["metrics"]), row["created"]
    )


def checkpoint(row: Row) -> CheckpointRecord:
    """A row of ``checkpoints``."""
    return CheckpointRecord(
        row["round"], row["file"], row["sha256"], row["bytes"], row["server_state"], row["created"]
    )


def phase(row: Row) -> PhaseRecord:
    """A row of ``phases`` with its job's device."""
    return PhaseRecord(
        row["round"], row["job"], row["device"] or "", row["phase"], row["started"], row["seconds"]
    )


def sample(row: Row) -> Sample:
    """A row of ``samples``."""
    return Sample(row["time"], row["battery_percent"], row["battery_celsius"], row["thermal_status"])


def event(row: Row) -> EventRecord:
    """A row of ``events``."""
    return EventRecord(row["time"], row["round"], row["device"], row["kind"], row["text"])
