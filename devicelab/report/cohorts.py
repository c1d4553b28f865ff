"""Sections of a report about who took part, who did not, and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from devicelab.devices.text import clean
from devicelab.report.charts import Cell, matrix
from devicelab.report.figures import UNKNOWN, duration, natural, size
from devicelab.report.history import Missing, RunHistory, stories
from devicelab.report.page import Chart, Section, TableView, name_of

__all__ = ["missing", "phones"]

_OUTCOMES = {"done": "c3", "failed": "c2", "rejected": "c4", "late": "c5", "excluded": "c7"}
_OTHER = "c6"
_MAX_OPEN_ROWS = 24


def _devices(history: RunHistory) -> list[str]:
    named = {part.device for each in history.rounds for part in each.parts}
    named |= {each.device for one in history.rounds for each in one.missing} | set(history.models)
    return sorted(named, key=natural)


def _whole(missing: Iterable[Missing]) -> list[Missing]:
    return [each for each in missing if not each.clients]


def phones(history: RunHistory) -> Section | None:
    """What came of each phone in each round, and what each did in all."""
    devices = _devices(history)
    if not devices:
        return None
    cells: dict[str, dict[int, Cell]] = {name_of(device): {} for device in devices}
    seen: dict[str, str] = {}
    for each in history.rounds:
        reasons = {one.device: one for one in _whole(each.missing)}
        for part in each.parts:
            reason = reasons.pop(part.device, None)
            cells[name_of(part.device)][each.number] = _cell(
                each.number, part.device, part.state, reason.reason if reason else "", seen
            )
        for device, one in reasons.items():
            cells[name_of(device)][each.number] = _cell(each.number, device, one.how, one.reason, seen)
    charts = []
    if history.rounds:
        columns = [each.number for each in history.rounds]
        picture = matrix(cells, columns, label="What came of each phone in each round")
        charts = [Chart("What came of each phone in each round", picture, _outcome_keys(seen))]
    rows = [_phone_row(history, device) for device in devices]
    headings = [
        "phone",
        "model",
        "rounds",
        "clients",
        "examples",
        "train time",
        "whole round",
        "sent",
        "received",
    ]
    table = TableView(headings, rows, frozenset(range(2, 9)))
    text = "Times are medians over the rounds that a phone finished; clients are summed over them."
    return Section("phones", "Phones", text, charts=charts, style="one", tables=[table])


def _cell(number: int, device: str, state: str, reason: str, seen: dict[str, str]) -> Cell:
    style = _OUTCOMES.get(state, _OTHER)
    seen[state] = style
    if state == "done":
        return Cell(style)
    told = f": {clean(reason)}" if reason else ""
    return Cell(style, f"round {number}, {name_of(device)}: {state}{told}")


def _outcome_keys(seen: dict[str, str]) -> list[tuple[str, str]]:
    order = list(_OUTCOMES)
    known = sorted((state for state in seen if state in _OUTCOMES), key=order.index)
    others = sorted(state for state in seen if state not in _OUTCOMES)
    return [(seen[state], clean(state)) for state in known] + ([(_OTHER, ", ".join(others))] if others else [])


def _phone_row(history: RunHistory, device: str) -> list[str]:
    parts = [part for each in history.rounds for part in each.parts if part.device == device]
    done = [part for part in parts if part.state == "done"]
    train = [part.seconds["train"] for part in done if "train" in part.seconds]
    whole = [sum(part.seconds.values()) for part in done]
    return [
        name_of(device),
        clean(history.models.get(device, "")) or UNKNOWN,
        f"{len(done)} of {len(history.rounds)}",
        f"{sum(part.clients for part in done):,}",
        f"{sum(part.examples for part in done):,}",
        duration(median(train)) if train else UNKNOWN,
        duration(median(whole)) if whole else UNKNOWN,
        size(sum(part.bytes_sent for part in parts)),
        size(sum(part.bytes_received for part in parts)),
    ]


def missing(history: RunHistory) -> Section | None:
    """Who took no part, or one that does not count."""
    told = stories(history.rounds)
    if not told:
        return None
    rows = [
        [
            name_of(story.missing.device),
            _named(story.missing.clients),
            story.spans,
            story.missing.how,
            clean(story.missing.reason, 1000),
        ]
        for story in told
    ]
    folded = f"All {len(rows)} cases" if len(rows) > _MAX_OPEN_ROWS else ""
    table = TableView(["phone", "clients", "rounds", "what", "why"], rows, folded=folded)
    return Section("missing", "Who was missing, and why", tables=[table])


def _named(clients: Sequence[str]) -> str:
    if not clients:
        return "all"
    named = ", ".join(clean(client, 40) for client in clients[:5])
    return named if len(clients) <= 5 else f"{named} and {len(clients) - 5} more"
