"""Nothing a phone prints reaches a terminal, a number or a clock unchecked."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devicelab.devices import text


@pytest.mark.parametrize(
    ("printed", "cleaned"),
    [
        ("Pixel 8 Pro", "Pixel 8 Pro"),
        ("  two \t words\r\n", "two words"),
        ("\x1b[2J\x1b[31;1mred\x1b[0m", "red"),
        ("\x1b]0;new title\x07model", "model"),
        ("\x1b]52;c;aGk=\x1b\\model", "model"),
        ("\x1bPq#0~\x1b\\model", "model"),
        ("\x9b31mred", "red"),
        ("a\u202egpj.exe", "agpj.exe"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("nul\x00bell\x07back\x08", "nulbellback"),
        ("Хуавэй 华为", "Хуавэй 华为"),
        ("\x1b", ""),
        ("", ""),
    ],
)
def test_clean_leaves_words_only(printed: str, cleaned: str) -> None:
    assert text.clean(printed) == cleaned


def test_clean_is_bounded() -> None:
    assert text.clean("x" * 1_000_000, 10) == "x" * 9 + "…"
    assert text.clean("\x1b[" * 500_000 + "x", 10) == ""
    assert text.clean("\x1b]" * 500_000, 10) == ""


@given(st.text(max_size=300), st.integers(1, 40))
def test_clean_never_lets_a_control_character_through(printed: str, limit: int) -> None:
    cleaned = text.clean(printed, limit)
    assert len(cleaned) <= limit
    assert all(unicodedata.category(c)[0] != "C" for c in cleaned)
    assert text.clean(cleaned, limit) == cleaned


def test_lines_are_split_at_newlines_only_and_carriage_returns_go() -> None:
    assert text.lines("a\r\nb\r\r\nc\x0bd\u2028e\n") == ["a", "b", "c\x0bd\u2028e", ""]


def test_lines_are_bounded() -> None:
    assert len(text.lines("x" * 100_000)[0]) < 20_000
    assert sum(map(len, text.lines("xy\n" * 3_000_000))) < text.MAX_TEXT


@pytest.mark.parametrize(
    ("printed", "number"),
    [("29", 29), (" 7 ", 7), ("-1", None), ("٣", None), ("1_0", None), ("", None), ("9" * 5000, None)],
)
def test_whole_reads_ascii_digits_in_range(printed: str, number: int | None) -> None:
    assert text.whole(printed, 0, 100) == number


@pytest.mark.parametrize(
    ("printed", "number"),
    [
        ("31.400002", 31.400002),
        ("-3", -3.0),
        ("1e1", 10.0),
        ("1e99", None),
        ("NaN", None),
        ("inf", None),
        ("0x10", None),
        ("", None),
        (".", None),
    ],
)
def test_decimal_reads_finite_numbers_in_range(printed: str, number: float | None) -> None:
    assert text.decimal(printed, -40, 150) == number


@given(st.text())
def test_numbers_never_raise(printed: str) -> None:
    number = text.whole(printed, -5, 5)
    assert number is None or -5 <= number <= 5
    fraction = text.decimal(printed, -5, 5)
    assert fraction is None or -5 <= fraction <= 5
