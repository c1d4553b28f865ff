"""What would not load is refused before it is pushed, with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from devicelab.elf import AARCH64, ARM, X86_64, parse_elf
from devicelab.errors import ConfigError, DeviceNotReadyError
from devicelab.runner.fitness import misfit, require_fit
from devicelab.runner.targets import TARGETS
from tests.elves import make_elf

PHONE, OLD_PHONE, PC = (TARGETS[name] for name in ("android-arm64-v8a", "android-armeabi-v7a", "linux-x86_64"))
NEEDED = ["libonnxruntime.so"]


def test_what_fits_fits() -> None:
    runner = make_elf(NEEDED, "/system/bin/linker64", AARCH64, alignment=16384)
    assert misfit(parse_elf(runner), PHONE, 16384, program=True) is None
    runner = make_elf(NEEDED, "/system/bin/linker", ARM, wide=False)
    assert misfit(parse_elf(runner), OLD_PHONE, None, program=True) is None
    engine = make_elf(["libc.so", "liblog.so"], "", AARCH64)
    assert misfit(parse_elf(engine), PHONE, 4096, program=False) is None
    engine = make_elf(["libc.so.6", "ld-linux-x86-64.so.2"], "/lib64/ld-linux-x86-64.so.2", X86_64)
    assert misfit(parse_elf(engine), PC, 16384, program=True) is None  # a PC's pages are 4 KiB


@pytest.mark.parametrize(
    ("elf", "reason"),
    [
        (make_elf(NEEDED, "/system/bin/linker64", X86_64), "64-bit x86-64, android-arm64-v8a is 64-bit ARM64"),
        (make_elf(NEEDED, "/system/bin/linker", ARM, wide=False), "32-bit ARM"),
        (make_elf(NEEDED, "/system/bin/linker64", 243), "machine 243"),
        (make_elf(NEEDED, "/system/bin/linker64", AARCH64, movable=False), "not position-independent"),
        (make_elf(NEEDED, "/lib/ld-linux-aarch64.so.1", AARCH64), "wants the dynamic linker /lib/ld-linux"),
        (make_elf(["libc++_shared.so"], "/system/bin/linker64", AARCH64), r"loads libc\+\+_shared.so"),
        (make_elf(NEEDED, "/system/bin/linker64", AARCH64, flags=7), "writable and executable"),
        (make_elf(NEEDED, "/system/bin/linker64", AARCH64), "aligned to 4 KiB, the device has pages of 16 KiB"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(elf: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "runner"
    path.write_bytes(elf)
    with pytest.raises(DeviceNotReadyError, match=reason) as caught:
        require_fit(path, PHONE, 16384, program=True, device="R58M123")
    assert caught.value.device == "R58M123"
    with pytest.raises(ConfigError, match=reason):
        require_fit(path, PHONE, 16384, program=True)


def test_programs_and_libraries_are_not_confused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(make_elf(["libc.so"], "/system/bin/linker64", AARCH64))
    with pytest.raises(ConfigError, match="a program and no library"):
        require_fit(path, PHONE, None, program=False)


def test_what_is_no_elf_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ConfigError, match="text is not a little-endian ELF file"):
        require_fit(tmp_path / "text", PHONE, None, program=False)
    with pytest.raises(ConfigError, match="missing cannot be read: No such file"):
        require_fit(tmp_path / "missing", PHONE, None, program=False)
