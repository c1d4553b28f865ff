"""What the ledger knows, as plain values. Times are seconds since 1970; devices are named by their identity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from devicelab.runner.messages import Metric

__all__ = [
    "CheckpointRecord",
    "CohortClient",
    "DeviceRecord",
    "EvaluationRecord",
    "EventRecord",
    "ExclusionRecord",
    "JobRecord",
    "JobState",
    "PhaseRecord",
    "Place",
    "RoundRecord",
    "RoundState",
    "RoundSummary",
    "RunRecord",
    "Sample",
    "UpdateFacts",
    "UpdateRecord",
]

Place = Literal["devices", "host"]


class RoundState(StrEnum):
    """How far a round is. It only goes forward; a failed one may be begun again."""

    SELECTING = "selecting"
    CONFIGURED = "configured"
    TRAINING = "training"
    COLLECTING = "collecting"
    AGGREGATED = "aggregated"
    CHECKPOINTED = "checkpointed"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether nothing more happens in the round."""
        return self in (RoundState.CHECKPOINTED, RoundState.FAILED)


class JobState(StrEnum):
    """How far a job is. Up to ``removed`` it goes forward; the last three are the other ways to end."""

    PLANNED = "planned"  # it has an id; nothing has been sent
    PUSHED = "pushed"  # its files are on the device
    STARTED = "started"
    DONE = "done"  # the device says so
    COLLECTED = "collected"  # its update is safely in the store
    COMMITTED = "committed"  # private values have taken their places on the device
    REMOVED = "removed"  # and nothing of it is left there
    LATE = "late"
    REJECTED = "rejected"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether nothing more is expected of it (but perhaps to clean up after it)."""
        return self in (JobState.REMOVED, JobState.LATE, JobState.REJECTED, JobState.FAILED)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The run itself.

    Attributes:
        id: Its id, which is its directory's name.
        name: The experiment's.
        seed: The experiment's.
        experiment: The YAML file as it was written.
        plan_sha256: Of the training plan.
        files: SHA-256 of every file of ``plan/`` by name.
        versions: Of what had a part in it: devicelab, Python, PyTorch, …
        created: When.
        rounds: How many rounds it was last asked to have in all; None if that was never recorded.
    """

    id: str
    name: str
    seed: int
    experiment: str
    plan_sha256: str
    files: Mapping[str, str]
    versions: Mapping[str, str]
    created: float
    rounds: int | None = None


@dataclass(frozen=True, slots=True)
class DeviceRecord:
    """A device that had a part in the run.

    Attributes:
        identity: Which one.
        serial: How it was last reached.
        facts: What it is, as ``discover --json`` says it.
    """

    identity: str
    serial: str
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """One round.

    Attributes:
        number: From 1.
        state: How far it is.
        attempt: How often it was begun, from 1.
        seed: Of its random choices, if it has one of its own.
        started: When it was begun first.
        ended: When it was checkpointed or failed.
        reason: Why it failed; empty if it did not.
    """

    number: int
    state: RoundState
    attempt: int
    seed: int | None
    started: float
    ended: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class CohortClient:
    """A client that takes part in a round.

    Attributes:
        client: Which one.
        device: Where it is trained.
        examples: How many its shard has.
    """

    client: str
    device: str
    examples: int


@dataclass(frozen=True, slots=True)
class ExclusionRecord:
    """A device, or some of its clients, that a round did without.

    Attributes:
        round: Which round.
        device: Its identity (or serial, if that is all that is known).
        reason: Why.
        clients: Which clients; empty: the whole device.
    """

    round: int
    device: str
    reason: str
    clients: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class JobRecord:
    """What one device was asked in one round.

    Attributes:
        id: The job's id, the same on the device.
        round: Which round.
        device: Which device.
        verb: ``train`` or ``evaluate``.
        attempt: Which try, from 1.
        state: How far it is.
        reason: Why it is late, rejected or failed; else empty.
        gone: Whether nothing of it is on the device any more.
        clients: In their order.
        payload: The job as it was sent (job.json).
        result: What the device answered, once it has.
        bytes_sent: To the device for it.
        bytes_received: From the device for it.
        created: When it was planned.
        changed: When this record changed last.
    """

    id: str
    round: int
    device: str
    verb: str
    attempt: int
    state: JobState
    reason: str
    gone: bool
    clients: tuple[str, ...]
    payload: Mapping[str, Any]
    result: Mapping[str, Any] | None
    bytes_sent: int
    bytes_received: int
    created: float
    changed: float


@dataclass(frozen=True, slots=True)
class UpdateFacts:
    """What is known of one client's part of an update; None where it was not measured.

    Attributes:
        client: Whose.
        examples: It was trained on.
        weight: What it counts, > 0.
        loss_before: On its shard with the global parameters.
        loss_after: The same with the trained ones.
        norm: L2 norm of its delta before clipping.
        clipped: Whether it was scaled down.
        metrics: The plan's own, by name.
    """

    client: str
    examples: int
    weight: float
    loss_before: float | None = None
    loss_after: float | None = None
    norm: float | None = None
    clipped: bool = False
    metrics: Mapping[str, Metric] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UpdateRecord:
    """One client's update.

    Attributes:
        round: Which round.
        client: Whose.
        job: Which job brought it.
        device: Where from.
        accepted: Whether it counts.
        reason: Why it does not.
        blob: SHA-256 of the file; the clients of a job share it. None where it was not kept.
        kept: Whether the file still is to be there.
        examples: It was trained on.
        weight: What it counts; None if it does not.
        loss_before: On its shard with the global parameters.
        loss_after: The same with the trained ones.
        norm: L2 norm of its delta before clipping.
        clipped: Whether it was scaled down.
        metrics: The plan's own, by name.
        created: When it was recorded.
    """

    round: int
    client: str
    job: str
    device: str
    accepted: bool
    reason: str
    blob: str | None
    kept: bool
    examples: int
    weight: float | None
    loss_before: float | None
    loss_after: float | None
    norm: float | None
    clipped: bool
    metrics: Mapping[str, Metric]
    created: float


@dataclass(frozen=True, slots=True)
class EvaluationRecord:
    """A global model was measured.

    Attributes:
        round: After which round; 0: the initial model.
        place: On the devices' held-out data, or on the host's.
        examples: On how many.
        metrics: By name.
        created: When.
    """

    round: int
    place: Place
    examples: int
    metrics: Mapping[str, Metric]
    created: float


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """A global model.

    Attributes:
        round: After which round; 0: the initial one.
        file: Its path in the run's directory.
        sha256: Of the file.
        bytes: Its size.
        server_state: Blob of the server optimizer's memory, if it has one.
        created: When.
    """

    round: int
    file: str
    sha256: str
    bytes: int
    server_state: str | None
    created: float


@dataclass(frozen=True, slots=True)
class PhaseRecord:
    """How long something took.

    Attributes:
        round: Which round.
        job: Whose; empty: the host's own work.
        device: Where; empty: the host.
        phase: ``push``, ``train``, ``pull``, ``aggregate``, …
        started: When.
        seconds: How long.
    """

    round: int
    job: str
    device: str
    phase: str
    started: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Sample:
    """How a device was while it worked on a job; None where it does not tell."""

    time: float
    battery_percent: float | None = None
    battery_celsius: float | None = None
    thermal_status: str | None = None


@dataclass(frozen=True, slots=True)
class EventRecord:
    """Something that happened, for people."""

    time: float
    round: int | None
    device: str | None
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class RoundSummary:
    """What a round came to, computed from its accepted updates and its jobs.

    Attributes:
        round: The round.
        devices: How many devices' updates are accepted.
        clients: How many clients'.
        examples: How many examples those have.
        loss_before: Example-weighted mean over the clients that measured it; None if none did.
        loss_after: The same after training.
        metrics: The plan's own on the training data, by name: all sums over all counts.
        bytes_sent: For all of its jobs.
        bytes_received: The same.
    """

    round: RoundRecord
    devices: int
    clients: int
    examples: int
    loss_before: float | None
    loss_after: float | None
    metrics: Mapping[str, Metric]
    bytes_sent: int
    bytes_received: int
