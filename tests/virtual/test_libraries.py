from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devicelab.errors import VirtualPhoneError
from devicelab.virtual.image import LIBRARIES
from devicelab.virtual.libraries import closure, read_elf
from tests.elves import make_elf


def test_a_program_says_what_it_loads(tmp_path: Path) -> None:
    (tmp_path / "program").write_bytes(make_elf(["liba.so", "libb.so.1"], "/lib64/ld.so"))
    elf = read_elf(tmp_path / "program")
    assert (elf.machine, elf.needed, elf.interpreter) == (62, ("liba.so", "libb.so.1"), "/lib64/ld.so")


def test_the_closure_follows_libraries_through_directories(tmp_path: Path) -> None:
    near, far = tmp_path / "near", tmp_path / "far"
    for folder in (near, far):
        folder.mkdir()
    (tmp_path / "program").write_bytes(make_elf(["liba.so"]))
    (near / "liba.so").write_bytes(make_elf(["libb.so", "liba.so"]))
    (far / "liba.so").write_bytes(b"not this one")
    (far / "libb.so").write_bytes(make_elf(["liba.so"]))

    assert closure([tmp_path / "program"], [near, far]) == {
        "liba.so": near / "liba.so",
        "libb.so": far / "libb.so",
    }

    (far / "libb.so").write_bytes(make_elf(["libc.so"]))
    with pytest.raises(VirtualPhoneError, match=r"libb\.so needs libc\.so"):
        closure([tmp_path / "program"], [near, far])


def test_the_image_is_closed(image: Path) -> None:
    libraries = [path for path in (image / "usr/lib").rglob("*.so*") if path.is_file()]
    programs = [path for path in (image / "usr/bin").iterdir() if path.is_file()]
    assert {path.name for path in programs} == {"adbd", "busybox", "mksh", "toybox"}
    wanted = [path for path in libraries if path.name in LIBRARIES]
    found = closure([*programs, *wanted], sorted({path.parent for path in libraries}))
    assert {path.name for path in libraries} == {
        *LIBRARIES,
        *found,
        Path(read_elf(programs[0]).interpreter).name,
    }


def test_offsets_beyond_all_files_are_refused(tmp_path: Path) -> None:
    good = make_elf(["liba.so"])
    for at in (32, 64 + 8, 64 + 56 + 8):  # program headers; a segment; the dynamic section
        for offset in (1 << 20, 1 << 62, (1 << 64) - 1):
            (tmp_path / "file").write_bytes(good[:at] + struct.pack("<Q", offset) + good[at + 8 :])
            try:
                read_elf(tmp_path / "file")
            except VirtualPhoneError as error:
                assert "damaged" in str(error)  # noqa: PT017 (an empty dynamic section is no damage)


@given(st.binary(max_size=200), st.binary(max_size=300), st.integers(0, 250))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_is_refused_in_words(tmp_path: Path, start: bytes, noise: bytes, at: int) -> None:
    good = make_elf(["liba.so"], "/lib/ld.so")
    for data in (start, b"\x7fELF\x02\x01" + start, good[:at], good[:at] + noise + good[at + len(noise) :]):
        (tmp_path / "file").write_bytes(data)
        try:
            read_elf(tmp_path / "file")
        except VirtualPhoneError as error:
            assert str(tmp_path) in str(error)  # noqa: PT017 (either outcome is right, but no other error)
