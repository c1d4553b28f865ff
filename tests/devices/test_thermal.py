"""dumpsys thermalservice: live degrees of sensors that exist, and nothing that is not a temperature."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devicelab.devices.facts import RawFacts
from devicelab.devices.thermal import ThermalFacts, ThermalStatus, parse_thermalservice


def _dump(*live: str, cached: tuple[str, ...] = (), status: str = "0", ready: str = "true") -> str:
    return "\n".join(
        [
            "IsStatusOverride: false",
            f"Thermal Status: {status}",
            "Cached temperatures:",
            *(f"\t{line}" for line in cached),
            f"HAL Ready: {ready}",
            "HAL connection:",
            "\tThermalHAL 2.0 connected: yes",
            "Current temperatures from HAL:",
            *(f"\t{line}" for line in live),
            "Current cooling devices from HAL:",
            "\tCoolingDevice{mValue=99, mType=0, mName=fan}",
        ]
    )


def _sensor(value: object, kind: int, name: str = "x", status: int = 0) -> str:
    return f"Temperature{{mValue={value}, mType={kind}, mName={name}, mStatus={status}}}"


@pytest.mark.parametrize("name", ["android-4.4", "android-5", "android-6", "android-8", "emulator-6.0"])
def test_old_phones_have_no_thermal_service(phone: Callable[[str], RawFacts], name: str) -> None:
    assert parse_thermalservice(phone(name).thermal) == ThermalFacts()


def test_shifted_type_numbers_are_outweighed_by_the_names(phone: Callable[[str], RawFacts]) -> None:
    facts = parse_thermalservice(phone("android-10").thermal)
    assert facts.status is ThermalStatus.MODERATE
    assert facts.live
    assert facts.hottest("skin") == 43.2
    assert facts.hottest("cpu") == 51.0
    assert facts.hottest("battery") == 41.4
    assert facts.hottest("power_amplifier") == 38.8
    assert facts.hottest("usb_port") is None  # -99.9
    assert facts.hottest("gpu") is None


def test_cached_values_stand_in_and_are_marked(phone: Callable[[str], RawFacts]) -> None:
    facts = parse_thermalservice(phone("android-12").thermal)
    assert facts.hottest("cpu") == 38.0
    assert not facts.live
    assert facts.status is ThermalStatus.NONE


def test_live_values_win_over_cached_ones(phone: Callable[[str], RawFacts]) -> None:
    facts = parse_thermalservice(phone("android-14-samsung-like").thermal)
    assert facts.status is ThermalStatus.LIGHT
    assert facts.hottest("cpu") == 39.25
    assert facts.hottest("battery") == 33.0  # the second battery's 0.0 is an absent sensor
    assert facts.hottest("skin") == 36.5


def test_volts_amperes_and_per_cent_are_no_degrees(phone: Callable[[str], RawFacts]) -> None:
    facts = parse_thermalservice(phone("android-16").thermal)
    assert {sensor.name for sensor in facts.temperatures} == {
        "battery", "virtual skin, front", "gpu", "CPU0", "CPU1", "tpu-ish",
    }  # fmt: skip
    assert facts.hottest("cpu") == 36.200001
    assert facts.hottest("npu") == 34.7


def test_a_status_without_sensors_behind_it_is_unknown(phone: Callable[[str], RawFacts]) -> None:
    facts = parse_thermalservice(phone("emulator-15").thermal)
    assert facts.status is None
    assert facts.hottest("skin") == 30.8
    assert parse_thermalservice(_dump(status="3", ready="true")).status is ThermalStatus.SEVERE


def test_an_overridden_status_counts() -> None:
    text = _dump(status="4", ready="false").replace("IsStatusOverride: false", "IsStatusOverride: true")
    facts = parse_thermalservice(text)
    assert facts.overridden
    assert facts.status is ThermalStatus.CRITICAL


@pytest.mark.parametrize("status", ["7", "-1", "", "none", "99999999999999999999"])
def test_a_status_android_does_not_know_is_unknown(status: str) -> None:
    assert parse_thermalservice(_dump(status=status)).status is None


@pytest.mark.parametrize("value", ["-99.9", "0", "0.0", "NaN", "Infinity", "-273.15", "35000", "x", ""])
def test_absent_sensors(value: str) -> None:
    assert parse_thermalservice(_dump(_sensor(value, 3))).temperatures == ()


def test_labels_are_for_people() -> None:
    assert [status.label for status in ThermalStatus] == [
        "none", "light", "moderate", "severe", "critical", "emergency", "shutdown",
    ]  # fmt: skip
    assert list(ThermalStatus) == list(range(7))


@given(
    st.lists(
        st.tuples(
            st.decimals(min_value=1, max_value=140, places=3),
            st.sampled_from([0, 1, 2, 3, 4, 5, 9]),
            st.text("abc XYZ,}{=_-:0", min_size=1, max_size=20).filter(lambda name: name == name.strip()),
        ),
        max_size=12,
    )
)
def test_what_dumpsys_prints_is_read_back(sensors: list[tuple[object, int, str]]) -> None:
    kinds = {0: "cpu", 1: "gpu", 2: "battery", 3: "skin", 4: "usb_port", 5: "power_amplifier", 9: "npu"}
    facts = parse_thermalservice(_dump(*(_sensor(*sensor) for sensor in sensors)))
    read = [(sensor.celsius, sensor.kind) for sensor in facts.temperatures]
    assert read == [(float(str(value)), kinds[kind]) for value, kind, _ in sensors]


@given(st.text())
def test_any_text_is_survived(text: str) -> None:
    parse_thermalservice(text)
    parse_thermalservice(_dump(text, _sensor(text, 3), _sensor(3, 3, text)))


def test_a_hostile_megabyte_takes_no_time() -> None:
    for piece in ("Temperature{mValue=1, mType=1, mName=", ", mStatus=", "Temperature{", ":\n", "a"):
        parse_thermalservice(piece * (1_000_000 // len(piece)))
        parse_thermalservice("Current temperatures from HAL:\n" + piece * (1_000_000 // len(piece)))
