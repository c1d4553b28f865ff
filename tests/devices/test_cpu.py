"""Processors that sleep count, and the chip has the best name there is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devicelab.devices.cpu import CpuInfo, parse_cpu_ranges, parse_cpuinfo, soc_name
from devicelab.devices.facts import RawFacts


def test_cpuinfo_of_an_old_arm_phone(phone: Callable[[str], RawFacts]) -> None:
    assert parse_cpuinfo(phone("android-4.4").proc) == CpuInfo(online=2, hardware="FJ6582")


def test_cpuinfo_of_an_emulator(phone: Callable[[str], RawFacts]) -> None:
    assert parse_cpuinfo(phone("emulator-6.0").proc) == CpuInfo(online=2)


def test_cpuinfo_without_processors() -> None:
    assert parse_cpuinfo("Processor : ARMv7\nprocessor : x\nprocessor : 99999\n") == CpuInfo()


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0-7\n", 8),
        ("0\r\n", 1),
        ("0-3,6,8-9", 7),
        ("0-3,2-5", 6),
        ("", None),
        ("7-0", None),
        ("0-", None),
        ("0-99999", None),
        ("0-9999999999999", None),
        ("a", None),
    ],
)
def test_ranges(text: str, count: int | None) -> None:
    assert parse_cpu_ranges(text) == count


@given(st.sets(st.integers(0, 300), min_size=1, max_size=40))
def test_ranges_count_what_they_name(cpus: set[int]) -> None:
    assert parse_cpu_ranges(",".join(map(str, sorted(cpus)))) == len(cpus)


@given(st.text())
def test_any_text_is_survived(text: str) -> None:
    parse_cpuinfo(text)
    parse_cpu_ranges(text)
    soc_name({"ro.soc.model": text}, CpuInfo(hardware=text))


def test_the_chip_is_named_by_the_most_telling_source() -> None:
    cpuinfo = CpuInfo(hardware="Maker Technologies, Inc MK1")
    properties = {"ro.soc.model": "SM8450", "ro.board.platform": "taro", "ro.hardware": "qcom"}
    assert soc_name(properties, cpuinfo) == "SM8450"
    assert soc_name({**properties, "ro.soc.model": "unknown"}, cpuinfo) == "taro"
    assert soc_name({"ro.board.platform": "", "ro.hardware": "qcom"}, cpuinfo) == "qcom"
    assert soc_name({}, cpuinfo) == "Maker Technologies, Inc MK1"
    assert soc_name({}, CpuInfo()) is None
