"""Sizes as people write them: ``300MB``, ``27GiB``, ``1.5 GB``, plain bytes."""

from __future__ import annotations

import re

from devicelab.errors import ConfigError

__all__ = ["parse_size"]

_UNITS = {
    "": 1,
    "B": 1,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", 1)},
    **{f"{prefix}IB": 1024**power for power, prefix in enumerate("KMGT", 1)},
}
_PATTERN = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*([A-Za-z]{0,3})")


def parse_size(text: str) -> int:
    """Bytes from a number with or without a unit: kB, MB, GB, TB are powers of 1000, KiB … TiB of 1024.

    Raises:
        ConfigError: It is no size.
    """
    match = _PATTERN.fullmatch(text.strip())
    if match is None or match[2].upper() not in _UNITS:
        raise ConfigError(f"{text!r} is not a size", hint="write it as 300MB, 27GiB or as plain bytes")
    return int(float(match[1]) * _UNITS[match[2].upper()])
