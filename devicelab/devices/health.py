"""Health gates: which phones are well enough to work, and what to do about the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite
from typing import TYPE_CHECKING

from devicelab.devices.facts import WORK_DIR, DeviceFacts
from devicelab.devices.thermal import ThermalStatus
from devicelab.errors import ConfigError

if TYPE_CHECKING:  # it loads pydantic, which looking at phones does not need
    from devicelab.config.lab import GatesConfig

__all__ = ["Gate", "Gates", "Reason", "check"]


class Gate(StrEnum):
    """What is looked at."""

    BATTERY_LEVEL = "battery_level"
    BATTERY_HEAT = "battery_heat"
    THERMAL_STATUS = "thermal_status"
    STORAGE = "storage"
    MEMORY = "memory"

    @property
    def heat(self) -> bool:
        """Whether leaving the phone alone for some minutes is all it takes."""
        return self in {Gate.BATTERY_HEAT, Gate.THERMAL_STATUS}


@dataclass(frozen=True, slots=True)
class Gates:
    """The limits. The defaults spare the battery and leave room for an engine, a plan and its shards.

    Args:
        min_battery_percent: At least this much charge.
        max_battery_celsius: The battery must be cooler than this.
        max_thermal_status: The phone must not throttle more than this.
        min_free_storage_mb: MiB free in the work directory.
        min_free_memory_mb: MiB that a new program can have.
        strict: Whether what a phone does not tell counts against it. Emulators and television boxes have no
            battery and phones before Android 10 no thermal status, so normally it does not.

    Raises:
        ConfigError: A limit that makes no sense.
    """

    min_battery_percent: float = 30.0
    max_battery_celsius: float = 40.0
    max_thermal_status: ThermalStatus = ThermalStatus.LIGHT
    min_free_storage_mb: int = 200
    min_free_memory_mb: int = 200
    strict: bool = False

    @classmethod
    def from_config(cls, config: GatesConfig) -> Gates:
        """The gates of a lab file."""
        values = config.model_dump(exclude={"max_thermal_status"})
        return cls(max_thermal_status=ThermalStatus[config.max_thermal_status.upper()], **values)

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("min_battery_percent", self.min_battery_percent, 0, 100),
            ("max_battery_celsius", self.max_battery_celsius, -50, 150),
            ("min_free_storage_mb", self.min_free_storage_mb, 0, 1 << 30),
            ("min_free_memory_mb", self.min_free_memory_mb, 0, 1 << 30),
        ):
            if not (isfinite(value) and low <= value <= high):
                raise ConfigError(f"health gate {name} is {value:g}, not within {low:g} to {high:g}")


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a phone is kept out.

    Attributes:
        gate: Which limit.
        text: A clause for people that says what is, what should be and what to do.
        unknown: The phone does not tell, and the gates are strict.
    """

    gate: Gate
    text: str
    unknown: bool = False


def check(facts: DeviceFacts, gates: Gates) -> list[Reason]:
    """Hold a phone's facts against the limits. Pure: the same facts always give the same reasons.

    Returns:
        One reason for each gate that says no, in the order of :class:`Gate`; empty for a phone that may work.
    """
    failed = {reason.gate: reason for reason in _failed(facts, gates)}
    unknown = {reason.gate: reason for reason in _unknown(facts)} if gates.strict else {}
    reasons = unknown | failed
    return [reasons[gate] for gate in Gate if gate in reasons]


def _failed(facts: DeviceFacts, gates: Gates) -> Iterator[Reason]:
    percent = facts.battery_percent
    if percent is not None and percent < gates.min_battery_percent:
        what = "leave it on the charger" if facts.battery.plugged else "plug in a charger"
        yield Reason(
            Gate.BATTERY_LEVEL, f"battery at {percent:.0f} %, needs {gates.min_battery_percent:g} %: {what}"
        )
    celsius = facts.battery_celsius
    if celsius is not None and celsius >= gates.max_battery_celsius:
        limit = f"must be below {gates.max_battery_celsius:g} °C"
        yield Reason(Gate.BATTERY_HEAT, f"battery at {celsius:.1f} °C, {limit}: let it cool down")
    status = facts.thermal_status
    if status is not None and status > gates.max_thermal_status:
        limit = f"at most {gates.max_thermal_status.label} is allowed"
        yield Reason(Gate.THERMAL_STATUS, f"thermal status {status.label}, {limit}: let it cool down")
    storage = facts.free_storage_mb
    if storage is not None and storage < gates.min_free_storage_mb:
        needs = f"{storage} MB free in {WORK_DIR}, needs {gates.min_free_storage_mb} MB"
        yield Reason(Gate.STORAGE, f"{needs}: delete something on it")
    memory = facts.free_memory_mb
    if memory is not None and memory < gates.min_free_memory_mb:
        needs = f"{memory} MB of memory available, needs {gates.min_free_memory_mb} MB"
        yield Reason(Gate.MEMORY, f"{needs}: close apps on it or restart it")


def _unknown(facts: DeviceFacts) -> Iterator[Reason]:
    for gate, value, name in (
        (Gate.BATTERY_LEVEL, facts.battery_percent, "battery level"),
        (Gate.BATTERY_HEAT, facts.battery_celsius, "battery temperature"),
        (Gate.THERMAL_STATUS, facts.thermal_status, "thermal status"),
        (Gate.STORAGE, facts.free_storage_mb, "free storage"),
        (Gate.MEMORY, facts.free_memory_mb, "available memory"),
    ):
        if value is None:
            yield Reason(gate, f"it does not tell its {name}, and the gates are strict", unknown=True)
