"""What happened between two looks at the lab: phones that came, went or changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from rich.text import Text

from devicelab.devices.device import Device
from devicelab.report.devices import device_document, state_text

__all__ = ["Change", "change_document", "change_line", "changes"]


@dataclass(frozen=True)
class Change:
    """One event.

    Attributes:
        event: ``added`` (it is there now), ``changed`` (another state, reason or identity) or ``removed``.
        device: As it is now, or as it was last if it is gone.
    """

    event: Literal["added", "changed", "removed"]
    device: Device


def _essence(device: Device) -> tuple[object, ...]:
    """What has to differ for a change: sensors drift all the time."""
    return device.identity, device.state, device.reason if not device.ready else "", device.facts.boot_id


def changes(before: Sequence[Device], after: Sequence[Device]) -> list[Change]:
    """Compare two looks, by ADB serial: first what went, then what came or changed, each sorted by serial."""
    old = {device.serial: device for device in before}
    new = {device.serial: device for device in after}
    gone = [Change("removed", old[serial]) for serial in sorted(old.keys() - new.keys())]
    come: list[Change] = []
    for serial in sorted(new):
        if serial not in old:
            come.append(Change("added", new[serial]))
        elif _essence(old[serial]) != _essence(new[serial]):
            come.append(Change("changed", new[serial]))
    return gone + come


def change_document(change: Change) -> dict[str, Any]:
    """One line of ``discover --watch --json``: ``time`` (ISO 8601, UTC), ``event`` and the ``device``."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "event": change.event,
        "device": device_document(change.device),
    }


def change_line(change: Change) -> Text:
    """One line of ``discover --watch`` where there is no terminal to draw a table on."""
    device = change.device
    sign = {"added": "+", "changed": "~", "removed": "-"}[change.event]
    line = Text(f"{datetime.now().astimezone():%H:%M:%S} {sign} {device.serial}  ")
    if change.event == "removed":
        return line.append("gone")
    line.append_text(state_text(device)).append(f"  {device.facts.model or ''}".rstrip())
    return line.append(f"  {device.reason}") if device.reason else line
