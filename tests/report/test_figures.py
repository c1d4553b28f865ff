from __future__ import annotations

from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devicelab.report.figures import brief_count, clock, duration, figure, middle, natural, plural, rank, size


@pytest.mark.parametrize(
    ("count", "said"),
    [(None, "–"), (0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (9_999, "10.0 kB"), (215_312, "215 kB"),
     (999_499, "999 kB"), (999_500, "1.00 MB"), (28_123_456, "28.1 MB"), (6 * 10**15, "6.00 PB"),
     (6 * 10**18, "6000 PB")],
)  # fmt: skip
def test_sizes(count: int | None, said: str) -> None:
    assert size(count) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "–"), (0, "0"), (0.53124, "0.5312"), (2.25, "2.2500"), (12.3456, "12.35"), (-0.5, "-0.5000"),
     (0.000123456, "0.0001235"), (1.5e-9, "1.5e-09"), (123456.0, "1.235e+05"), (inf, "inf"), (nan, "nan")],
)  # fmt: skip
def test_losses(value: float | None, said: str) -> None:
    assert figure(value) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, "–"), (nan, "–"), (-1, "0.00 s"), (0.4249, "0.42 s"), (9.999, "10.0 s"), (59.9, "59.9 s"),
     (59.99, "1:00"), (205, "3:25"), (3723, "1:02:03")],
)  # fmt: skip
def test_durations(seconds: float | None, said: str) -> None:
    assert duration(seconds) == said


@given(st.floats(min_value=0, max_value=1e15))
def test_brief_counts_fit_their_column(count: float) -> None:
    assert len(brief_count(count)) <= 5


def test_small_words() -> None:
    assert (brief_count(None), brief_count(inf), brief_count(1500), clock(8.4)) == ("–", "–", "1.5k", "0:08")
    assert (plural(1, "phone"), plural(2345, "client")) == ("1 phone", "2,345 clients")
    assert middle("192.168.178.21:5555", 12) == "192.1…1:5555"
    assert middle("short", 12) == "short"


def test_names_in_the_order_of_their_numbers() -> None:
    names = ["p-10", "p-9", "a", "10.0.0.2:5555", "9.0.0.2:5555", "p-" + "9" * 5000, "", "p-²"]
    assert sorted(names, key=natural)[:5] == ["", "9.0.0.2:5555", "10.0.0.2:5555", "a", "p-9"]


def test_metrics_by_what_they_tell() -> None:
    names = ["loss", "accuracy", "test/loss", "eval/accuracy", "test/accuracy"]
    assert sorted(names, key=rank) == ["eval/accuracy", "test/accuracy", "test/loss", "accuracy", "loss"]


def test_the_metric_comes_before_its_variants() -> None:
    names = ["eval/full_hr@10.a", "eval/hr@10.a", "eval/loss", "eval/ndcg@10.a", "test/hr@10.a"]
    assert sorted(names, key=rank) == [
        "eval/hr@10.a", "test/hr@10.a", "eval/ndcg@10.a", "eval/full_hr@10.a", "eval/loss"
    ]  # fmt: skip
