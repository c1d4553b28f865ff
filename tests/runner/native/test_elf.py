"""What every phone's kernel and dynamic linker asks of a program, checked on all six."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from devicelab.elf import parse_elf
from devicelab.runner.fitness import misfit
from devicelab.runner.native import build
from devicelab.runner.targets import TARGETS
from tests.runner.native.bench import runners

PAGE = 16384
EXECUTABLE, WRITABLE = 1, 2
SOFT_FLOAT_CALLS = 0x200


@pytest.fixture(scope="module")
def programs() -> Mapping[str, Path]:
    return runners(*build.TARGETS)


@pytest.fixture(params=build.TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def elf(target: str, programs: Mapping[str, Path]) -> Iterator[Any]:
    with programs[target].open("rb") as file:
        yield ELFFile(file)


def segments(elf: Any, kind: str) -> list[Any]:
    return [segment for segment in elf.iter_segments() if segment["p_type"] == kind]


def dynamic(elf: Any) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for tag in segments(elf, "PT_DYNAMIC")[0].iter_tags():
        found.setdefault(tag.entry.d_tag, []).append(tag)
    return found


def test_there_is_a_runner_for_every_target_that_devices_are() -> None:
    assert set(build.TARGETS) == set(TARGETS)
    for name, target in build.TARGETS.items():
        assert target.interpreter == TARGETS[name].linker
        assert (target.system, target.abi) == (TARGETS[name].system, TARGETS[name].abi)


def test_it_fits_its_phones(target: str, programs: Mapping[str, Path]) -> None:
    content = programs[target].read_bytes()
    assert misfit(parse_elf(content), TARGETS[target], PAGE, program=True) is None
    assert len(content) < 300_000


def test_the_engine_is_all_that_it_needs(elf: Any) -> None:
    assert [tag.needed for tag in dynamic(elf)["DT_NEEDED"]] == ["libonnxruntime.so"]
    symbols = [symbol for symbol in segments(elf, "PT_DYNAMIC")[0].iter_symbols() if symbol.name]
    assert [symbol.name for symbol in symbols] == ["OrtGetApiBase"]
    assert symbols[0]["st_shndx"] == "SHN_UNDEF"
    assert not segments(elf, "PT_TLS")  # the dynamic linker's thread-local storage is not ours


def test_it_is_position_independent_and_bound_at_once(target: str, elf: Any) -> None:
    assert elf["e_type"] == "ET_DYN"
    tags = dynamic(elf)
    pie, now = 0x08000000, 0x1
    assert tags["DT_FLAGS_1"][0].entry.d_val & (pie | now) == pie | now
    interpreter = segments(elf, "PT_INTERP")[0].get_interp_name()
    assert interpreter == build.TARGETS[target].interpreter


def test_no_memory_is_both_writable_and_executable(elf: Any) -> None:
    for segment in elf.iter_segments():
        assert segment["p_flags"] & (EXECUTABLE | WRITABLE) != EXECUTABLE | WRITABLE
    assert not segments(elf, "PT_GNU_STACK")[0]["p_flags"] & EXECUTABLE
    assert "DT_TEXTREL" not in dynamic(elf)


def test_segments_fit_pages_of_16_kib(elf: Any) -> None:
    loads = segments(elf, "PT_LOAD")
    pages: set[int] = set()
    for segment in loads:
        assert segment["p_align"] >= PAGE
        assert segment["p_vaddr"] % PAGE == segment["p_offset"] % PAGE
        first, last = segment["p_vaddr"] // PAGE, (segment["p_vaddr"] + segment["p_memsz"] - 1) // PAGE
        assert pages.isdisjoint(range(first, last + 1))
        pages |= set(range(first, last + 1))
    # What becomes read-only ends with a page, or the linker would take writable data with it.
    [relro] = segments(elf, "PT_GNU_RELRO")
    assert (relro["p_vaddr"] + relro["p_memsz"]) % PAGE == 0


def test_old_linkers_can_read_it(elf: Any) -> None:
    tags = dynamic(elf)
    assert "DT_HASH" in tags  # Android before 6 knows no other
    assert "DT_GNU_HASH" in tags
    new = {"DT_RELR", "DT_RELRSZ", "DT_ANDROID_REL", "DT_ANDROID_RELA", "DT_ANDROID_RELR"}
    assert new.isdisjoint(tags)


def test_32_bit_arm_without_neon(programs: Mapping[str, Path]) -> None:
    with programs["android-armeabi-v7a"].open("rb") as file:
        elf: Any = ELFFile(file)
        assert elf["e_flags"] & SOFT_FLOAT_CALLS
        [section] = [s for s in elf.iter_sections() if s["sh_type"] == "SHT_ARM_ATTRIBUTES"]
        attributes = {
            attribute.tag: attribute.value
            for part in section.iter_subsections()
            for group in part.iter_subsubsections()
            for attribute in group.iter_attributes()
        }
    v7, d16_only = 10, 4
    assert attributes["TAG_CPU_ARCH"] == v7
    assert attributes["TAG_FP_ARCH"] == d16_only
    assert attributes.get("TAG_ADVANCED_SIMD_ARCH", 0) == 0
