"""All that is known of a phone, for phones from Android 4.4 to 16 and emulators."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devicelab.devices.battery import BatteryFacts
from devicelab.devices.facts import DeviceFacts, RawFacts, read_facts
from devicelab.devices.thermal import ThermalStatus

ARM64 = ("arm64-v8a", "armeabi-v7a", "armeabi")
FULL = frozenset({"sha256sum", "setsid", "nohup", "timeout", "taskset"})

KNOWN: dict[str, dict[str, Any]] = {
    "android-4.4": {
        "model": "Skerry One", "manufacturer": "Fjord", "android": "4.4.4", "sdk": 19,
        "abis": ("armeabi-v7a", "armeabi"), "soc": "fjord6582", "cores": 4, "ram_mb": 960,
        "free_memory_mb": 359, "storage_mb": 2560, "free_storage_mb": 713, "page_size": 4096,
        "battery_percent": 64.0, "battery_celsius": 30.1, "thermal_status": None,
        "serialno": "FJ4400A17C", "boot_serialno": "FJ4400A17C",
        "boot_id": "5e0c4ad6-1b0f-4b58-9e35-0d8f4a0b7c11", "boot_completed": True, "uid": 2000,
        "tools": frozenset(), "sha256sum": False, "emulator": False,
    },
    "android-5": {
        "model": "Tarn T5", "android": "5.1.1", "sdk": 22, "abis": ARM64, "soc": "tarn8916", "cores": 4,
        "serialno": None, "boot_serialno": None, "battery_percent": 100.0, "free_storage_mb": 7372,
    },
    "android-6": {
        "model": "Moss 6", "sdk": 23, "abis": ARM64, "soc": "moss8952", "cores": 8, "ram_mb": 2806,
        "free_memory_mb": 1024, "free_storage_mb": 5396, "battery_percent": 27.0, "uid": 2000,
        "boot_id": "1c7e0a33-90b8-4d6e-8f0a-2f5c9be1d401", "tools": frozenset({"sha256sum", "setsid", "nohup"}),
        "serialno": "MSS60CAFE01", "boot_completed": True,
    },
    "android-8": {
        "model": "Gale S", "android": "8.1.0", "sdk": 27, "soc": "gale660", "boot_id": "init-2417008891",
        "page_size": 4096, "sha256sum": True,
    },
    "android-10": {
        "model": "Kite 10 Pro", "sdk": 29, "abis": ARM64, "thermal_status": ThermalStatus.MODERATE,
        "battery_celsius": 41.2, "cores": 8, "free_storage_mb": 52405, "tools": FULL,
    },
    "android-12": {
        "model": "Lark Tab 12", "sdk": 31, "soc": "LK8450", "cores": 5, "free_storage_mb": 157418,
        "thermal_status": ThermalStatus.NONE,
    },
    "android-14-samsung-like": {
        "model": "HS-S999B", "manufacturer": "hansung", "sdk": 34, "abis": ARM64, "battery_percent": 72.0,
        "battery_celsius": 34.8, "thermal_status": ThermalStatus.LIGHT, "cores": 10,
    },
    "android-16": {
        "model": "Zephyr 16 Pro", "android": "16", "sdk": 36, "abis": ("arm64-v8a",), "soc": "Breeze G6",
        "page_size": 16384, "cores": 9, "ram_mb": 11530, "free_memory_mb": 6144, "battery_celsius": 27.0,
    },
    "emulator-6.0": {
        "model": "Android SDK built for x86_64", "manufacturer": "Android", "abis": ("x86_64", "x86"),
        "soc": "ranchu", "emulator": True, "serialno": None, "battery_percent": 50.0, "battery_celsius": None,
        "free_memory_mb": 1120, "uid": 0,
    },
    "emulator-15": {
        "abis": ("x86_64", "arm64-v8a"), "emulator": True, "serialno": "EMULATOR35X2X10X0", "cores": 4,
        "battery_percent": None, "battery_celsius": None, "thermal_status": None, "boot_completed": False,
        "free_storage_mb": 4860,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_known_phones(phone: Callable[[str], RawFacts], name: str) -> None:
    facts = read_facts(phone(name))
    assert {key: getattr(facts, key) for key in KNOWN[name]} == KNOWN[name]


def test_the_summary_is_what_discover_lists(phone: Callable[[str], RawFacts]) -> None:
    summary = read_facts(phone("android-10")).summary()
    assert list(summary) == [
        "model", "manufacturer", "android", "sdk", "abis", "ram_mb", "free_storage_mb", "battery_percent",
        "battery_celsius", "thermal_status", "soc", "cores",
    ]  # fmt: skip
    assert json.loads(json.dumps(summary)) == summary
    assert summary["thermal_status"] == "moderate"
    assert DeviceFacts().summary()["thermal_status"] is None
    assert DeviceFacts().summary()["abis"] == []
    third = DeviceFacts(battery=BatteryFacts(percent=100 * 85 / 255, celsius=31.400002)).summary()
    assert (third["battery_percent"], third["battery_celsius"]) == (33.3, 31.4)


def test_nothing_answered_is_nothing_known() -> None:
    assert read_facts(RawFacts()) == DeviceFacts()


def _with(**properties: str) -> DeviceFacts:
    """Facts of a phone with these properties; ``__`` stands for the dots in their names."""
    lines = [f"[{key.replace('__', '.')}]: [{value}]\n" for key, value in properties.items()]
    return read_facts(RawFacts(getprop="".join(lines)))


def test_abis_come_in_the_phones_own_order() -> None:
    assert _with(ro__product__cpu__abilist="x86_64,x86,arm64-v8a").abis == ("x86_64", "x86", "arm64-v8a")
    assert _with(ro__product__cpu__abilist="", ro__product__cpu__abilist64="arm64-v8a").abis == ("arm64-v8a",)
    assert _with(ro__product__cpu__abi="armeabi-v7a", ro__product__cpu__abi2="armeabi").abis == (
        "armeabi-v7a",
        "armeabi",
    )
    both = _with(ro__product__cpu__abilist="armeabi-v7a,armeabi-v7a, armeabi", ro__product__cpu__abi="x86")
    assert both.abis == ("armeabi-v7a", "armeabi")


def test_hostile_abis_are_dropped() -> None:
    assert _with(ro__product__cpu__abilist="../../x,$(reboot),arm64-v8a,A B").abis == ("arm64-v8a",)
    assert len(_with(ro__product__cpu__abilist=",".join(f"abi{n}" for n in range(1000))).abis) <= 16


@pytest.mark.parametrize("sdk", ["", "x", "-1", "0", "29.5", "٢٩", "9" * 400])
def test_an_api_level_is_a_sane_number_or_unknown(sdk: str) -> None:
    assert _with(ro__build__version__sdk=sdk).sdk is None


def test_words_are_safe_for_terminals() -> None:
    facts = _with(
        ro__product__model="\x1b]0;owned\x07Evil\x1b[2J " + "x" * 500,
        ro__serialno="SER\u202eIAL\x00",
        ro__build__version__release="\x1b[31m12",
    )
    assert facts.model is not None
    assert facts.model.startswith("Evil x")
    assert len(facts.model) <= 80
    assert facts.serialno == "SERIAL"
    assert facts.android == "12"


def test_pages_are_what_the_kernel_says_then_the_boot_loader_then_the_age() -> None:
    prop = "[ro.boot.hardware.cpu.pagesize]: [16384]\n"
    assert read_facts(RawFacts(page_size="4096\n", getprop=prop)).page_size == 4096
    assert read_facts(RawFacts(getprop=prop)).page_size == 16384
    assert _with(ro__build__version__sdk="34").page_size == 4096
    assert _with(ro__build__version__sdk="35").page_size is None


def test_booting() -> None:
    assert _with(sys__boot_completed="1").boot_completed is True
    assert _with(sys__boot_completed="0", dev__bootcomplete="1").boot_completed is False
    assert _with(dev__bootcomplete="1").boot_completed is True
    assert _with(ro__serialno="X").boot_completed is False
    assert read_facts(RawFacts(getprop="getprop: not found\n")).boot_completed is None


def test_a_battery_without_sensor_borrows_a_live_one(phone: Callable[[str], RawFacts]) -> None:
    facts = read_facts(phone("android-14-samsung-like"))
    assert replace(facts, battery=BatteryFacts(percent=5)).battery_celsius == 33.0
    stale = read_facts(phone("android-12"))
    assert replace(stale, battery=BatteryFacts(percent=5)).battery_celsius is None


@given(st.fixed_dictionaries({part.name: st.text(max_size=200) for part in fields(RawFacts)}))
def test_any_answer_is_survived(texts: dict[str, str]) -> None:
    json.dumps(read_facts(RawFacts(**texts)).summary())
