"""What a report tells of a run: plain facts, whatever they were read from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

__all__ = ["Missing", "Part", "Reading", "RoundRecord", "RunRecord"]


@dataclass(frozen=True, slots=True)
class Missing:
    """A device, or some of its clients, that a round did without.

    Attributes:
        device: Its serial.
        how: ``excluded`` (from the start), ``failed``, ``rejected`` or ``late``.
        reason: In words for people.
        clients: Which clients, where it is about some of them.
    """

    device: str
    how: str
    reason: str
    clients: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """One device's part of one round.

    Attributes:
        device: Its serial.
        state: ``done``, ``failed``, ``rejected``, ``late``, or the phase where it was left.
        clients: How many it was asked to train.
        examples: How many its update is of.
        loss_before: Example-weighted mean under the global parameters; None if not measured.
        loss_after: The same after local training.
        bytes_sent: To it.
        bytes_received: From it.
        seconds: Time of each phase by its name.
    """

    device: str
    state: str
    clients: int
    examples: int
    loss_before: float | None
    loss_after: float | None
    bytes_sent: int
    bytes_received: int
    seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """One round.

    Attributes:
        number: From 1.
        state: ``done``, ``failed`` or ``open``.
        reason: Why it failed; else empty.
        started: When.
        seconds: From its beginning to its checkpoint; None while open.
        aggregate_seconds: Of those, for averaging and the checkpoint.
        devices: How many devices' updates were averaged.
        clients: How many clients' those were.
        examples: How many examples their shards hold.
        loss_before: Example-weighted mean over the clients; None if not measured.
        loss_after: The same after local training.
        metrics: By name; those of held-out data under ``eval/…``, of the host's test set under ``test/…``.
        parts: What each device did.
        missing: Who was not part of it, and why.
    """

    number: int
    state: str
    reason: str
    started: datetime
    seconds: float | None
    aggregate_seconds: float | None
    devices: int
    clients: int
    examples: int
    loss_before: float | None
    loss_after: float | None
    metrics: Mapping[str, float]
    parts: tuple[Part, ...]
    missing: tuple[Missing, ...]

    @property
    def bytes_sent(self) -> int:
        """To all devices."""
        return sum(part.bytes_sent for part in self.parts)

    @property
    def bytes_received(self) -> int:
        """From all devices."""
        return sum(part.bytes_received for part in self.parts)


@dataclass(frozen=True, slots=True)
class Reading:
    """How warm and how charged a device was at one moment; None where it did not tell.

    Attributes:
        device: Its serial.
        seconds: Since the run began.
        battery_percent: 0 to 100.
        battery_celsius: Degrees Celsius.
        thermal_status: ``none``, ``light``, …
    """

    device: str
    seconds: float
    battery_percent: float | None
    battery_celsius: float | None
    thermal_status: str | None


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run.

    Attributes:
        run: Its id.
        experiment: The experiment's name.
        state: ``done``, ``failed``, ``interrupted`` or ``running``.
        reason: Why it is not done, where that is known.
        started: When its first round began.
        ended: When its last event was written.
        wanted: How many rounds were asked for.
        models: What each device is, by its serial.
        initial: Metrics of the initial model, if it was measured.
        rounds: By number.
        readings: By time.
        facts: What is needed to repeat it: plan hash, seeds, versions.
        config: The experiment as text.
    """

    run: str
    experiment: str
    state: str
    reason: str
    started: datetime
    ended: datetime
    wanted: int
    models: Mapping[str, str]
    initial: Mapping[str, float]
    rounds: tuple[RoundRecord, ...]
    readings: tuple[Reading, ...]
    facts: Mapping[str, str]
    config: str

    @property
    def seconds(self) -> float:
        """From its beginning to its last event."""
        return (self.ended - self.started).total_seconds()
