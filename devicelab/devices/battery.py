"""The battery, as ``dumpsys battery`` describes it."""

from __future__ import annotations

from dataclasses import dataclass

from devicelab.devices.text import decimal, lines, whole

__all__ = ["BatteryFacts", "parse_battery"]

_HEADER = "Current Battery Service state:"
_POWERED = ("AC powered", "USB powered", "Wireless powered", "Dock powered")

# android.os.BatteryManager, BATTERY_STATUS_* and BATTERY_HEALTH_*; 1 is "unknown" in both.
_STATUS = {2: "charging", 3: "discharging", 4: "not charging", 5: "full"}
_HEALTH = {2: "good", 3: "overheat", 4: "dead", 5: "over voltage", 6: "failure", 7: "cold"}


@dataclass(frozen=True, slots=True)
class BatteryFacts:
    """What is known of a battery; None is unknown, which is not the same as empty or cold.

    Attributes:
        percent: Charge, 0 to 100.
        celsius: Temperature in degrees Celsius.
        plugged: Whether some charger is connected.
        present: Whether there is a battery at all (television boxes and some emulators say no).
        status: ``charging``, ``discharging``, ``not charging`` or ``full``.
        health: ``good``, ``overheat``, ``dead``, ``over voltage``, ``failure`` or ``cold``.
        frozen: Somebody overrides the values (``dumpsys battery set …``) until ``dumpsys battery reset``.
    """

    percent: float | None = None
    celsius: float | None = None
    plugged: bool | None = None
    present: bool | None = None
    status: str | None = None
    health: str | None = None
    frozen: bool = False


def parse_battery(text: str) -> BatteryFacts:
    """Read the state block of ``dumpsys battery``.

    The block is what is indented below its headline; the logs and back-ups that vendors print after it repeat
    ``level`` and ``temperature`` with other meanings and are not looked at. Keys are compared whole, because
    ``Capacity level: 3`` is no level.

    The level counts in units of the scale, the temperature in tenths of a degree, where 0 stands for "no
    sensor". Of a battery that is said to be absent neither is believed.

    Args:
        text: The output; without the headline (``Can't find service: battery``) nothing is known.
    """
    state, frozen = _state_block(text)
    present = _boolean(state.get("present"))
    percent = celsius = None
    if present is not False:
        scale = whole(state.get("scale", "100"), 1, 1_000_000)
        level = whole(state.get("level", ""), 0, scale) if scale else None
        percent = 100 * level / scale if level is not None and scale else None
        tenths = decimal(state.get("temperature", ""), -400, 1500)
        celsius = tenths / 10 if tenths else None
    chargers = [_boolean(state.get(key)) for key in _POWERED]
    return BatteryFacts(
        percent=percent,
        celsius=celsius,
        plugged=True if True in chargers else False if False in chargers else None,
        present=present,
        status=_STATUS.get(whole(state.get("status", ""), 0, 99) or 0),
        health=_HEALTH.get(whole(state.get("health", ""), 0, 99) or 0),
        frozen=frozen,
    )


def _state_block(text: str) -> tuple[dict[str, str], bool]:
    """``key: value`` lines below the headline, the first of each key, and whether the values are overridden."""
    state: dict[str, str] = {}
    frozen = inside = False
    for line in lines(text):
        if not inside:
            inside = line.strip() == _HEADER
        elif line.strip() and not line[0].isspace():
            break
        elif "(UPDATES STOPPED" in line:
            frozen = True
        else:
            key, colon, value = line.partition(":")
            if colon:
                state.setdefault(key.strip(), value.strip())
    return state, frozen


def _boolean(word: str | None) -> bool | None:
    return {"true": True, "false": False}.get(word or "")
