"""Devices as people and scripts see them: the table of ``discover`` and its JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from devicelab.devices.device import Device
from devicelab.devices.states import DeviceState
from devicelab.report.tables import FittedTable

__all__ = ["device_document", "device_table", "devices_document", "state_text"]

_COLOURS = {
    DeviceState.READY: "green",
    DeviceState.BUSY: "cyan",
    DeviceState.BOOTING: "cyan",
    DeviceState.COOLING: "yellow",
    DeviceState.UNAUTHORIZED: "yellow",
    DeviceState.OFFLINE: "red",
    DeviceState.QUARANTINED: "red",
    DeviceState.ABSENT: "bright_black",
}
_UNKNOWN = "–"
_NOTHING = (
    "Plug a phone in, or start a virtual one (devicelab virtual up). What this machine lacks: devicelab doctor."
)


def devices_document(devices: Sequence[Device]) -> dict[str, Any]:
    """The JSON document of ``discover --json``."""
    return {"devices": [device_document(device) for device in devices]}


def device_document(device: Device) -> dict[str, Any]:
    """One device as ``discover --json`` shows it: every key always there, null where unknown.

    Sizes are in MiB, temperatures in degrees Celsius, the battery in percent.
    """
    return {
        "serial": device.serial,
        "identity": device.identity,
        "name": device.name,
        "labels": list(device.labels),
        "state": str(device.state),
        "reason": device.reason,
        **device.facts.summary(),
        "transport": device.transport_name,
        "ready": device.ready,
    }


def state_text(device: Device) -> Text:
    """Its state in its colour."""
    return Text(str(device.state), style=_COLOURS[device.state])


def _gigabytes(megabytes: int | None) -> str:
    if megabytes is None:
        return _UNKNOWN
    gigabytes = megabytes / 1024
    if megabytes < 1000:
        return f"{megabytes} MB"
    return f"{gigabytes:.1f} GB" if gigabytes < 9.95 else f"{gigabytes:.0f} GB"


def _battery(device: Device) -> str:
    percent, celsius = device.facts.battery_percent, device.facts.battery_celsius
    parts = [f"{percent:.0f}%"] if percent is not None else []
    parts += [f"{celsius:.0f}°C"] if celsius is not None else []
    return " ".join(parts) or _UNKNOWN


def _row(device: Device) -> list[RenderableType]:
    facts = device.facts
    android = f"{facts.android or '?'} ({facts.sdk})" if facts.sdk is not None else facts.android
    return [
        Text(f"{device.name} ({device.serial})" if device.name else device.serial),
        Text(facts.model or _UNKNOWN),
        Text(android or _UNKNOWN),
        Text(facts.abis[0] if facts.abis else _UNKNOWN),
        Text(_gigabytes(facts.ram_mb)),
        Text(_gigabytes(facts.free_storage_mb)),
        Text(_battery(device)),
        state_text(device),
    ]


def _notes(device: Device) -> Iterator[str]:
    if device.reason:
        yield device.reason
    if device.warning:
        yield device.warning
    if device.labels:
        yield f"labels: {', '.join(device.labels)}"
    if device.alternatives:
        yield f"also reached as {', '.join(device.alternatives)}"


def device_table(devices: Sequence[Device], *, via: str) -> RenderableType:
    """The table of ``discover``, and under it one line a device that is not ready: why, and what to do.

    Args:
        devices: What was found.
        via: The transport's description of itself.
    """
    headings = ("SERIAL", "MODEL", "ANDROID", "ABI", "RAM", "FREE", "BATTERY", "STATE")
    table = FittedTable(headings, map(_row, devices), spare=("RAM", "ABI", "FREE", "ANDROID", "BATTERY"))
    notes = [
        Text.assemble((f"{device.serial}: ", "bold"), note) for device in devices for note in _notes(device)
    ]
    ready = sum(device.ready for device in devices)
    summary = Text(
        f"{len(devices)} device{'' if len(devices) == 1 else 's'}, {ready} ready · {via}", style="dim"
    )
    if not devices:
        return Group(summary, Text(_NOTHING))
    parts: list[RenderableType] = [table, Text(), *notes, summary]
    return Group(*parts)
