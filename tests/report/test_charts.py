from __future__ import annotations

import re
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devicelab.report.charts import Cell, Series, ceiling, line_chart, matrix, sparkline, stacked_bars
from devicelab.report.svg import ticks
from tests.report.pages import Element, Page


def svg(markup: str) -> Element:
    [element] = Page(markup).root.children
    assert element.tag == "svg"
    return element


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.-]+) ([\d.-]+)", path)]


def lines(values: dict[int, float | None], *, name: str = "loss") -> Element:
    return svg(line_chart([Series(name, "c1", values)], label="Loss"))


def bars(*layers: dict[int, float | None], top: float | None = None) -> Element:
    series = [Series(f"layer {index}", f"c{index}", layer) for index, layer in enumerate(layers)]
    xs = sorted({x for layer in layers for x in layer})
    return svg(stacked_bars(xs, series, label="Time", show="{:g} s".format, axis="{:g}".format, top=top))


def rectangles(chart: Element, style: str) -> list[tuple[float, float, float]]:
    """Left, top and height of each bar of a layer."""
    found = [path.attributes["d"] for path in chart.all("path", style)]
    return [
        (float(left), float(top), float(height))
        for d in found
        for left, top, height in re.findall(r"M([\d.]+) ([\d.]+)h[\d.]+v([\d.]+)h-", d)
    ]


class TestTicks:
    @pytest.mark.parametrize(
        ("low", "high", "marks"),
        [(0, 1, [0, 0.5, 1]), (0.2, 1.9, [0, 0.5, 1, 1.5, 2]), (0, 0, [0, 0.5, 1]), (-3, 7, [-5, 0, 5, 10]),
         (97, 103, [96, 98, 100, 102, 104])],
    )  # fmt: skip
    def test_round_numbers(self, low: float, high: float, marks: list[float]) -> None:
        assert ticks(low, high) == marks

    @given(st.floats(-1e12, 1e12), st.floats(0, 1e12), st.integers(3, 6))
    def test_they_reach_around_what_is_drawn(self, low: float, span: float, count: int) -> None:
        marks = ticks(low, low + span, count)
        slack = 1e-6 * max(abs(low), span, 1e-90)
        assert marks[0] <= low + slack
        assert marks[-1] >= low + span - slack
        assert 2 <= len(marks) <= 2 * count + 2
        assert marks == sorted(set(marks))


class TestLines:
    def test_the_line_goes_where_the_values_are(self) -> None:
        chart = lines({1: 0.0, 2: 1.0, 3: 0.5})
        [line] = chart.all("path", "line")
        (x1, y1), (x2, y2), (x3, y3) = points(line.attributes["d"])
        assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
        assert y1 > y3 > y2, "down is up in a picture"
        assert y1 - y3 == pytest.approx((y1 - y2) / 2, abs=0.2)
        assert len(chart.all("circle")) == 3

    def test_gaps_where_values_are_missing_or_not_finite(self) -> None:
        chart = lines({1: 1.0, 2: 2.0, 3: None, 4: nan, 5: 3.0, 6: inf, 7: 1.0, 8: 1.5})
        assert [len(points(path.attributes["d"])) for path in chart.all("path", "line")] == [2, 2]
        assert len(chart.all("circle")) == 5, "the lonely value is a dot"
        assert not re.search("nan|inf", str(line_chart([Series("x", "c1", {1: nan, 2: inf})], label="L")))

    def test_one_value_and_none(self) -> None:
        assert len(lines({1: 0.7}).all("circle")) == 1
        assert lines({}).all("circle") == []

    def test_many_values_are_no_dots(self) -> None:
        chart = lines({x: float(x) for x in range(1, 1001)})
        assert chart.all("circle") == []
        labels = [text.text for text in chart.all("text", "x")]
        assert labels == ["100", "200", "300", "400", "500", "600", "700", "800", "900", "1000", "round"]

    def test_the_mouse_learns_every_value(self) -> None:
        titles = [each.text for each in lines({1: 0.25, 2: None}).all("title")]
        assert titles == ["round 1\nloss: 0.2500", "round 2"]

    def test_text_is_text(self) -> None:
        chart = svg(line_chart([Series('<b a="', "c1", {1: 1.0})], label='"><script>'))
        assert chart.attributes["aria-label"] == '"><script>'
        assert chart.all("title")[0].text == 'round 1\n<b a=": 1.0000'


class TestBars:
    def test_layers_stand_on_each_other(self) -> None:
        chart = bars({1: 1.0, 2: 2.0}, {1: 3.0, 2: None})
        (left, top, height), (_, _, twice) = rectangles(chart, "c0")
        [(above_left, above_top, above_height)] = rectangles(chart, "c1")
        assert above_left == left
        assert above_top + above_height == pytest.approx(top, abs=0.2)
        assert above_height == pytest.approx(3 * height, abs=0.5)
        assert twice == pytest.approx(2 * height, abs=0.5)

    def test_few_that_are_far_too_high_do_not_flatten_the_others(self) -> None:
        chart = bars({1: 1000.0, **dict.fromkeys(range(2, 10), 2.0)})
        (_, top, highest), *others = rectangles(chart, "c0")
        assert min(height for _, _, height in others) >= highest / 2
        assert top == pytest.approx(12.0)
        assert [text.text for text in chart.all("text", "over")] == ["↑ 1000 s"]

    @given(st.lists(st.floats(0, 1e9)))
    def test_most_bars_are_whole(self, heights: list[float]) -> None:
        cut = ceiling(heights)
        standing = [height for height in heights if height > 0]
        assert sum(height > cut for height in standing) <= len(standing) / 4
        assert cut in standing or cut == 0

    def test_nothing_to_draw(self) -> None:
        for chart in (bars({}), bars({1: 0.0}), bars({1: None, 2: nan}), bars({1: -1.0})):
            assert rectangles(chart, "c0") == []

    def test_a_common_scale(self) -> None:
        [(_, _, alone)] = rectangles(bars({1: 1.0}), "c0")
        [(_, _, beside)] = rectangles(bars({1: 1.0}, top=10.0), "c0")
        assert beside == pytest.approx(alone / 10, abs=0.2)


class TestMatrix:
    def test_cells_stand_in_their_column(self) -> None:
        cells = {"A": {3: Cell("c1"), 5: Cell("c2", "gone")}, "B": {}}
        chart = svg(matrix(cells, [3, 4, 5], label="Who"))
        [first], [second] = chart.all("path", "c1"), chart.all("path", "c2")
        x1, x2 = (float(each.attributes["d"][1:].split()[0]) for each in (first, second))
        assert x2 - x1 == pytest.approx(2 * 26)
        assert [each.text for each in second.all("title")] == ["gone"]
        assert [each.text for each in chart.all("text", "y")] == ["A", "B"]

    def test_a_thousand_rounds_fit(self) -> None:
        chart = svg(matrix({"A": {1000: Cell("c1")}}, range(1, 1001), label="Who"))
        assert float(chart.attributes["width"]) <= 1130
        assert [each.text for each in chart.all("text", "x")][:3] == ["1", "50", "100"]


class TestSparkline:
    def spark(self, values: list[tuple[float, float]], limit: float | None = 45.0) -> Element:
        return svg(sparkline(values, label="Heat", style="c2", x_range=(0, 100), y_range=(15, 55), limit=limit))

    def test_what_is_outside_is_drawn_at_the_edge(self) -> None:
        [line] = self.spark([(0, -300.0), (50, 35.0), (100, 900.0)]).all("path", "line")
        assert points(line.attributes["d"]) == [(4.0, 36.0), (150.0, 20.0), (296.0, 4.0)]

    def test_peaks_survive_thinning(self) -> None:
        values = [(index / 100, 30.0 + (20.0 if index == 4567 else 0.0)) for index in range(10_000)]
        [line] = self.spark(values).all("path", "line")
        drawn = points(line.attributes["d"])
        assert len(drawn) <= 202
        assert min(y for _, y in drawn) == pytest.approx(8.0)

    def test_one_reading_is_a_dot(self) -> None:
        chart = self.spark([(5, 30.0)])
        assert (len(chart.all("circle")), chart.all("path", "line")) == (1, [])
        assert self.spark([], limit=None).all("circle") == []
