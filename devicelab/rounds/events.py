"""What happens while phones are prepared and rounds run, as typed events for whoever wants to show it.

One listener hears everything of one command, one event at a time (:class:`Announcer` holds the others back), in
the thread where it happens: it must be quick. Nothing depends on what it does, and what it raises ends the
command, as Ctrl-C would.

A device is called by its ADB serial, as people see it; its identity is in the ledger.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

__all__ = [
    "Announcer",
    "CohortChosen",
    "DeployProgress",
    "DeployStarted",
    "DeviceDeployed",
    "DeviceHealth",
    "DevicePhase",
    "DeviceProgress",
    "DeviceTrouble",
    "DeviceUpdate",
    "Evaluated",
    "Event",
    "Excluded",
    "Exclusion",
    "Listener",
    "Phase",
    "RoundFinished",
    "RoundResult",
    "RoundStarted",
    "RunFinished",
    "RunStarted",
    "silent",
]


class Phase(StrEnum):
    """Where one device's part of a round is. The last four are ends."""

    WAITING = "waiting"  # for its turn, or for the phone to be reached
    PUSH = "push"  # what it must hold, and the global parameters
    START = "start"
    TRAIN = "train"
    PULL = "pull"
    CHECK = "check"  # the update is held against what was asked
    COMMIT = "commit"  # the update is stored; private values take their place and the job is removed
    DONE = "done"
    FAILED = "failed"  # gone, refused, broken, too hot
    REJECTED = "rejected"  # it answered with something that cannot be an honest update
    LATE = "late"  # cut off at the deadline

    @property
    def ended(self) -> bool:
        """Whether nothing more is expected of the device in this round."""
        return self in {Phase.DONE, Phase.FAILED, Phase.REJECTED, Phase.LATE}


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A device, or some of its clients, that a round does without.

    Attributes:
        device: Its ADB serial (the identity, if it is not on the desk).
        reason: Why, in words for people.
        clients: Which clients, where it is about some of them; empty: the whole device.
    """

    device: str
    reason: str
    clients: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """As ``run-round --json`` lists it."""
        return {"device": self.device, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True, slots=True)
class DeployStarted(Event):
    """Phones are going to be given what they must hold.

    Attributes:
        devices: Their serials.
    """

    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeployProgress(Event):
    """Bytes on their way to one device.

    Attributes:
        device: Its serial.
        item: What is being sent: ``engine``, ``runner``, ``plan``, ``shard 17``.
        sent: Bytes that this deployment has sent to this device so far.
        total: Bytes that it has to send to it.
    """

    device: str
    item: str
    sent: int
    total: int


@dataclass(frozen=True, slots=True)
class DeviceDeployed(Event):
    """One device has all that it must hold, or cannot have it.

    Attributes:
        device: Its serial.
        files: How many files were sent; 0 if it had them all.
        bytes_sent: How many bytes of files.
        bytes_held: Bytes of all that it must hold.
        seconds: How long it took.
        problem: Why it does not have everything; empty if it does.
    """

    device: str
    files: int
    bytes_sent: int
    bytes_held: int
    seconds: float
    problem: str = ""


@dataclass(frozen=True, slots=True)
class RunStarted(Event):
    """A run begins, or goes on.

    Attributes:
        run: Its id.
        experiment: The experiment's name.
        next_round: The round that comes first now, from 1.
        last_round: The last one that is wanted.
        resumed: Whether it had begun before.
    """

    run: str
    experiment: str
    next_round: int
    last_round: int
    resumed: bool


@dataclass(frozen=True, slots=True)
class RoundStarted(Event):
    """A round begins: devices are looked at next."""

    round: int


@dataclass(frozen=True, slots=True)
class CohortChosen(Event):
    """Who takes part.

    Attributes:
        round: Which round.
        devices: Serial of each device and the clients that it trains, in their order.
        excluded: Who does not, and why.
    """

    round: int
    devices: Mapping[str, tuple[str, ...]]
    excluded: tuple[Exclusion, ...]


@dataclass(frozen=True, slots=True)
class DevicePhase(Event):
    """A device's part of a round enters a phase.

    Attributes:
        round: Which round.
        device: Its serial.
        phase: The phase.
        reason: Why, for the ends that are no success; else empty.
    """

    round: int
    device: str
    phase: Phase
    reason: str = ""


@dataclass(frozen=True, slots=True)
class DeviceProgress(Event):
    """A device trains.

    Attributes:
        round: Which round.
        device: Its serial.
        client: The client that is being trained.
        index: Its place among the device's clients, from 0.
        clients: How many clients the device trains.
        step: Steps of this client that are done.
        steps: Steps of this client in all.
        loss: Of the last step; None if it is not finite.
        examples: Examples seen in the whole job so far.
        seconds: Since the job started.
    """

    round: int
    device: str
    client: str
    index: int
    clients: int
    step: int
    steps: int
    loss: float | None
    examples: int
    seconds: float


@dataclass(frozen=True, slots=True)
class DeviceHealth(Event):
    """How warm and how charged a device is while it works; None where it does not tell."""

    round: int
    device: str
    battery_percent: float | None
    battery_celsius: float | None
    thermal_status: str | None


@dataclass(frozen=True, slots=True)
class DeviceTrouble(Event):
    """Something went wrong with a device and is tried again."""

    round: int
    device: str
    reason: str


@dataclass(frozen=True, slots=True)
class DeviceUpdate(Event):
    """A device's update is stored.

    Attributes:
        round: Which round.
        device: Its serial.
        clients: How many clients it is of.
        examples: How many examples their shards hold.
        loss_before: Example-weighted mean loss on the shards under the global parameters; None if not measured.
        loss_after: The same after training; without an evaluation plan, the loss of the last steps.
        bytes_sent: To the device in this round.
        bytes_received: From it.
        seconds: How long each phase took, by its name.
    """

    round: int
    device: str
    clients: int
    examples: int
    loss_before: float | None
    loss_after: float | None
    bytes_sent: int
    bytes_received: int
    seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Evaluated(Event):
    """A global model was measured.

    Attributes:
        round: The round after which; 0: the initial model.
        where: ``devices`` (held-out shards, which stay there) or ``host`` (the experiment's test set).
        metrics: By name.
        examples: On how many examples.
    """

    round: int
    where: str
    metrics: Mapping[str, float]
    examples: int


@dataclass(frozen=True, slots=True)
class RoundResult:
    """What a finished round came to.

    Attributes:
        round: Its number, from 1.
        devices: How many devices' updates were averaged.
        clients: How many clients' those were.
        examples: How many examples their shards hold.
        loss_before: Example-weighted mean over the clients; None if no device measured it.
        loss_after: The same after local training.
        metrics: The plan's own on the training data, and those of the evaluation under ``eval/…`` (held-out
            shards on the devices) and ``test/…`` (the host's test set).
        seconds: From its beginning to its checkpoint.
        bytes_sent: To all devices.
        bytes_received: From all devices.
        excluded: Who was not part of it, and why.
        epsilon: ε of the run's models up to this one, where they are differentially private; else None.
    """

    round: int
    devices: int
    clients: int
    examples: int
    loss_before: float | None
    loss_after: float | None
    metrics: Mapping[str, float]
    seconds: float
    bytes_sent: int
    bytes_received: int
    excluded: tuple[Exclusion, ...] = field(default=())
    epsilon: float | None = None

    def document(self) -> dict[str, Any]:
        """As ``run-round --json`` lists it."""
        return {
            "round": self.round,
            "devices": self.devices,
            "clients": self.clients,
            "examples": self.examples,
            "loss_before": self.loss_before,
            "loss_after": self.loss_after,
            "metrics": dict(self.metrics),
            "seconds": round(self.seconds, 3),
            "bytes_sent": self.bytes_sent,
            "bytes_received": self.bytes_received,
            "excluded": [each.document() for each in self.excluded],
        }


@dataclass(frozen=True, slots=True)
class RoundFinished(Event):
    """A round's checkpoint is written."""

    result: RoundResult


@dataclass(frozen=True, slots=True)
class Excluded(Event):
    """A device drops out of a round that has begun."""

    round: int
    exclusion: Exclusion


@dataclass(frozen=True, slots=True)
class RunFinished(Event):
    """All rounds that were asked for are done.

    Attributes:
        run: Its id.
        checkpoint: File of the last global model.
    """

    run: str
    checkpoint: str


class Listener(Protocol):
    """Hears events."""

    def __call__(self, event: Event, /) -> object:
        """Take one event; quickly."""
        ...


def silent(event: Event, /) -> None:
    """The listener that shows nothing."""


class Announcer:
    """Passes events of many threads on to one listener, one at a time.

    Args:
        listener: Who hears them.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._turn = threading.Lock()

    def __call__(self, event: Event, /) -> None:
        """Pass one event on."""
        with self._turn:
            self._listener(event)
