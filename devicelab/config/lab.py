"""The lab file: what is known of the devices on this desk, and how patient we are with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from devicelab.config.base import Contradiction, Name, Seconds, Settings, contradict

__all__ = ["DeadlinesConfig", "GatesConfig", "LabConfig", "LabDevice"]

_Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class LabDevice(Settings):
    """One device, however it is told from the others."""

    serial: str | None = Field(default=None, min_length=1, description="its ADB serial")
    identity: str | None = Field(default=None, min_length=1, description="what it calls itself (ro.serialno)")
    selector: str | None = Field(default=None, min_length=1, description="any selector that means it alone")
    labels: tuple[_Label, ...] = Field(
        default=(), description="words of yours to group devices by: --device label=fast"
    )
    hub: Name | None = Field(default=None, description="the USB hub it hangs on; null: as the kernel says")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(name is not None for name in (self.serial, self.identity, self.selector)) != 1:
            contradict([((), "give exactly one of `serial`, `identity` and `selector`")])
        return self


class GatesConfig(Settings):
    """Which devices are well enough to work."""

    min_battery_percent: float = Field(default=30.0, ge=0, le=100, description="at least this much charge")
    max_battery_celsius: float = Field(default=40.0, ge=-50, le=150, description="the battery must be cooler")
    max_thermal_status: Literal["none", "light", "moderate", "severe", "critical", "emergency", "shutdown"] = (
        Field(default="light", description="the device must not throttle more than this")
    )
    min_free_storage_mb: int = Field(
        default=200, ge=0, le=1 << 30, description="MiB free in the work directory"
    )
    min_free_memory_mb: int = Field(default=200, ge=0, le=1 << 30, description="MiB that a program can have")
    strict: bool = Field(default=False, description="whether what a device does not tell counts against it")


class DeadlinesConfig(Settings):
    """How long things may take on one device; a round's own limits are in the experiment."""

    discover: Seconds = Field(default=5.0, description="to answer when devices are looked for")
    authorize: Seconds = Field(default=1.0, description='for somebody to press "Allow" on it')
    command: Seconds = Field(default=30.0, description="for a short command")
    push: Seconds = Field(default=600.0, description="for pushing one file")
    pull: Seconds = Field(default=600.0, description="for pulling one file")


class LabConfig(Settings):
    """A lab file."""

    transport: Literal["auto", "server", "direct"] = Field(
        default="auto", description="how devices are reached: an adb server, directly, or whichever works"
    )
    addresses: tuple[str, ...] = Field(default=(), description="host:port of devices on TCP to look for")
    devices: Mapping[Name, LabDevice] = Field(default={}, description="names for devices")
    gates: GatesConfig = Field(default=GatesConfig(), description="which devices are well enough to work")
    deadlines: DeadlinesConfig = Field(default=DeadlinesConfig(), description="how long things may take")
    pushes: int = Field(default=4, ge=1, le=64, description="devices pushed to at the same time, on each hub")
    hubs: Mapping[Name, Annotated[int, Field(ge=1, le=64)]] = Field(
        default={}, description="the same number for single hubs, by your names or the kernel's (1-1.4)"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        found: list[Contradiction] = []
        for attribute in ("serial", "identity", "selector"):
            seen: dict[str, str] = {}
            for name, device in self.devices.items():
                value = getattr(device, attribute)
                if value is not None and seen.setdefault(value, name) != name:
                    found.append((("devices", name, attribute), f"{value!r} is {seen[value]!r} already"))
        contradict(found)
        return self
