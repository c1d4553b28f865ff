"""Quarantine: devices that keep failing are kept out for a while.

Each failure is a strike. Enough strikes within a window put the device out until a given time; then it starts
afresh. Kept in one JSON file in the state directory, written whole under a lock file, so that several commands
may strike at once.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path

from devicelab.deadline import Deadline
from devicelab.devices.locks import flocked
from devicelab.devices.text import clean
from devicelab.errors import ConfigError
from devicelab.files import write_atomically

__all__ = ["Quarantine", "QuarantineRule", "Quarantined"]

_log = logging.getLogger(__name__)

_VERSION = 1
_LOCK_SECONDS = 5.0
_MAX_SIZE = 4 << 20


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A device that is kept out.

    Attributes:
        identity: Which one.
        reason: The failure that was one too many.
        until: When it may be used again.
    """

    identity: str
    reason: str
    until: datetime


@dataclass(frozen=True, slots=True)
class QuarantineRule:
    """When a device is kept out, and for how long.

    Args:
        strikes: This many failures…
        window: …within this many seconds…
        period: …keep it out for this many seconds.

    Raises:
        ConfigError: A number that makes no sense.
    """

    strikes: int = 3
    window: float = 900.0
    period: float = 1800.0

    def __post_init__(self) -> None:
        if not 1 <= self.strikes <= 1000:
            raise ConfigError(f"quarantine after {self.strikes} strikes makes no sense")
        for name, value in (("window", self.window), ("period", self.period)):
            if not (isfinite(value) and 0 < value <= 366 * 86400):
                raise ConfigError(f"a quarantine {name} of {value:g} s makes no sense")


@dataclass(slots=True)
class _Record:
    """One device: strikes as (time, reason), oldest first, and the end of its quarantine with the reason."""

    strikes: list[tuple[float, str]] = field(default_factory=list)
    until: float = 0.0
    reason: str = ""


class Quarantine:
    """The file ``quarantine.json``.

    Args:
        directory: The state directory; made if absent.
        rule: When a device is kept out.
        clock: The time of day in seconds since 1970.
    """

    def __init__(
        self, directory: Path, rule: QuarantineRule | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.path = directory / "quarantine.json"
        self._rule = rule or QuarantineRule()
        self._clock = clock

    def strike(self, identity: str, reason: str) -> Quarantined | None:
        """Note a failure; tells if the device is kept out from now on (or already was).

        Raises:
            ConfigError: The state directory cannot be written.
            DeadlineError: Somebody else held the lock for seconds.
        """
        now = self._clock()
        with self._records() as records:
            record = records.setdefault(identity, _Record())
            record.strikes.append((now, clean(reason)))
            record.strikes = record.strikes[-self._rule.strikes :]
            if record.until <= now and self._too_many(record, now):
                record.strikes.clear()
                record.until, record.reason = now + self._rule.period, clean(reason)
        return _entry(identity, record, now)

    def until(self, identity: str) -> Quarantined | None:
        """Until when a device is kept out and why; None if it is not.

        Raises:
            ConfigError: The file cannot be read.
        """
        record = self._read().get(identity)
        return None if record is None else _entry(identity, record, self._clock())

    def all(self) -> list[Quarantined]:
        """Every device that is kept out now, sorted by identity.

        Raises:
            ConfigError: The file cannot be read.
        """
        now = self._clock()
        entries = (_entry(identity, record, now) for identity, record in sorted(self._read().items()))
        return [entry for entry in entries if entry is not None]

    def release(self, identity: str) -> bool:
        """Forget all strikes of a device and let it in; whether there was anything to forget.

        Raises:
            ConfigError: The state directory cannot be written.
            DeadlineError: Somebody else held the lock for seconds.
        """
        with self._records() as records:
            return records.pop(identity, None) is not None

    def _too_many(self, record: _Record, now: float) -> bool:
        recent = [at for at, _ in record.strikes if 0 <= now - at <= self._rule.window]
        return len(recent) >= self._rule.strikes

    @contextmanager
    def _records(self) -> Iterator[dict[str, _Record]]:
        """Read, let the caller change and write back, under the lock."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise self._unusable(error) from error
        try:
            with flocked(fd, Deadline(f"lock of {self.path}", _LOCK_SECONDS)):
                records = self._read(mend=True)
                yield records
                now = self._clock()
                kept = {name: record for name, record in records.items() if self._matters(record, now)}
                try:
                    write_atomically(self.path, _encode(kept))
                except OSError as error:
                    raise self._unusable(error) from error
        finally:
            os.close(fd)

    def _matters(self, record: _Record, now: float) -> bool:
        return record.until > now or any(now - at <= self._rule.window for at, _ in record.strikes)

    def _read(self, *, mend: bool = False) -> dict[str, _Record]:
        """All records. A file that cannot be understood counts as empty; ``mend`` also moves it aside."""
        try:
            with self.path.open("rb") as file:
                data = file.read(_MAX_SIZE + 1)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._unusable(error) from error
        try:
            return _decode(data)
        except (ValueError, RecursionError) as error:
            aside = self.path.with_suffix(".corrupt")
            what = f"moved to {aside}" if mend else "ignored"
            _log.warning("%s cannot be understood (%s); %s, nothing is quarantined", self.path, error, what)
            if mend:
                try:
                    self.path.replace(aside)
                except OSError as failure:
                    raise self._unusable(failure) from failure
            return {}

    def _unusable(self, error: OSError) -> ConfigError:
        return ConfigError(
            f"cannot use {self.path}: {error.strerror}",
            hint="choose another state directory with --state-dir",
        )


def _entry(identity: str, record: _Record, now: float) -> Quarantined | None:
    if record.until <= now:
        return None
    return Quarantined(identity, record.reason, datetime.fromtimestamp(record.until, tz=UTC))


def _encode(records: dict[str, _Record]) -> bytes:
    devices = {
        identity: {
            "strikes": [{"at": at, "reason": reason} for at, reason in record.strikes],
            "until": record.until,
            "reason": record.reason,
        }
        for identity, record in records.items()
    }
    return json.dumps({"version": _VERSION, "devices": devices}, indent=1, sort_keys=True).encode() + b"\n"


def _decode(data: bytes) -> dict[str, _Record]:
    """Raises ValueError with words for what is wrong."""
    if len(data) > _MAX_SIZE:
        raise ValueError("it is too large")
    value = json.loads(data)
    if not isinstance(value, dict) or value.get("version") != _VERSION:
        raise ValueError(f"it is not of version {_VERSION}")
    devices = value.get("devices")
    if not isinstance(devices, dict):
        raise ValueError("it lists no devices")
    return {identity: _decode_record(record) for identity, record in devices.items()}


def _decode_record(value: object) -> _Record:
    match value:
        case {"strikes": list(strikes), "until": int() | float() as until, "reason": str(reason)}:
            return _Record([_decode_strike(strike) for strike in strikes], _time(until), clean(reason))
        case _:
            raise ValueError("a device's record is not one")


def _decode_strike(value: object) -> tuple[float, str]:
    match value:
        case {"at": int() | float() as at, "reason": str(reason)}:
            return _time(at), clean(reason)
        case _:
            raise ValueError("a strike is not one")


def _time(seconds: float) -> float:
    """A time of day that :class:`datetime.datetime` can hold."""
    if not 0 <= seconds < 1 << 36:  # false for NaN, too
        raise ValueError("a time is not a time")
    return float(seconds)
