"""dumpsys battery: level and heat from the state block and from nowhere else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devicelab.devices.battery import BatteryFacts, parse_battery
from devicelab.devices.facts import RawFacts


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("android-4.4", BatteryFacts(64.0, 30.1, True, True, "charging", "good")),
        ("android-5", BatteryFacts(100.0, 26.2, True, True, "full", "good")),
        ("android-6", BatteryFacts(27.0, 28.8, False, True, "discharging", "good")),
        ("android-12", BatteryFacts(80.0, 18.0, False, True, "not charging", "overheat", frozen=True)),
        ("android-14-samsung-like", BatteryFacts(72.0, 34.8, True, True, "charging", "good")),
        ("android-16", BatteryFacts(100.0, 27.0, True, True, "not charging", "good")),
        ("emulator-6.0", BatteryFacts(50.0, None, True, True, "charging", "good")),
        ("emulator-15", BatteryFacts(None, None, True, False, None, None)),
    ],
)
def test_known_phones(phone: Callable[[str], RawFacts], name: str, facts: BatteryFacts) -> None:
    assert parse_battery(phone(name).battery) == facts


def _dump(*lines: str) -> str:
    return "Current Battery Service state:\n" + "".join(f"  {line}\n" for line in lines)


def test_capacity_level_is_no_level() -> None:
    assert parse_battery(_dump("present: true", "Capacity level: 3")).percent is None
    assert parse_battery(_dump("Capacity level: 3", "level: 80")).percent == 80


def test_what_stands_in_the_logs_fills_no_gap() -> None:
    facts = parse_battery(_dump("present: true") + "[VendorLog]\n  level: 12\n  temperature: 512\n")
    assert (facts.percent, facts.celsius) == (None, None)


def test_of_two_lines_in_the_block_the_first_counts() -> None:
    assert parse_battery(_dump("level: 80", "level: 12")).percent == 80


def test_the_level_counts_in_units_of_the_scale() -> None:
    assert parse_battery(_dump("level: 50", "scale: 200")).percent == 25
    assert parse_battery(_dump("level: 50", "scale: 0")).percent is None
    assert parse_battery(_dump("level: 101", "scale: 100")).percent is None
    assert parse_battery(_dump("level: -1", "scale: 100")).percent is None


@pytest.mark.parametrize("tenths", ["0", "-2731", "99999", "NaN", "", "hot"])
def test_a_temperature_nobody_believes_is_unknown(tenths: str) -> None:
    assert parse_battery(_dump("level: 50", f"temperature: {tenths}")).celsius is None


def test_frost_is_a_temperature() -> None:
    assert parse_battery(_dump("temperature: -55")).celsius == -5.5


def test_an_absent_battery_is_unknown_and_not_empty() -> None:
    facts = parse_battery(_dump("present: false", "level: 0", "temperature: 250"))
    assert (facts.percent, facts.celsius, facts.present) == (None, None, False)


def test_unplugged_needs_at_least_one_charger_that_says_so() -> None:
    assert parse_battery(_dump("level: 5")).plugged is None
    assert parse_battery(_dump("AC powered: false", "Dock powered: true")).plugged is True
    assert parse_battery(_dump("USB powered: false")).plugged is False


@pytest.mark.parametrize("text", ["", "Can't find service: battery\n", "level: 50\n  level: 50\n"])
def test_without_the_headline_nothing_is_known(text: str) -> None:
    assert parse_battery(text) == BatteryFacts()


@given(
    level=st.integers(0, 1000),
    scale=st.integers(1, 1000),
    tenths=st.integers(-400, 1500),
    chargers=st.lists(st.booleans(), min_size=1, max_size=4),
    noise=st.lists(st.sampled_from(["  Charge counter: 9", " Time when the level: 3 was sent: 0", "  x"])),
    after=st.text(max_size=80),
    newline=st.sampled_from(["\n", "\r\n"]),
)
def test_what_dumpsys_prints_is_read_back(
    *, level: int, scale: int, tenths: int, chargers: list[bool], noise: list[str], after: str, newline: str
) -> None:
    names = ("AC", "USB", "Wireless", "Dock")
    lines = [
        "Current Battery Service state:",
        *(f"  {name} powered: {str(on).lower()}" for name, on in zip(names, chargers, strict=False)),
        *noise,
        "  present: true",
        f"  level: {level}",
        f"  scale: {scale}",
        f"  temperature: {tenths}",
        "[VendorLog]",
        "  level: 1",
        after,
    ]
    facts = parse_battery(newline.join(lines))
    assert facts.percent == (100 * level / scale if level <= scale else None)
    assert facts.celsius == (tenths / 10 if tenths else None)
    assert facts.plugged is any(chargers)


@given(st.text())
def test_any_text_is_survived(text: str) -> None:
    parse_battery(text)
    parse_battery(f"Current Battery Service state:\n  {text}")
