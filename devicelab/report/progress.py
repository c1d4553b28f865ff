"""What is known of a run while it goes on: events in, a picture out.

:func:`follow` is a pure function: it takes a picture and an event and gives the next picture, so whoever draws
pictures needs no lock, and a test needs neither clock nor terminal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import singledispatch
from statistics import median
from types import MappingProxyType

from devicelab.rounds.events import (
    CohortChosen,
    DeployProgress,
    DeployStarted,
    DeviceDeployed,
    DeviceHealth,
    DevicePhase,
    DeviceProgress,
    DeviceTrouble,
    DeviceUpdate,
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

__all__ = ["PhoneProgress", "Progress", "follow"]

_RECENT = 5  # rounds whose times say how long the next ones will take


@dataclass(frozen=True, slots=True)
class PhoneProgress:
    """One phone's part.

    Attributes:
        device: Its serial.
        phase: Where it is; None while it has no part in the round.
        excluded: The round does without it from the start.
        note: Why it ended badly or is excluded, what went wrong last, or what is being sent.
        clients: How many clients it trains in this round.
        index: The place of the one that is being trained, from 0.
        step: Steps of this client that are done; 0 before the first.
        steps: Its steps in all.
        loss: Of the last step, then of the whole update.
        rate: Examples a second since the job started.
        battery_percent: As told last.
        battery_celsius: As told last.
        thermal_status: As told last.
        sent: Bytes sent to it, all rounds.
        received: Bytes received from it, all rounds.
        sent_before: Of those, the bytes before this round or deployment.
        received_before: The same for bytes received.
    """

    device: str
    phase: Phase | None = None
    excluded: bool = False
    note: str = ""
    clients: int = 0
    index: int = 0
    step: int = 0
    steps: int = 0
    loss: float | None = None
    rate: float | None = None
    battery_percent: float | None = None
    battery_celsius: float | None = None
    thermal_status: str | None = None
    sent: int = 0
    received: int = 0
    sent_before: int = 0
    received_before: int = 0

    def begun(self) -> PhoneProgress:
        """The same phone before a new round or deployment."""
        return PhoneProgress(
            self.device,
            battery_percent=self.battery_percent,
            battery_celsius=self.battery_celsius,
            thermal_status=self.thermal_status,
            sent=self.sent,
            received=self.received,
            sent_before=self.sent,
            received_before=self.received,
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """A run, or a deployment without one.

    Attributes:
        run: The run's id; empty before it has begun.
        experiment: Its name.
        round: The round that goes on or was last; 0 before the first.
        last_round: The last one that is wanted.
        phones: By serial.
        began: When the first event came, on the clock of :func:`follow`.
        round_began: When the round began.
        now: When the last event came.
        recent: The last few results of this command.
        metrics: The newest value of each metric.
        checkpoint: File of the last global model, once the run is over.
    """

    run: str = ""
    experiment: str = ""
    round: int = 0
    last_round: int = 0
    phones: Mapping[str, PhoneProgress] = field(default_factory=lambda: MappingProxyType({}))
    began: float | None = None
    round_began: float | None = None
    now: float = 0.0
    recent: tuple[RoundResult, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    checkpoint: str = ""

    def eta(self, now: float) -> float | None:
        """Seconds until the last round ends, if the next rounds take as long as the last few; None: no idea."""
        if not self.recent or self.checkpoint:
            return None
        usual = median(result.seconds for result in self.recent)
        left = self.last_round - self.recent[-1].round
        if left <= 0:
            return None
        going = self.round > self.recent[-1].round and self.round_began is not None
        spent = now - self.round_began if going and self.round_began is not None else 0.0
        return max(usual - spent, 0.0) + usual * (left - 1)

    def phone(self, device: str) -> PhoneProgress:
        """What is known of a phone, were it only its name."""
        return self.phones.get(device) or PhoneProgress(device)

    def with_phones(self, *phones: PhoneProgress) -> Progress:
        """The picture with these phones as they are now."""
        return replace(self, phones={**self.phones, **{phone.device: phone for phone in phones}})


def follow(progress: Progress, event: Event, now: float) -> Progress:
    """The picture after an event.

    Args:
        progress: The picture before.
        event: What happened.
        now: When, in seconds on any clock that goes forward steadily.
    """
    began = now if progress.began is None else progress.began
    return _after(event, replace(progress, began=began, now=now))


@singledispatch
def _after(event: Event, progress: Progress) -> Progress:
    """Events that change nothing in the picture."""
    del event
    return progress


@_after.register
def _(event: DeployStarted, progress: Progress) -> Progress:
    return progress.with_phones(
        *(replace(progress.phone(device).begun(), phase=Phase.WAITING) for device in event.devices)
    )


@_after.register
def _(event: DeployProgress, progress: Progress) -> Progress:
    before = progress.phone(event.device)
    share = f"{100 * event.sent // event.total} %" if event.total else ""
    return progress.with_phones(
        replace(
            progress.phone(event.device),
            phase=Phase.PUSH,
            note=f"{event.item} {share}".strip(),
            sent=before.sent_before + event.sent,
        )
    )


@_after.register
def _(event: DeviceDeployed, progress: Progress) -> Progress:
    return progress.with_phones(
        replace(
            progress.phone(event.device),
            phase=Phase.FAILED if event.problem else Phase.DONE,
            note=event.problem,
            sent=progress.phone(event.device).sent_before + event.bytes_sent,
        )
    )


@_after.register
def _(event: RunStarted, progress: Progress) -> Progress:
    return replace(
        progress,
        run=event.run,
        experiment=event.experiment,
        round=event.next_round - 1,
        last_round=event.last_round,
    )


@_after.register
def _(event: RoundStarted, progress: Progress) -> Progress:
    phones = {device: phone.begun() for device, phone in progress.phones.items()}
    return replace(progress, round=event.round, round_began=progress.now, phones=phones)


@_after.register
def _(event: CohortChosen, progress: Progress) -> Progress:
    chosen = [
        replace(progress.phone(device), phase=Phase.WAITING, clients=len(clients), excluded=False)
        for device, clients in event.devices.items()
    ]
    out = [_without(progress, each) for each in event.excluded if not each.clients]
    return progress.with_phones(*out, *chosen)


def _without(progress: Progress, exclusion: Exclusion) -> PhoneProgress:
    phone = progress.phone(exclusion.device)
    return replace(phone, phase=None, excluded=True, note=exclusion.reason)


@_after.register
def _(event: DevicePhase, progress: Progress) -> Progress:
    return progress.with_phones(replace(progress.phone(event.device), phase=event.phase, note=event.reason))


@_after.register
def _(event: DeviceProgress, progress: Progress) -> Progress:
    return progress.with_phones(
        replace(
            progress.phone(event.device),
            note="",
            clients=event.clients,
            index=event.index,
            step=event.step,
            steps=event.steps,
            loss=event.loss,
            rate=event.examples / event.seconds if event.seconds > 0 else None,
        )
    )


@_after.register
def _(event: DeviceHealth, progress: Progress) -> Progress:
    return progress.with_phones(
        replace(
            progress.phone(event.device),
            battery_percent=event.battery_percent,
            battery_celsius=event.battery_celsius,
            thermal_status=event.thermal_status,
        )
    )


@_after.register
def _(event: DeviceTrouble, progress: Progress) -> Progress:
    return progress.with_phones(replace(progress.phone(event.device), note=event.reason))


@_after.register
def _(event: DeviceUpdate, progress: Progress) -> Progress:
    before = progress.phone(event.device)
    return progress.with_phones(
        replace(
            progress.phone(event.device),
            clients=event.clients,
            loss=event.loss_after,
            sent=before.sent_before + event.bytes_sent,
            received=before.received_before + event.bytes_received,
        )
    )


@_after.register
def _(event: Evaluated, progress: Progress) -> Progress:
    prefix = "eval" if event.where == "devices" else "test"
    found = {f"{prefix}/{name}": value for name, value in event.metrics.items()}
    return replace(progress, metrics={**progress.metrics, **found})


@_after.register
def _(event: Excluded, progress: Progress) -> Progress:
    if event.exclusion.clients:
        return progress
    phone = progress.phone(event.exclusion.device)
    if phone.phase is not None and not phone.phase.ended:
        phone = replace(phone, phase=Phase.FAILED)
    return progress.with_phones(replace(phone, note=event.exclusion.reason))


@_after.register
def _(event: RoundFinished, progress: Progress) -> Progress:
    result = event.result
    return replace(
        progress,
        round=result.round,
        recent=(*progress.recent, result)[-_RECENT:],
        metrics={**progress.metrics, **result.metrics},
    )


@_after.register
def _(event: RunFinished, progress: Progress) -> Progress:
    return replace(progress, checkpoint=event.checkpoint)
