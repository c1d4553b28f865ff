"""Values that change over time in straight lines: a battery that drains, a phone that heats up."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Curve", "value_at"]

Curve = Sequence[tuple[float, float]]
"""Points (seconds from now, value) in order of time."""


def value_at(curve: Curve, seconds: float) -> float:
    """A curve's value at a time: its first point's before that, its last one's after."""
    before = curve[0]
    for point in curve:
        if seconds < point[0]:
            if point[0] == before[0]:
                return point[1]
            share = (seconds - before[0]) / (point[0] - before[0])
            return before[1] + share * (point[1] - before[1])
        before = point
    return before[1]
