"""Sections of a report about what rounds cost: time, bytes, heat and charge."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from markupsafe import Markup

from devicelab.devices.text import clean
from devicelab.report.charts import Series, ceiling, sparkline, stacked_bars
from devicelab.report.figures import UNKNOWN, duration, natural, round_duration, round_size, size
from devicelab.report.history import Part, Reading, RoundHistory, RunHistory
from devicelab.report.page import Chart, Section, TableView, keys_of, name_of
from devicelab.report.svg import finite

__all__ = ["health", "phone_times", "time_and_bytes"]

# Phases of a device's part in their order, each with its colour; what the ledger names beyond them comes after.
_PHASES = {
    "push": "c6",
    "start": "c4",
    "train": "c1",
    "pull": "c3",
    "check": "c7",
    "commit": "c5",
    "evaluate": "c2",
}
_HOST_STYLES = ("c5", "c3", "c4", "c7")
_STRIP = 130.0  # height of a phone's own bars
_WARMEST_PLOTTED, _COOLEST_PLOTTED = 55.0, 15.0  # degrees Celsius at least shown
_HOT = 45.0  # where phones should stop


def time_and_bytes(history: RunHistory) -> Section | None:
    """What whole rounds took, in seconds and in bytes."""
    xs = [each.number for each in history.rounds]
    charts = []
    ended = [each for each in history.rounds if each.seconds is not None]
    if ended:
        layers = _round_layers(ended)
        picture = stacked_bars(xs, layers, label="Time of each round", show=duration, axis=round_duration)
        charts.append(Chart("Time of each round", picture, keys_of(layers)))
    if any(each.bytes_sent or each.bytes_received for each in history.rounds):
        layers = [
            Series("sent to phones", "c6", {each.number: each.bytes_sent for each in history.rounds}),
            Series("received", "c3", {each.number: each.bytes_received for each in history.rounds}),
        ]
        picture = stacked_bars(xs, layers, label="Bytes over the cable", show=size, axis=round_size)
        charts.append(Chart("Bytes over the cable", picture, keys_of(layers)))
    return Section("time", "Time and bytes", charts=charts) if charts else None


def _round_layers(ended: Sequence[RoundHistory]) -> list[Series]:
    """The host's own work on top of the rest, in which phones are at work."""
    names = dict.fromkeys(name for each in ended for name in each.host_seconds)
    rest = {each.number: (each.seconds or 0.0) - sum(each.host_seconds.values()) for each in ended}
    layers = [Series("phones", "c1", rest)]
    for index, name in enumerate(names):
        style = _HOST_STYLES[index % len(_HOST_STYLES)]
        layers.append(Series(clean(name), style, {each.number: each.host_seconds.get(name) for each in ended}))
    return layers


def phone_times(history: RunHistory) -> Section | None:
    """Each phone's bars, by phase."""
    phases = _phases(part for each in history.rounds for part in each.parts)
    by_device = _by_device(history)
    if not by_device:
        return None
    xs = [each.number for each in history.rounds]
    top = ceiling([sum(part.seconds.values()) for parts in by_device.values() for _, part in parts])
    charts = []
    for device, parts in by_device.items():
        layers = [
            Series(clean(name), style, {number: part.seconds.get(name) for number, part in parts})
            for name, style in phases.items()
        ]
        label = f"Time of each phase on {name_of(device)}"
        picture = stacked_bars(
            xs, layers, label=label, show=duration, axis=round_duration, top=top, height=_STRIP
        )
        charts.append(Chart(name_of(device), picture))
    keys = [(style, clean(name)) for name, style in phases.items()]
    text = "The time of each phase in each round; all phones have the same scale."
    return Section("phases", "Where each phone's time went", text, keys=keys, charts=charts)


def _phases(parts: Iterable[Part]) -> dict[str, str]:
    """The phases that took time, each with its colour."""
    found = dict.fromkeys(name for part in parts for name in part.seconds)
    known = {name: style for name, style in _PHASES.items() if name in found}
    return known | dict.fromkeys((name for name in found if name not in _PHASES), "c7")


def _by_device(history: RunHistory) -> dict[str, list[tuple[int, Part]]]:
    """Parts that took time, with their rounds."""
    found: dict[str, list[tuple[int, Part]]] = defaultdict(list)
    for each in history.rounds:
        for part in each.parts:
            if part.seconds:
                found[part.device].append((each.number, part))
    return {device: found[device] for device in sorted(found, key=natural)}


def health(history: RunHistory) -> Section | None:
    """Traces of each phone's temperature and charge."""
    traces: dict[str, list[Reading]] = defaultdict(list)
    for reading in history.readings:
        traces[reading.device].append(reading)
    if not traces:
        return None
    celsius = [value for one in history.readings if (value := finite(one.battery_celsius)) is not None]
    heat = (min([_COOLEST_PLOTTED, *celsius]), max([_WARMEST_PLOTTED, *celsius]))
    ends = (min(one.seconds for one in history.readings), max(one.seconds for one in history.readings))
    rows = [_health_row(device, traces[device], ends, heat) for device in sorted(traces, key=natural)]
    table = TableView(
        ["phone", "battery temperature", "°C", "charge", "%", "worst thermal status"], rows, frozenset({2, 4})
    )
    text = (
        f"Over {duration(ends[1] - ends[0])}. Every row has the same scales: {heat[0]:.0f} to {heat[1]:.0f} °C "
        f"with a dashed line at {_HOT:.0f} °C; 0 to 100 %."
    )
    return Section("health", "Heat and charge", text, tables=[table])


_SEVERITIES = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")


def _health_row(
    device: str, readings: Sequence[Reading], ends: tuple[float, float], heat: tuple[float, float]
) -> list[str | Markup]:
    warm = [(one.seconds, value) for one in readings if (value := finite(one.battery_celsius)) is not None]
    charge = [(one.seconds, value) for one in readings if (value := finite(one.battery_percent)) is not None]
    told = [one.thermal_status for one in readings if one.thermal_status in _SEVERITIES]
    name = name_of(device)
    degrees = [value for _, value in warm]
    return [
        name,
        sparkline(
            warm, label=f"Temperature of {name}", style="c2", x_range=ends, y_range=heat, limit=_HOT
        ) if warm else UNKNOWN,
        f"{min(degrees):.1f}–{max(degrees):.1f}" if degrees else UNKNOWN,
        sparkline(charge, label=f"Charge of {name}", style="c3", x_range=ends, y_range=(0.0, 100.0))
        if charge else UNKNOWN,
        f"{charge[0][1]:.0f} → {charge[-1][1]:.0f}" if charge else UNKNOWN,
        max(told, key=_SEVERITIES.index) if told else UNKNOWN,
    ]  # fmt: skip
