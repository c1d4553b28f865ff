"""Each event in words: the lines of the plain log, and those that the live view lets stand."""

from __future__ import annotations

from collections.abc import Iterable
from functools import singledispatch

from rich.text import Text

from devicelab.devices.text import clean
from devicelab.report.figures import duration, figure, plural, size
from devicelab.rounds.events import (
    CohortChosen,
    DeployProgress,
    DeployStarted,
    DeviceDeployed,
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
    RoundStarted,
    RunFinished,
    RunStarted,
)

__all__ = ["words"]

_NAMED_CLIENTS = 5


def words(event: Event, *, lasting: bool = False) -> list[Text]:
    """Say an event in lines of text, cleaned of whatever phones put into their words.

    Args:
        event: What happened.
        lasting: Only what people want to find again after it has happened: results and what went wrong.
    """
    style = _style(event)
    if lasting and not style and not isinstance(event, RunStarted | RoundFinished):
        return []
    if lasting and isinstance(event, Excluded):  # its phase has ended with the same words
        return []
    said = _without(event) if lasting and isinstance(event, CohortChosen) else _said(event)
    return [Text(line, style=style) for line in said]


def _style(event: Event) -> str:
    match event:
        case DevicePhase(phase=Phase.FAILED | Phase.REJECTED):
            return "red"
        case DeviceDeployed(problem=problem) if problem:
            return "red"
        case DevicePhase(phase=Phase.LATE) | DeviceTrouble() | Excluded():
            return "yellow"
        case CohortChosen(excluded=excluded) if excluded:
            return "yellow"
    return ""


@singledispatch
def _said(event: Event) -> Iterable[str]:
    """Events that are not worth a line."""
    del event
    return ()


@_said.register
def _(event: DeployStarted) -> Iterable[str]:
    yield f"preparing {plural(len(event.devices), 'phone')}"


@_said.register
def _(event: DeployProgress) -> Iterable[str]:
    yield f"{clean(event.device)}: pushing {clean(event.item)}, {size(event.sent)} of {size(event.total)}"


@_said.register
def _(event: DeviceDeployed) -> Iterable[str]:
    name = clean(event.device)
    if event.problem:
        yield f"{name}: not prepared: {clean(event.problem)}"
    elif event.files:
        sent = f"{plural(event.files, 'file')}, {size(event.bytes_sent)}"
        yield f"{name}: sent {sent} in {duration(event.seconds)}"
    else:
        yield f"{name}: holds everything already ({size(event.bytes_held)})"


@_said.register
def _(event: RunStarted) -> Iterable[str]:
    goes = "goes on" if event.resumed else "begins"
    yield (
        f"run {clean(event.run)} of {clean(event.experiment)} {goes}: "
        f"round {event.next_round} to {event.last_round}"
    )


@_said.register
def _(event: RoundStarted) -> Iterable[str]:
    yield f"round {event.round}"


@_said.register
def _(event: CohortChosen) -> Iterable[str]:
    clients = sum(map(len, event.devices.values()))
    yield f"round {event.round}: {plural(clients, 'client')} on {plural(len(event.devices), 'phone')}"
    yield from _without(event)


def _without(event: CohortChosen) -> Iterable[str]:
    return (f"round {event.round}: without {_exclusion(each)}" for each in event.excluded)


def _exclusion(exclusion: Exclusion) -> str:
    who = clean(exclusion.device)
    if exclusion.clients:
        named = ", ".join(clean(client, 40) for client in exclusion.clients[:_NAMED_CLIENTS])
        rest = len(exclusion.clients) - _NAMED_CLIENTS
        plural_s = "s" if len(exclusion.clients) > 1 else ""
        who += f", client{plural_s} {named}{f' and {rest} more' if rest > 0 else ''}"
    return f"{who}: {clean(exclusion.reason)}"


@_said.register
def _(event: DevicePhase) -> Iterable[str]:
    reason = f": {clean(event.reason)}" if event.reason else ""
    yield f"round {event.round}: {clean(event.device)} {event.phase.value}{reason}"


@_said.register
def _(event: DeviceProgress) -> Iterable[str]:
    rate = f", {event.examples / event.seconds:.0f} examples/s" if event.seconds > 0 else ""
    yield (
        f"round {event.round}: {clean(event.device)} client {event.index + 1}/{event.clients}, "
        f"step {event.step}/{event.steps}, loss {figure(event.loss)}{rate}"
    )


@_said.register
def _(event: DeviceTrouble) -> Iterable[str]:
    yield f"round {event.round}: {clean(event.device)}: {clean(event.reason)}; trying again"


@_said.register
def _(event: DeviceUpdate) -> Iterable[str]:
    yield (
        f"round {event.round}: {clean(event.device)} update of {plural(event.clients, 'client')}, "
        f"{plural(event.examples, 'example')}{_losses(event.loss_before, event.loss_after)}; "
        f"sent {size(event.bytes_sent)}, received {size(event.bytes_received)}"
    )


def _losses(before: float | None, after: float | None) -> str:
    if before is None and after is None:
        return ""
    return f", loss {figure(after)}" if before is None else f", loss {figure(before)} → {figure(after)}"


@_said.register
def _(event: Evaluated) -> Iterable[str]:
    told = ", ".join(f"{clean(name)} {figure(value)}" for name, value in event.metrics.items())
    where = "on the phones" if event.where == "devices" else "on this host"
    after = f"after round {event.round}" if event.round else "before the first round"
    yield f"{after}: {told} ({plural(event.examples, 'example')} {where})"


@_said.register
def _(event: Excluded) -> Iterable[str]:
    yield f"round {event.round}: goes on without {_exclusion(event.exclusion)}"


@_said.register
def _(event: RoundFinished) -> Iterable[str]:
    result = event.result
    told = "".join(f", {clean(name)} {figure(value)}" for name, value in result.metrics.items())
    if result.epsilon is not None:
        told += f", ε {figure(result.epsilon)}"
    yield (
        f"round {result.round} done: {plural(result.clients, 'client')} on {plural(result.devices, 'phone')}"
        f"{_losses(result.loss_before, result.loss_after)}{told}, {duration(result.seconds)}"
    )


@_said.register
def _(event: RunFinished) -> Iterable[str]:
    yield f"run {clean(event.run)} is done; global model: {clean(event.checkpoint, 4000)}"
