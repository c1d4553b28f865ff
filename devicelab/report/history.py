"""What a report tells of a run: plain facts, whatever they were read from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from devicelab.report.figures import natural
from devicelab.store.releases import PrivacySpent

__all__ = ["Missing", "Part", "Reading", "RoundHistory", "RunHistory", "Story", "stories"]


@dataclass(frozen=True, slots=True)
class Missing:
    """A device, or some of its clients, that a round did without.

    Attributes:
        device: Its serial.
        how: ``excluded`` (from the start), ``failed``, ``rejected`` or ``late``.
        reason: In words for people.
        clients: Which clients, where it is about some of them.
        asked: Which clients a device was asked for that has failed as a whole.
    """

    device: str
    how: str
    reason: str
    clients: tuple[str, ...] = ()
    asked: tuple[str, ...] = field(default=(), compare=False)  # the same story with other clients is the same


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
class RoundHistory:
    """One round.

    Attributes:
        number: From 1.
        state: ``done``, ``failed`` or ``open``.
        reason: Why it failed; else empty.
        started: When.
        seconds: From its beginning to its end; None while open.
        host_seconds: Of those, for the host's own work by its name: ``aggregate``, …
        devices: How many devices' updates were averaged.
        clients: How many clients' those were.
        examples: How many examples their shards hold.
        loss_before: Example-weighted mean over the clients; None if not measured.
        loss_after: The same after local training.
        metrics: By name; those of held-out data under ``eval/…``, of the host's test set under ``test/…``.
        bytes_sent: To all devices.
        bytes_received: From all devices.
        parts: What each device did.
        missing: Who was not part of it, and why.
    """

    number: int
    state: str
    reason: str
    started: datetime
    seconds: float | None
    host_seconds: Mapping[str, float]
    devices: int
    clients: int
    examples: int
    loss_before: float | None
    loss_after: float | None
    metrics: Mapping[str, float]
    bytes_sent: int
    bytes_received: int
    parts: tuple[Part, ...]
    missing: tuple[Missing, ...]


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
class RunHistory:
    """A run.

    Attributes:
        run: Its id.
        experiment: The experiment's name.
        state: ``done``, ``failed``, ``running``, or ``stopped`` before its last round.
        reason: Why it is not done, where that is known.
        started: When it was made.
        ended: When something happened to it last.
        wanted: How many rounds it is to have.
        models: What each device is, by its serial.
        initial: Metrics of the initial model, if it was measured.
        rounds: By number.
        readings: By time.
        seed: The experiment's.
        plan_sha256: Of the training plan.
        files: SHA-256 of the plan's files, by name.
        versions: Of what had a part in it.
        checkpoint: File of the newest global model in the run's directory; empty if there is none.
        checkpoint_sha256: Of that file.
        config: The experiment as text.
        privacy: How private its models are; None where there is no noise.
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
    rounds: tuple[RoundHistory, ...]
    readings: tuple[Reading, ...]
    seed: int
    plan_sha256: str
    files: Mapping[str, str]
    versions: Mapping[str, str]
    checkpoint: str
    checkpoint_sha256: str
    config: str
    privacy: PrivacySpent | None = None

    @property
    def seconds(self) -> float:
        """From its beginning to its last event."""
        return (self.ended - self.started).total_seconds()


@dataclass(frozen=True, slots=True)
class Story:
    """The same thing missing in several rounds."""

    missing: Missing
    rounds: tuple[int, ...]

    @property
    def spans(self) -> str:
        """The rounds in words: ``1–7, 9``."""
        spans: list[list[int]] = []
        for number in self.rounds:
            if spans and number == spans[-1][1] + 1:
                spans[-1][1] = number
            else:
                spans.append([number, number])
        return ", ".join(f"{low}" if low == high else f"{low}–{high}" for low, high in spans)


def stories(rounds: Iterable[RoundHistory]) -> list[Story]:
    """Who was missing and why, equal cases once: a phone that was too hot in twenty rounds is one story."""
    cases: dict[Missing, set[int]] = defaultdict(set)
    for each in rounds:
        for one in each.missing:
            cases[one].add(each.number)
    told = [Story(one, tuple(sorted(numbers))) for one, numbers in cases.items()]
    return sorted(told, key=lambda story: (natural(story.missing.device), story.rounds))
