"""Which devices are meant: the ``--device`` option.

Grammar::

    selector  =  term *("," term)          all terms must fit
    term      =  key operator value
              |  name                      an ADB serial, an identity or a name of the lab file
    operator  =  "=" | "!=" | ">=" | "<=" | ">" | "<"

The option may be repeated: a device is meant if any of the selectors means it. Keys and words are compared
without regard to case.

* A *name* is an ADB serial, an identity or the lab file's name for a device, whole (``R58M123``,
  ``127.0.0.1:7001``, ``kitchen``), a pattern (``emulator-*``) or a beginning of at least four characters that
  fits exactly one device.
* *Words* (``serial identity name label state model manufacturer android abi soc transport``): ``=`` and ``!=``
  take the patterns ``*``, ``?`` and ``[abc]``. A device fits ``abi=…`` if any of its ABIs does, ``abi!=…`` if
  none does; the same goes for its labels.
* *Numbers* (``sdk ram_mb free_memory_mb free_storage_mb battery_percent battery_celsius cores page_size``) take
  all operators: ``sdk>=29``. So do ``android`` (``android>=4.4``, part by part) and ``thermal_status``, whose
  values are names: ``thermal_status<=light``.
* ``ready=yes`` or ``ready=no``.
* What is not known of a device fits ``!=`` and nothing else.

A comma always separates terms; in a value write ``?`` for it.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol, TypeVar

from devicelab.devices.facts import DeviceFacts
from devicelab.devices.states import DeviceState
from devicelab.devices.text import decimal
from devicelab.devices.thermal import ThermalStatus
from devicelab.errors import ConfigError, NoDeviceError

__all__ = ["Selectable", "Selector", "parse_selector", "select"]

_SHORTEST_PREFIX = 4
_TERM = re.compile(r"([A-Za-z_]+)\s*(!=|>=|<=|==|=|>|<)\s*(.*)", re.DOTALL)
_VERSION = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,6}){0,5}", re.ASCII)
_GLOB = re.compile(r"[*?\[]")
_YES_NO = {"yes": 1.0, "true": 1.0, "1": 1.0, "no": 0.0, "false": 0.0, "0": 0.0}


class Selectable(Protocol):
    """What a selector looks at."""

    @property
    def serial(self) -> str:
        """The ADB serial in use."""
        ...

    @property
    def alternatives(self) -> tuple[str, ...]:
        """Other ADB serials that lead to it."""
        ...

    @property
    def identity(self) -> str | None:
        """Who it is, if that is known."""
        ...

    @property
    def name(self) -> str | None:
        """What a person calls it."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """That person's words to group devices by."""
        ...

    @property
    def state(self) -> DeviceState:
        """One of the eight states."""
        ...

    @property
    def facts(self) -> DeviceFacts:
        """What is known of it."""
        ...

    @property
    def transport_name(self) -> str:
        """How it is reached."""
        ...

    @property
    def ready(self) -> bool:
        """Whether it may be given work."""
        ...


D = TypeVar("D", bound=Selectable)
_Order = tuple[float, ...]  # numbers, versions and thermal statuses, all compared alike

_WORDS: dict[str, Callable[[Selectable], Sequence[str | None]]] = {
    "serial": lambda device: [device.serial, *device.alternatives],
    "identity": lambda device: [device.identity],
    "name": lambda device: [device.name],
    "label": lambda device: device.labels,
    "state": lambda device: [device.state],
    "model": lambda device: [device.facts.model],
    "manufacturer": lambda device: [device.facts.manufacturer],
    "android": lambda device: [device.facts.android],
    "abi": lambda device: device.facts.abis,
    "soc": lambda device: [device.facts.soc],
    "transport": lambda device: [device.transport_name],
}
_NUMBERS: dict[str, Callable[[Selectable], float | None]] = {
    "sdk": lambda device: device.facts.sdk,
    "ram_mb": lambda device: device.facts.ram_mb,
    "free_memory_mb": lambda device: device.facts.free_memory_mb,
    "free_storage_mb": lambda device: device.facts.free_storage_mb,
    "battery_percent": lambda device: device.facts.battery_percent,
    "battery_celsius": lambda device: device.facts.battery_celsius,
    "cores": lambda device: device.facts.cores,
    "page_size": lambda device: device.facts.page_size,
    "thermal_status": lambda device: device.facts.thermal_status,
    "ready": lambda device: float(device.ready),
}
_KEYS = (*_WORDS, *_NUMBERS)
_OTHER_NAMES = {"abis": "abi", "labels": "label", "ram": "ram_mb", "battery": "battery_percent", "api": "sdk"}
_OPERATORS: dict[str, Callable[[_Order, _Order], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True, slots=True)
class _Term:
    """One condition: as it was written, and what decides."""

    text: str
    fits: Callable[[Selectable], bool]


@dataclass(frozen=True, slots=True)
class Selector:
    """A parsed selector.

    Attributes:
        text: As it was written.
        terms: Conditions that must all hold.
    """

    text: str
    terms: tuple[_Term, ...]

    def fits(self, device: Selectable) -> bool:
        """Whether a device is meant."""
        return all(term.fits(device) for term in self.terms)


def select(devices: Sequence[D], selectors: Iterable[str], *, allow_none: bool = False) -> list[D]:
    """The devices that are meant, in their given order.

    Args:
        devices: All there are.
        selectors: Any of them must fit; none at all means every device.
        allow_none: Return an empty list where nothing fits.

    Raises:
        ConfigError: A selector makes no sense, or the beginning of a name fits several devices.
        NoDeviceError: Nothing fits; says what there is, and which condition ruled it out.
    """
    texts = list(selectors)
    if not texts:
        return list(devices)
    parsed = [parse_selector(text, devices) for text in texts]
    meant = [device for device in devices if any(selector.fits(device) for selector in parsed)]
    if not meant and not allow_none:
        raise NoDeviceError(_nothing(parsed, devices), hint=_what_there_is(devices))
    return meant


def parse_selector(text: str, devices: Sequence[Selectable] = ()) -> Selector:
    """Understand a selector.

    Args:
        text: What the user wrote.
        devices: All there are, to tell whether the beginning of a name fits one of them only.

    Raises:
        ConfigError: It makes no sense; says why and what would.
    """
    terms = tuple(_term(part.strip(), devices) for part in text.split(","))
    return Selector(text, terms)


def _term(text: str, devices: Sequence[Selectable]) -> _Term:
    if not text:
        raise ConfigError(
            "a device selector is empty", hint="name a device, or a condition such as model=Pixel*"
        )
    match = _TERM.fullmatch(text)
    if match is None:
        return _Term(text, _name(text, devices))
    key = match[1].lower()
    key = _OTHER_NAMES.get(key, key)
    if key not in _KEYS:
        near = difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.5)
        meant = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(
            f"device selector {text!r}: there is no key {match[1]!r}", hint=f"{meant}Keys: {', '.join(_KEYS)}"
        )
    sign = "=" if match[2] == "==" else match[2]
    value = match[3].strip()
    if not value:
        raise ConfigError(f"device selector {text!r}: a value is missing", hint=f"for example {_example(key)}")
    if key in _WORDS and sign in {"=", "!="}:
        return _Term(text, _word_test(key, value, wanted=sign == "="))
    return _Term(text, _order_test(text, key, sign, value))


def _word_test(key: str, pattern: str, *, wanted: bool) -> Callable[[Selectable], bool]:
    words = _WORDS[key]
    pattern = pattern.lower()

    def fits(device: Selectable) -> bool:
        found = any(_like(word.lower(), pattern) for word in words(device) if word is not None)
        return found is wanted

    return fits


def _order_test(text: str, key: str, sign: str, value: str) -> Callable[[Selectable], bool]:
    compare = _OPERATORS[sign]
    limit = _limit(text, key, sign, value)

    def fits(device: Selectable) -> bool:
        there = _version(device.facts.android or "") if key == "android" else _number(key, device)
        return sign == "!=" if there is None else compare(there, limit)

    return fits


def _limit(text: str, key: str, sign: str, value: str) -> _Order:
    """The right side of a comparison, in the same terms as the left one."""
    limit: _Order | None = None
    if key == "android":
        limit = _version(value)
    elif key in _WORDS:
        raise ConfigError(
            f"device selector {text!r}: {key} knows only = and !=", hint=f"for example {_example(key)}"
        )
    elif key == "thermal_status" and value.upper() in ThermalStatus.__members__:
        limit = (float(ThermalStatus[value.upper()]),)
    elif key == "ready":
        limit = (_YES_NO[value.lower()],) if value.lower() in _YES_NO and sign in {"=", "!="} else None
    elif (number := decimal(value, -1e12, 1e12)) is not None:
        limit = (number,)
    if limit is None:
        raise ConfigError(
            f"device selector {text!r}: {value!r} is nothing to compare {key} with",
            hint=f"for example {_example(key)}",
        )
    return limit


def _number(key: str, device: Selectable) -> _Order | None:
    number = _NUMBERS[key](device)
    return None if number is None else (float(number),)


def _version(text: str) -> _Order | None:
    """``4.4.2`` as numbers, without zeros at the end, so that 10 and 10.0 are equal."""
    match = _VERSION.match(text)
    if match is None:
        return None
    parts = [float(part) for part in match[0].split(".")]
    while len(parts) > 1 and not parts[-1]:
        parts.pop()
    return tuple(parts)


def _name(text: str, devices: Sequence[Selectable]) -> Callable[[Selectable], bool]:
    """Serial, identity or name: whole, as a pattern, or the beginning of exactly one."""
    wanted = text.lower()
    if _GLOB.search(wanted):
        return lambda device: any(_like(name, wanted) for name in _names(device))
    if not any(wanted in _names(device) for device in devices) and len(wanted) >= _SHORTEST_PREFIX:
        begun = [device for device in devices if any(name.startswith(wanted) for name in _names(device))]
        if len(begun) > 1:
            found = ", ".join(device.serial for device in begun)
            raise ConfigError(f"several devices begin with {text!r}: {found}", hint="write more of the name")
        if begun:
            return lambda device: device is begun[0]
    return lambda device: wanted in _names(device)


def _like(word: str, pattern: str) -> bool:
    """Whether a word is, or fits, a pattern (``[::1]:5555`` looks like one and is meant as it is)."""
    return word == pattern or fnmatchcase(word, pattern)


def _names(device: Selectable) -> list[str]:
    names = (device.serial, *device.alternatives, device.identity, device.name)
    return [name.lower() for name in names if name is not None]


_EXAMPLES = {
    "label": "label=fast",
    "model": "model=Pixel*",
    "manufacturer": "manufacturer=google",
    "android": "android>=10",
    "abi": "abi=arm64-v8a",
    "state": "state=ready",
    "transport": "transport=server",
    "sdk": "sdk>=29",
    "battery_percent": "battery_percent>50",
    "battery_celsius": "battery_celsius<35",
    "cores": "cores>=4",
    "page_size": "page_size=4096",
    "thermal_status": "thermal_status<=light",
    "ready": "ready=yes",
}


def _example(key: str) -> str:
    return _EXAMPLES.get(key, f"{key}>2000" if key in _NUMBERS else f"{key}=NAME")


def _nothing(selectors: Sequence[Selector], devices: Sequence[Selectable]) -> str:
    """Why nothing fits: for each selector, how many devices each of its conditions leaves."""
    if not devices:
        return "no device is there to select from"
    parts = []
    for selector in selectors:
        counts = [f"{term.text} fits {sum(map(term.fits, devices))}" for term in selector.terms]
        parts.append(f"{selector.text!r} ({', '.join(counts)} of {len(devices)})")
    return f"no device fits {' or '.join(parts)}"


def _what_there_is(devices: Sequence[Selectable]) -> str | None:
    if not devices:
        return None
    listed = []
    for device in devices[:8]:
        traits = (device.facts.model, *device.facts.abis[:1], device.state)
        listed.append(f"{device.serial} ({', '.join(trait for trait in traits if trait)})")
    more = f" and {len(devices) - 8} more" if len(devices) > 8 else ""
    return f"there is {', '.join(listed)}{more}"
