"""Numbers as people read them: sizes, durations, losses, counts; the same wherever they are shown."""

from __future__ import annotations

import re
from math import isfinite

__all__ = [
    "UNKNOWN",
    "brief_count",
    "clock",
    "duration",
    "figure",
    "middle",
    "natural",
    "plural",
    "rank",
    "round_duration",
    "round_size",
    "size",
]

UNKNOWN = "–"
"""Stands for a number that nobody knows."""

_PREFIXES = ("", "k", "M", "G", "T", "P")


def _scaled(value: float) -> tuple[float, str]:
    """Divide by the power of 1000 that leaves a number below 999.5; the prefix says which."""
    for prefix in _PREFIXES[:-1]:
        if abs(value) < 999.5:
            return value, prefix
        value /= 1000
    return value, _PREFIXES[-1]


def size(count: float | None) -> str:
    """Bytes with a decimal unit, three digits at least: ``215 kB``, ``1.53 MB``."""
    if count is None:
        return UNKNOWN
    value, prefix = _scaled(count)
    digits = 0 if not prefix or value >= 99.5 else 1 if value >= 9.95 else 2
    return f"{value:.{digits}f} {prefix}B"


def brief_count(count: float | None) -> str:
    """A count in at most five characters: ``215``, ``1.5k``, ``28M``."""
    if count is None or not isfinite(count):
        return UNKNOWN
    value, prefix = _scaled(count)
    return f"{value:.{1 if prefix and value < 99.95 else 0}f}{prefix}"


def round_size(count: float) -> str:
    """Bytes that are a round number: ``200 kB``."""
    value, prefix = _scaled(count)
    return f"{value:g} {prefix}B"


def round_duration(seconds: float) -> str:
    """Seconds that are a round number: ``0.5 s``, ``3:20``."""
    return f"{seconds:g} s" if seconds < 60 else clock(seconds)


def figure(value: float | None) -> str:
    """A loss or metric with four significant digits, seven characters at most for what is usual: ``0.5312``."""
    if value is None:
        return UNKNOWN
    if not isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    return f"{value:.4f}" if 0.001 <= abs(value) < 10 else f"{value:.4g}"


def duration(seconds: float | None) -> str:
    """``0.42 s``, ``12.3 s``, ``3:25``, ``1:02:03``."""
    if seconds is None or not isfinite(seconds):
        return UNKNOWN
    seconds = max(seconds, 0.0)
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    return clock(seconds)


def clock(seconds: float) -> str:
    """Whole seconds as a clock shows them: ``0:08``, ``3:25``, ``1:02:03``."""
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def plural(count: int, noun: str) -> str:
    """``1 phone``, ``2 phones``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def middle(text: str, width: int) -> str:
    """Cut a name in its middle: an address's port and a serial's end are what tells phones apart."""
    if len(text) <= width:
        return text
    tail = width // 2
    return f"{text[: width - tail - 1]}…{text[len(text) - tail :]}"


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts ``phone-9`` before ``phone-10``."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part[:18]), part) if index % 2 else (0, part) for index, part in enumerate(parts)]


def rank(metric: str) -> tuple[bool, bool, int, str, str]:
    """A key that sorts metrics by what they tell.

    Held-out data come before training data, losses last of each; of others short names come first, as
    variants of a metric have more to their names (``hr@10``, ``full_hr@10``).
    """
    place = next((prefix for prefix in ("eval/", "test/") if metric.startswith(prefix)), "")
    name = metric.removeprefix(place)
    return not place, name == "loss", len(name), name, place
