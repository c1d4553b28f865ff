from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devicelab.errors import VirtualPhoneError
from devicelab.virtual.elf import closure, read_elf


def make_elf(needed: list[str], interpreter: str = "", machine: int = 62) -> bytes:
    """The smallest file that says what we read: header, three program headers, dynamic section, strings."""
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in needed)
    base, address = 64 + 3 * 56, 0x400000
    offsets = [1 + sum(len(name) + 1 for name in needed[:index]) for index in range(len(needed))]
    count = len(needed) + 2
    table = base + 16 * count
    dynamic = b"".join(struct.pack("<qQ", 1, offset) for offset in offsets)
    dynamic += struct.pack("<qQqQ", 5, address + table, 0, 0)
    interp = interpreter.encode() + b"\0"
    total = table + len(strings) + len(interp)
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 64, 0, 0, 64, 56, 3, 64, 0, 0)
    segments = [
        (1, 5, 0, address, address, total, total, 4096),
        (2, 6, base, address + base, 0, len(dynamic), len(dynamic), 8),
        (3, 4, table + len(strings), 0, 0, len(interp), len(interp), 1),
    ]
    return head + b"".join(struct.pack("<IIQQQQQQ", *each) for each in segments) + dynamic + strings + interp


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
    found = closure(programs, sorted({path.parent for path in libraries}))
    assert "libc.so.6" in found
    assert {path.name for path in libraries} == {*found, Path(read_elf(programs[0]).interpreter).name}


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
