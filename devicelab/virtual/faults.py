"""The faults as the command line offers them: ``devicelab virtual fault NAME FAULT [VALUE]``."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, cast, get_args

from devicelab.errors import ConfigError
from devicelab.virtual.client import Answer, VirtualPhone
from devicelab.virtual.curves import Curve
from devicelab.virtual.sizes import parse_size

__all__ = ["FAULTS", "Fault", "require_fault"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        help: What it does, in one line.
        argument: What VALUE is, for the help; empty where there is none.
        parse: Reads VALUE ("" where it was left out). Raises ConfigError.
        apply: Does it to a phone, with what ``parse`` returned. Raises VirtualPhoneError.
        optional: Whether VALUE may be left out.
    """

    help: str
    argument: str
    parse: Callable[[str], Any]
    apply: Callable[[VirtualPhone, Any], None]
    optional: bool = False

    def run(self, phone: VirtualPhone, text: str | None) -> None:
        """Read VALUE and do it.

        Raises:
            ConfigError: VALUE is missing, superfluous or wrong.
            VirtualPhoneError: The phone cannot do it.
        """
        if text is not None and not self.argument:
            raise ConfigError(f"this fault takes no value, got {text!r}")
        if text is None and self.argument and not self.optional:
            raise ConfigError(f"this fault needs a value: {self.argument}")
        self.apply(phone, self.parse(text or ""))


def _plain(text: str, apply: Callable[[VirtualPhone], None]) -> Fault:
    """A fault without a value."""
    return Fault(text, "", lambda _text: None, lambda phone, _value: apply(phone))


def _number(text: str, low: float, high: float, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ConfigError(f"{text!r} is not {what}") from None
    if not low <= value <= high:
        raise ConfigError(f"{text} is outside {low:g} … {high:g}", hint=f"give {what}")
    return value


def _curve(low: float, high: float, what: str) -> Callable[[str], float | Curve]:
    """A reader of ``80`` or of ``0:80,60:20``: seconds from now and the value then."""

    def parse(text: str) -> float | Curve:
        if ":" not in text:
            return _number(text, low, high, what)
        points = []
        for part in text.split(","):
            seconds, _, value = part.partition(":")
            points.append((_number(seconds, 0, 1e6, "seconds"), _number(value, low, high, what)))
        if points != sorted(points, key=lambda point: point[0]):
            raise ConfigError(f"the seconds in {text!r} go backwards")
        return tuple(points)

    return parse


def _rate(text: str) -> tuple[float | None, float]:
    """``1MB`` (a second), ``1MB/50ms``, ``none``, ``none/50ms``."""
    rate, _, latency = text.partition("/")
    milliseconds = _number(latency.removesuffix("ms"), 0, 10_000, "milliseconds") if latency else 0.0
    if rate == "none":
        return None, milliseconds / 1000
    size = parse_size(rate)
    if size < 1:
        raise ConfigError("a link carries at least one byte a second", hint="unplug it instead")
    return float(size), milliseconds / 1000


def _answer(text: str) -> Answer:
    if text not in get_args(Answer):
        raise ConfigError(f"{text!r} is not an answer", hint=f"one of {', '.join(get_args(Answer))}")
    return cast("Answer", text)


def _status(text: str) -> int:
    value = _number(text, 0, 6, "a thermal status from 0 (none) to 6 (shutdown)")
    if value != int(value):
        raise ConfigError(f"{text!r} is not a thermal status")
    return int(value)


FAULTS: Final[Mapping[str, Fault]] = MappingProxyType(
    {
        "kill": _plain("battery out: gone at once; its data stays", VirtualPhone.kill),
        "start": _plain("boot again after kill", VirtualPhone.start),
        "reboot": Fault(
            "go down and boot again",
            "seconds to stay down (0)",
            lambda text: _number(text or "0", 0, 3600, "seconds"),
            VirtualPhone.reboot,
            optional=True,
        ),
        "freeze": _plain("stop every process: connections are taken, nothing answers", VirtualPhone.freeze),
        "thaw": _plain("undo freeze", VirtualPhone.thaw),
        "unplug": _plain("pull the cable; the phone runs on", VirtualPhone.unplug),
        "replug": _plain("put the cable back, same address", VirtualPhone.replug),
        "disk": Fault("resize the data partition", "size: 4GB", parse_size, VirtualPhone.set_disk),
        "fill": Fault("leave so much of the data partition free", "size: 300MB", parse_size, VirtualPhone.fill),
        "link": Fault(
            "make the cable slow, both ways",
            "rate a second and delay: 1MB, 1MB/50ms, none/50ms, none",
            _rate,
            lambda phone, value: phone.set_link(*value),
        ),
        "authorize": Fault(
            'answer "Allow debugging?"', "allow, always or deny", _answer, VirtualPhone.authorize
        ),
        "battery": Fault(
            "set the battery's level",
            "percent, or a curve SECONDS:PERCENT,… as in 0:80,60:20",
            _curve(0, 100, "a percentage"),
            VirtualPhone.set_battery,
        ),
        "temperature": Fault(
            "set the battery's temperature",
            "degrees Celsius, or a curve SECONDS:DEGREES,…",
            _curve(-40, 120, "degrees Celsius"),
            VirtualPhone.set_temperature,
        ),
        "thermal": Fault(
            "set the thermal status", "0 (none) to 6 (shutdown)", _status, VirtualPhone.set_thermal_status
        ),
    }
)
"""Every fault by its name on the command line."""


def require_fault(name: str) -> Fault:
    """The fault of that name.

    Raises:
        ConfigError: There is none; names the nearest one.
    """
    if name not in FAULTS:
        near = difflib.get_close_matches(name, FAULTS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(FAULTS)}"
        raise ConfigError(f"there is no fault {name!r}", hint=hint)
    return FAULTS[name]
