"""The ELF reader: both widths, real programs, and damage."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devicelab.elf import ARM, X86_64, MalformedElfError, parse_elf
from tests.elves import make_elf


@pytest.mark.parametrize("wide", [True, False])
def test_everything_that_a_file_says_is_read(wide: bool) -> None:
    data = make_elf(["libc.so", "liblog.so"], "/system/bin/linker", ARM, wide=wide, alignment=16384)
    elf = parse_elf(data)
    assert (elf.bits, elf.machine, elf.movable) == (64 if wide else 32, ARM, True)
    assert (elf.needed, elf.interpreter, elf.alignment) == (
        ("libc.so", "liblog.so"),
        "/system/bin/linker",
        16384,
    )
    assert (elf.soname, elf.writable_code) == ("", False)


@pytest.mark.parametrize("wide", [True, False])
def test_what_is_unusual_shows(wide: bool) -> None:
    elf = parse_elf(make_elf(["libc.so"], wide=wide, movable=False, flags=7, soname="libx.so.1"))
    assert not elf.movable
    assert elf.writable_code
    assert (elf.soname, elf.needed) == ("libx.so.1", ("libc.so",))


def test_the_running_python_is_read() -> None:
    elf = parse_elf(Path(sys.executable).resolve().read_bytes())
    assert elf.bits == 64
    assert "ld-linux" in elf.interpreter
    assert elf.alignment >= 4096


@given(st.booleans(), st.binary(max_size=64), st.integers(0, 400))
def test_damage_is_refused_in_words(wide: bool, noise: bytes, at: int) -> None:
    good = make_elf(["liba.so"], "/lib/ld.so", X86_64, wide=wide)
    for data in (noise, good[:at], good[:at] + noise + good[at + len(noise) :]):
        try:
            parse_elf(data)
        except MalformedElfError as error:
            assert "ELF file" in str(error)  # noqa: PT017 (either outcome is right, but no other error)
