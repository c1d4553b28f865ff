"""Health gates: what keeps a phone out, and what its owner is told to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from devicelab.devices.battery import BatteryFacts
from devicelab.devices.facts import DeviceFacts
from devicelab.devices.health import Gate, Gates, check
from devicelab.devices.thermal import Temperature, ThermalFacts, ThermalStatus
from devicelab.errors import ConfigError

WELL = DeviceFacts(
    battery=BatteryFacts(percent=80.0, celsius=25.0, plugged=True, present=True),
    thermal=ThermalFacts(status=ThermalStatus.NONE),
    free_storage_mb=5000,
    free_memory_mb=2000,
)


def test_a_healthy_phone_has_no_reasons() -> None:
    assert check(WELL, Gates()) == []
    assert check(WELL, Gates(strict=True)) == []


@pytest.mark.parametrize(
    ("facts", "gate", "text"),
    [
        (
            replace(WELL, battery=BatteryFacts(percent=29.9, celsius=25, plugged=False)),
            Gate.BATTERY_LEVEL,
            "battery at 30 %, needs 30 %: plug in a charger",
        ),
        (
            replace(WELL, battery=BatteryFacts(percent=12.0, celsius=25, plugged=True)),
            Gate.BATTERY_LEVEL,
            "battery at 12 %, needs 30 %: leave it on the charger",
        ),
        (
            replace(WELL, battery=BatteryFacts(percent=80, celsius=40.0)),
            Gate.BATTERY_HEAT,
            "battery at 40.0 °C, must be below 40 °C: let it cool down",
        ),
        (
            replace(WELL, thermal=ThermalFacts(status=ThermalStatus.MODERATE)),
            Gate.THERMAL_STATUS,
            "thermal status moderate, at most light is allowed: let it cool down",
        ),
        (
            replace(WELL, free_storage_mb=20),
            Gate.STORAGE,
            "20 MB free in /data/local/tmp, needs 200 MB: delete something on it",
        ),
        (
            replace(WELL, free_memory_mb=64),
            Gate.MEMORY,
            "64 MB of memory available, needs 200 MB: close apps on it or restart it",
        ),
    ],
)
def test_each_gate(facts: DeviceFacts, gate: Gate, text: str) -> None:
    (reason,) = check(facts, Gates())
    assert (reason.gate, reason.text, reason.unknown) == (gate, text, False)


def test_the_limits_themselves_are_fine_but_for_heat() -> None:
    facts = replace(
        WELL,
        battery=BatteryFacts(percent=30.0, celsius=39.9),
        thermal=ThermalFacts(status=ThermalStatus.LIGHT),
        free_storage_mb=200,
        free_memory_mb=200,
    )
    assert check(facts, Gates()) == []


def test_unknown_sensors_are_allowed_unless_strict() -> None:
    assert check(DeviceFacts(), Gates()) == []
    reasons = check(DeviceFacts(), Gates(strict=True))
    assert [reason.gate for reason in reasons] == list(Gate)
    assert all(reason.unknown and "does not tell" in reason.text for reason in reasons)


def test_an_absent_battery_is_not_an_empty_one() -> None:
    emulator = replace(WELL, battery=BatteryFacts(present=False))
    assert check(emulator, Gates()) == []
    assert [reason.gate for reason in check(emulator, Gates(strict=True))] == [
        Gate.BATTERY_LEVEL,
        Gate.BATTERY_HEAT,
    ]


def test_the_thermal_services_battery_sensor_serves_too() -> None:
    hot = ThermalFacts(ThermalStatus.NONE, (Temperature("battery", "BAT", 45.0),), live=True)
    (reason,) = check(replace(WELL, battery=BatteryFacts(percent=80), thermal=hot), Gates())
    assert reason.gate is Gate.BATTERY_HEAT


def test_all_reasons_are_given_in_one_order() -> None:
    facts = DeviceFacts(
        battery=BatteryFacts(percent=1, celsius=50),
        thermal=ThermalFacts(status=ThermalStatus.SHUTDOWN),
        free_storage_mb=0,
        free_memory_mb=0,
    )
    assert [reason.gate for reason in check(facts, Gates())] == list(Gate)


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_battery_percent": 101},
        {"min_battery_percent": float("nan")},
        {"max_battery_celsius": float("inf")},
        {"min_free_storage_mb": -1},
        {"min_free_memory_mb": 1 << 40},
    ],
)
def test_limits_that_make_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Gates(**wrong)  # type: ignore[arg-type]
