"""Charts as inline SVG: no script, no reference to anything outside; the page's style sheet gives the colours.

Values that are missing or not finite leave a gap. What a chart shows is also told as text (the SVG's ``title``
elements) where the mouse rests, and as tables in the report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from devicelab.report.figures import figure
from devicelab.report.svg import Format, Frame, finite, picture, tell_columns, ticks, x_axis, y_axis

__all__ = ["Cell", "Series", "ceiling", "line_chart", "matrix", "sparkline", "stacked_bars"]

_MAX_DOTS = 60  # points of a line that are also drawn as dots
_MAX_SPARK_POINTS = 200
_MAX_BAR = 40.0
_FAR = 5.0
_BAR_SHARE = 0.8  # of the distance between two bars
_MATRIX_WIDTH, _MATRIX_NAMES, _MAX_CELL, _ROW = 1120.0, 170.0, 26.0, 18.0


@dataclass(frozen=True, slots=True)
class Series:
    """One line, or one layer of stacked bars.

    Attributes:
        name: What it shows.
        style: The class that gives its colour.
        values: By x.
    """

    name: str
    style: str
    values: Mapping[int, float | None]


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a matrix: the class that gives its colour, and what it tells, if anything."""

    style: str
    text: str = ""


def line_chart(
    series: Sequence[Series],
    *,
    label: str,
    x_label: str = "round",
    show: Format = figure,
    axis: Format = "{:g}".format,
) -> Markup:
    """Lines over whole numbers, such as a loss over rounds.

    Args:
        series: The lines.
        label: What the chart shows, for those who do not see it.
        x_label: What is counted on the x axis.
        show: How a value is written.
        axis: How a round number is written.
    """
    xs = sorted({x for one in series for x in one.values})
    values = [value for one in series for y in one.values.values() if (value := finite(y)) is not None]
    marks = ticks(min(values, default=0.0), max(values, default=1.0))
    frame = Frame(xs[0] if xs else 0, xs[-1] if xs else 0, marks[0], marks[-1])
    parts = y_axis(frame, marks, axis) + x_axis(frame, xs, x_label)
    for one in series:
        parts += _line(frame, one)
    parts += tell_columns(frame, xs, [_told(series, x, x_label, show) for x in xs])
    return picture(frame, label, parts)


def _told(series: Sequence[Series], x: int, x_label: str, show: Format) -> str:
    values = ((one.name, finite(one.values.get(x))) for one in series)
    return "\n".join(
        [f"{x_label} {x}", *(f"{name}: {show(value)}" for name, value in values if value is not None)]
    )


def _line(frame: Frame, one: Series) -> list[Markup]:
    runs: list[list[tuple[float, float]]] = [[]]
    for x in sorted(one.values):
        value = finite(one.values[x])
        if value is not None:
            runs[-1].append((frame.x(x), frame.y(value)))
        elif runs[-1]:
            runs.append([])
    line = Markup('<path class="line {}" d="{}"/>')
    dot = Markup('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="3"/>')
    dotted = sum(map(len, runs)) <= _MAX_DOTS
    parts = [line.format(one.style, _path(run)) for run in runs if len(run) > 1]
    parts += [dot.format(one.style, x, y) for run in runs if dotted or len(run) == 1 for x, y in run]
    return parts


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def stacked_bars(
    xs: Sequence[int],
    layers: Sequence[Series],
    *,
    label: str,
    show: Format,
    axis: Format,
    x_label: str = "round",
    top: float | None = None,
    height: float = 230.0,
) -> Markup:
    """Bars over whole numbers, each of several layers, such as the times of a round's phases.

    Args:
        xs: Rising whole numbers, one a bar; a layer without a value there draws nothing.
        layers: From the bottom up.
        label: What the chart shows, for those who do not see it.
        show: How a value is written.
        axis: How a round number is written.
        x_label: What is counted on the x axis.
        top: What the y axis reaches, so that charts can be compared; :func:`ceiling` of this one's by default.
            A bar that is higher is drawn as high as that, its layers in proportion, with its value on it.
        height: Of the picture.
    """
    sums = [sum(max(finite(layer.values.get(x)) or 0.0, 0.0) for layer in layers) for x in xs]
    marks = ticks(0.0, (ceiling(sums) if top is None else top) or 1.0, 5 if height > 150 else 4)
    low, high = (xs[0] - 0.6, xs[-1] + 0.6) if xs else (0.0, 1.0)
    frame = Frame(low, high, 0.0, marks[-1], height=height)
    wide = min(frame.room[0] / (high - low) * _BAR_SHARE, _MAX_BAR)
    parts = y_axis(frame, marks, axis) + x_axis(frame, xs, x_label)
    shrunk = {x: min(marks[-1] / total, 1.0) if total else 1.0 for x, total in zip(xs, sums, strict=True)}
    floors = dict.fromkeys(xs, 0.0)
    for layer in layers:
        shapes = []
        for x in xs:
            value = shrunk[x] * (finite(layer.values.get(x)) or 0.0)
            if value > 0:
                upper, lower = frame.y(floors[x] + value), frame.y(floors[x])
                floors[x] += value
                shapes.append(
                    f"M{frame.x(x) - wide / 2:.1f} {upper:.1f}h{wide:.1f}v{lower - upper:.1f}h-{wide:.1f}z"
                )
        parts.append(Markup('<path class="bar {}" d="{}"/>').format(layer.style, "".join(shapes)))
    over = Markup('<text class="over" x="{:.1f}" y="{:g}">↑ {}</text>')
    parts += [
        over.format(frame.x(x) + wide / 2 + 3, frame.top + 10, show(total))
        for x, total in zip(xs, sums, strict=True)
        if shrunk[x] < 1
    ]
    parts += tell_columns(frame, xs, [_told(layers, x, x_label, show) for x in xs])
    return picture(frame, label, parts)


def ceiling(heights: Sequence[float]) -> float:
    """Where to cut bars of such heights: few that stand far above most must not flatten the others.

    Most are three quarters at least; far is five times as high.
    """
    standing = sorted(height for height in heights if height > 0)
    if not standing:
        return 0.0
    far = _FAR * standing[-(-len(standing) * 3 // 4) - 1]
    return max(height for height in standing if height <= far)


def matrix(
    rows: Mapping[str, Mapping[int, Cell]], columns: Sequence[int], *, label: str, x_label: str = "round"
) -> Markup:
    """A row of coloured cells for each name, such as what came of each phone in each round.

    Args:
        rows: Cells by column; a column without a cell stays empty.
        columns: Rising whole numbers.
        label: What it shows, for those who do not see it.
        x_label: What the columns count.
    """
    wide = min((_MATRIX_WIDTH - _MATRIX_NAMES) / max(len(columns), 1), _MAX_CELL)
    frame = Frame(
        -0.5,
        len(columns) - 0.5,
        0.0,
        1.0,
        width=_MATRIX_NAMES + wide * max(len(columns), 1) + 8,
        height=_ROW * len(rows) + 40,
        left=_MATRIX_NAMES,
        right=8,
        top=4,
    )
    gap = 1.0 if wide > 4 else 0.0
    parts: list[Markup] = []
    for row, (name, cells) in enumerate(rows.items()):
        y = frame.top + row * _ROW
        shown = name if len(name) <= 24 else f"{name[:12]}…{name[-11:]}"
        parts.append(
            Markup('<text class="tick y" x="{:g}" y="{:g}">{}</text>').format(frame.left - 7, y + 13, shown)
        )
        shapes: dict[str, list[str]] = {}
        for index, column in enumerate(columns):
            cell = cells.get(column)
            if cell is None:
                continue
            x = frame.left + index * wide
            shape = f"M{x:.1f} {y + 1:g}h{wide - gap:.1f}v{_ROW - 2:g}h-{wide - gap:.1f}z"
            if cell.text:
                told = Markup('<path class="bar {}" d="{}"><title>{}</title></path>')
                parts.append(told.format(cell.style, shape, cell.text))
            else:
                shapes.setdefault(cell.style, []).append(shape)
        one = Markup('<path class="bar {}" d="{}"/>')
        parts += [one.format(style, "".join(paths)) for style, paths in shapes.items()]
    parts += _matrix_axis(frame, columns, wide, x_label)
    return picture(frame, label, parts, "matrix")


def _matrix_axis(frame: Frame, columns: Sequence[int], wide: float, x_label: str) -> list[Markup]:
    text = Markup('<text class="tick x" x="{:.1f}" y="{:g}">{}</text>')
    every = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 10**9) if step * wide >= 24)
    parts = [
        text.format(frame.x(index), frame.floor + 15, column)
        for index, column in enumerate(columns)
        if column % every == 0 or (index == 0 and every > column)
    ]
    return [*parts, text.format(frame.left + frame.room[0] / 2, frame.floor + 31, x_label)]


def sparkline(
    points: Sequence[tuple[float, float]],
    *,
    label: str,
    style: str,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    limit: float | None = None,
) -> Markup:
    """A small line without axes, such as a phone's temperature over the run.

    Args:
        points: Pairs of x and y, by rising x.
        label: What it shows, for those who do not see it.
        style: The class that gives its colour.
        x_range: The same for all that are compared.
        y_range: The same for all that are compared; what lies outside is drawn at its edge.
        limit: Where to draw a dashed line across.
    """
    frame = Frame(*x_range, *y_range, width=300, height=40, left=4, right=4, top=4, bottom=4)
    low, high = y_range
    placed = [(frame.x(x), frame.y(min(max(y, low), high))) for x, y in _thinned(points)]
    parts = [Markup('<path class="grid" d="M4 {:g}H296"/>').format(frame.floor)]
    if limit is not None and low < limit < high:
        parts.append(Markup('<path class="limit" d="M4 {:.1f}H296"/>').format(frame.y(limit)))
    if len(placed) > 1:
        parts.append(Markup('<path class="line {}" d="{}"/>').format(style, _path(placed)))
    if placed:
        parts.append(
            Markup('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="2.5"/>').format(style, *placed[-1])
        )
    return picture(frame, label, parts, "spark")


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """No more points than can be seen; of those that share a place the lowest and the highest."""
    if len(points) <= _MAX_SPARK_POINTS:
        return points
    share = -(-2 * len(points) // _MAX_SPARK_POINTS)
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), share):
        group = points[start : start + share]
        kept += sorted({min(group, key=lambda point: point[1]), max(group, key=lambda point: point[1])})
    return kept
