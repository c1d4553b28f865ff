"""How hot a phone says it is, as ``dumpsys thermalservice`` (Android 10 and newer) prints it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum

from devicelab.devices.text import clean, decimal, lines, whole

__all__ = ["Temperature", "ThermalFacts", "ThermalStatus", "parse_thermalservice"]


class ThermalStatus(IntEnum):
    """How much the phone throttles: android.os.PowerManager, THERMAL_STATUS_*."""

    NONE = 0
    LIGHT = 1
    MODERATE = 2
    SEVERE = 3
    CRITICAL = 4
    EMERGENCY = 5
    SHUTDOWN = 6

    @property
    def label(self) -> str:
        """Its name for people and JSON: ``light``."""
        return self.name.lower()


# android.os.Temperature, TYPE_*. 6 to 8 (BCL_VOLTAGE, BCL_CURRENT, BCL_PERCENTAGE) are volts, amperes and per
# cent under the name of a temperature and are left out on purpose.
_KINDS = {
    -1: "unknown", 0: "cpu", 1: "gpu", 2: "battery", 3: "skin", 4: "usb_port", 5: "power_amplifier", 9: "npu",
    10: "tpu", 11: "display", 12: "modem", 13: "soc", 14: "wifi", 15: "camera", 16: "flashlight", 17: "speaker",
    18: "ambient", 19: "pogo",
}  # fmt: skip

_CACHED = "Cached temperatures:"
_LIVE = "Current temperatures from HAL:"
_READING = re.compile(
    r"Temperature\{mValue=([^,{}]{1,40}), mType=(-?[0-9]{1,4}), mName=(.{0,200}), mStatus=(-?[0-9]{1,4})\}"
)


@dataclass(frozen=True, slots=True)
class Temperature:
    """One sensor's reading.

    Attributes:
        kind: ``skin``, ``cpu``, ``gpu``, ``battery``, … after android.os.Temperature.
        name: The vendor's name for the sensor, cleaned.
        celsius: Degrees Celsius.
    """

    kind: str
    name: str
    celsius: float


@dataclass(frozen=True, slots=True)
class ThermalFacts:
    """What is known of a phone's heat.

    Attributes:
        status: The throttling status, None where the phone has no thermal service or its sensors are not ready.
        temperatures: The sensors that gave a believable reading, in the phone's order.
        live: Whether the temperatures were read just now. Android's cached ones may be hours old.
        overridden: Somebody set the status by hand (``cmd thermalservice override-status``).
    """

    status: ThermalStatus | None = None
    temperatures: tuple[Temperature, ...] = ()
    live: bool = False
    overridden: bool = False

    def hottest(self, kind: str) -> float | None:
        """The highest reading of one kind in degrees Celsius."""
        return max((t.celsius for t in self.temperatures if t.kind == kind), default=None)


def parse_thermalservice(text: str) -> ThermalFacts:
    """Read status and temperatures.

    Readings from the HAL count; the cached ones only where the HAL gave none. -99.9, 0, NaN and whatever no
    phone survives stand for an absent sensor. Some vendors number the types one higher than Android does: a
    name such as ``TYPE_SKIN`` therefore outweighs the number.

    Args:
        text: The output; of ``Can't find service: thermalservice`` nothing is known.
    """
    status: ThermalStatus | None = None
    ready = True
    overridden = False
    sections: dict[str, list[Temperature]] = {_CACHED: [], _LIVE: []}
    section: list[Temperature] | None = None
    for raw in lines(text):
        line = raw.strip()
        key, colon, value = line.partition(":")
        if line.startswith("Temperature{"):
            reading = _reading(line)
            if section is not None and reading is not None:
                section.append(reading)
        elif not colon:
            continue
        elif key == "Thermal Status":
            number = whole(value, 0, max(ThermalStatus))
            status = None if number is None else ThermalStatus(number)
        elif key == "IsStatusOverride":
            overridden = value.strip() == "true"
        elif key == "HAL Ready":
            ready = value.strip() != "false"
        elif not value:
            section = sections.get(line)
    live = bool(sections[_LIVE])
    return ThermalFacts(
        status=status if ready or overridden else None,
        temperatures=tuple(sections[_LIVE] or sections[_CACHED]),
        live=live,
        overridden=overridden,
    )


def _reading(line: str) -> Temperature | None:
    match = _READING.fullmatch(line)
    if match is None:
        return None
    # -40 to 150 °C is what a phone's thermistors and die sensors can read at all.
    celsius = decimal(match[1], -40, 150)
    named = match[3].removeprefix("TYPE_").lower() if match[3].startswith("TYPE_") else ""
    kind = named if named in _KINDS.values() else _KINDS.get(int(match[2]))
    if not celsius or kind is None:
        return None
    return Temperature(kind=kind, name=clean(match[3], 60), celsius=celsius)
