"""What all charts are made of: scales, round numbers on axes, texts, paths.

Everything becomes markup through :class:`markupsafe.Markup`, which escapes what it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import floor, isfinite, log10

from markupsafe import Markup

__all__ = ["Format", "Frame", "finite", "picture", "tell_columns", "ticks", "x_axis", "y_axis"]

Format = Callable[[float], str]
"""Writes a number for people."""

_TINY = 1e-100  # what is nothing on any axis
_TICK_WIDTH = 36.0  # that a number below the axis needs


def finite(value: float | None) -> float | None:
    """The value, or None if it is missing, infinite or no number."""
    return value if value is not None and isfinite(value) else None


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers, the first at most ``low`` and the last at least ``high``.

    Steps are 1, 2 or 5 times a power of ten (Heckbert, "Nice numbers for graph labels", Graphics Gems, 1990).
    """
    scale = max(abs(low), abs(high))
    if scale < _TINY:
        low, high = 0.0, 1.0
    elif not high - low > scale * 1e-9:  # one value, or as good as one: an axis around it
        low, high = low - scale / 20, high + scale / 20
    rough = (high - low) / max(count - 1, 1)
    power = 10.0 ** floor(log10(rough))
    step = next((power * nice for nice in (1, 2, 5) if rough <= power * nice * 1.0001), power * 10)
    first, last = floor(low / step + 1e-9), -floor(-high / step + 1e-9)
    digits = 1 - floor(log10(step))
    return [round(index * step, digits) for index in range(first, last + 1)]


@dataclass(frozen=True, slots=True)
class Frame:
    """A picture's size in CSS pixels, the margins around its data area, and the scales of that area."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    width: float = 560.0
    height: float = 230.0
    left: float = 58.0
    right: float = 14.0
    top: float = 12.0
    bottom: float = 36.0

    @property
    def room(self) -> tuple[float, float]:
        """Width and height of the data area."""
        return self.width - self.left - self.right, self.height - self.top - self.bottom

    @property
    def floor(self) -> float:
        """Where the data area ends below."""
        return self.height - self.bottom

    def x(self, value: float) -> float:
        """From data to picture."""
        span = self.x_high - self.x_low
        return self.left + self.room[0] * ((value - self.x_low) / span if span else 0.5)

    def y(self, value: float) -> float:
        """From data to picture."""
        span = self.y_high - self.y_low
        return self.floor - self.room[1] * ((value - self.y_low) / span if span else 0.5)


def picture(frame: Frame, label: str, parts: Iterable[Markup], style: str = "chart") -> Markup:
    """The SVG element; ``label`` says what it shows to those who do not see it."""
    width, height = frame.width, frame.height
    return Markup(
        '<svg class="{}" width="{:.0f}" height="{:.0f}" viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">'
        "{}</svg>"
    ).format(style, width, height, width, height, label, Markup("").join(parts))


def y_axis(frame: Frame, marks: Sequence[float], show: Format) -> list[Markup]:
    """Numbers and lines across."""
    line = Markup(
        '<path class="grid" d="M{:g} {:.1f}H{:g}"/><text class="tick y" x="{:g}" y="{:.1f}">{}</text>'
    )
    return [
        line.format(
            frame.left, frame.y(mark), frame.width - frame.right, frame.left - 7, frame.y(mark) + 4, show(mark)
        )
        for mark in marks
    ]


def x_axis(frame: Frame, values: Sequence[int], label: str) -> list[Markup]:
    """The whole numbers below the data area, as many as fit, and what they count."""
    text = Markup('<text class="tick x" x="{:.1f}" y="{:g}">{}</text>')
    return [
        Markup('<path class="axis" d="M{:g} {:g}H{:g}"/>').format(
            frame.left, frame.floor, frame.width - frame.right
        ),
        *(text.format(frame.x(mark), frame.floor + 15, mark) for mark in _marks(values, frame.room[0])),
        text.format(frame.left + frame.room[0] / 2, frame.floor + 31, label),
    ]


def _marks(values: Sequence[int], room: float) -> Sequence[int]:
    """All values, or the multiples of 2, 5, 10, … that have room."""
    steps = (1, 2, 5)
    power = 1
    while True:
        for step in steps:
            marks = [value for value in values if value % (step * power) == 0]
            if len(marks) * _TICK_WIDTH <= room:
                return marks or values[:1]
        power *= 10


def tell_columns(frame: Frame, xs: Sequence[int], texts: Sequence[str]) -> list[Markup]:
    """Invisible columns over the data area, one around each x, that tell a text where the mouse rests."""
    if not xs:
        return []
    inner = [(frame.x(one) + frame.x(other)) / 2 for one, other in pairwise(xs)]
    borders = [frame.left, *inner, frame.width - frame.right]
    column = Markup(
        '<rect class="tell" x="{:.1f}" y="{:g}" width="{:.1f}" height="{:g}"><title>{}</title></rect>'
    )
    return [
        column.format(left, frame.top, right - left, frame.room[1], text)
        for (left, right), text in zip(pairwise(borders), texts, strict=True)
    ]
