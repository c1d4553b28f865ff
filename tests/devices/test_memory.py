"""/proc/meminfo on kernels with and without MemAvailable, and page sizes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devicelab.devices.facts import RawFacts
from devicelab.devices.memory import MemoryFacts, parse_meminfo, parse_page_size

KIB = 1024


def test_a_kernel_of_today(phone: Callable[[str], RawFacts]) -> None:
    assert parse_meminfo(phone("android-8").proc) == MemoryFacts(3809036 * KIB, 1740060 * KIB)


def test_an_old_kernel_is_estimated(phone: Callable[[str], RawFacts]) -> None:
    available = 40960 + 20480 + 307200 - 1024
    assert parse_meminfo(phone("android-4.4").proc) == MemoryFacts(983040 * KIB, available * KIB)


def test_what_is_missing_is_unknown() -> None:
    assert parse_meminfo("") == MemoryFacts()
    assert parse_meminfo("MemTotal: 1000 kB\n") == MemoryFacts(1000 * KIB, None)
    assert parse_meminfo("MemTotal: 1000 kB\nMemFree: 10 kB\n").available is None
    assert parse_meminfo("MemTotal: 0 kB\n").total is None
    assert parse_meminfo("MemTotal: 1000 MB\nMemTotal: -5 kB\n") == MemoryFacts()


def test_nonsense_stays_within_bounds() -> None:
    assert parse_meminfo("MemTotal: 100 kB\nMemAvailable: 900 kB\n").available == 100 * KIB
    assert parse_meminfo("MemTotal: 100 kB\nMemFree: 1 kB\nCached: 1 kB\nShmem: 50 kB\n").available == 0


@given(st.integers(1, 10**12), st.integers(0, 10**12), st.sampled_from(["\n", "\r\n"]))
def test_what_the_kernel_prints_is_read_back(total: int, available: int, newline: str) -> None:
    text = newline.join([f"MemTotal:   {total:>12} kB", "MemFree: 1 kB", f"MemAvailable: {available} kB", ""])
    assert parse_meminfo(text) == MemoryFacts(total * KIB, min(total, available) * KIB)


@given(st.text())
def test_any_text_is_survived(text: str) -> None:
    parse_meminfo(text)
    parse_page_size(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096\n", 4096), ("16384\r\n", 16384), ("65536", 65536), ("4095", None), ("undefined", None), ("", None)],
)
def test_page_sizes(text: str, size: int | None) -> None:
    assert parse_page_size(text) == size
