"""getprop: every value arrives, and what is not a property does not become one."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from devicelab.devices.getprop import parse_getprop


def test_plain_empty_and_bracketed_values() -> None:
    text = "[ro.a]: [1]\n[ro.empty]: []\n[ro.list]: [see [1] and [2]]\n[ro.odd]: []]\n"
    assert parse_getprop(text) == {"ro.a": "1", "ro.empty": "", "ro.list": "see [1] and [2]", "ro.odd": "]"}


def test_values_span_lines() -> None:
    text = "[history]: [reboot,ota,1\nreboot,user,2\n\nshutdown]\n[ro.b]: [2]\n"
    assert parse_getprop(text) == {"history": "reboot,ota,1\nreboot,user,2\n\nshutdown", "ro.b": "2"}


def test_a_line_of_a_value_may_end_in_a_bracket() -> None:
    assert parse_getprop("[a]: [one]\ntwo]\n[b]: []\n") == {"a": "one]\ntwo", "b": ""}


def test_terminal_line_ends() -> None:
    assert parse_getprop("[a]: [1]\r\n[b]: [x\r\ny]\r\r\n") == {"a": "1", "b": "x\ny"}


def test_noise_is_dropped() -> None:
    text = "WARNING: linker: something\n[a]: [1]\nWARNING: linker: else\n[not a key]: [2]\n[b]: [3]\nbye\n"
    assert parse_getprop(text)["b"] == "3"
    assert parse_getprop(text)["a"].startswith("1")
    assert set(parse_getprop(text)) == {"a", "b"}
    assert parse_getprop("[a]: [1]\nWARNING: linker: else\n[b]: [3]\n") == {"a": "1", "b": "3"}
    assert parse_getprop("error: closed\n") == {}


def test_a_value_that_was_cut_off_is_left_out() -> None:
    assert parse_getprop("[a]: [1]\n[b]: [half a val") == {"a": "1"}
    assert parse_getprop("[a]: [half\n[b]: [2]\n") == {"b": "2"}


def test_of_two_the_later_counts() -> None:
    assert parse_getprop("[a]: [1]\n[a]: [2]\n") == {"a": "2"}


KEYS = st.text("abcdefghijklmnopqrstuvwxyz0123456789._-:@", min_size=1, max_size=40)
VALUES = st.text(max_size=60).filter(
    lambda value: "\r" not in value and not re.search(r"^\[[^\[\]\s]+\]: \[", value, re.MULTILINE)
)


@given(st.dictionaries(KEYS, VALUES, max_size=20))
def test_what_getprop_prints_is_read_back(properties: dict[str, str]) -> None:
    printed = "".join(f"[{key}]: [{value}]\n" for key, value in properties.items())
    assert parse_getprop(printed) == properties
    assert parse_getprop(printed.replace("\n", "\r\n")) == properties


@given(st.text())
def test_any_text_is_survived(text: str) -> None:
    parse_getprop(text)
    parse_getprop(f"[a]: [{text}")


def test_a_hostile_megabyte_takes_no_time() -> None:
    # The test's own time limit is the assertion: a quadratic parser would need hours.
    for piece in ("[a]: [", "]", "[", "\n", "[a]: [x]\n", "\r"):
        parse_getprop(piece * (1_000_000 // len(piece)))
