"""A phone whose programs are arm64's, and a host that does not notice."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devicelab.errors import ConfigError, VirtualPhoneError
from devicelab.virtual.arm64 import fetch_emulator, is_foreign
from devicelab.virtual.binfmt import registration
from devicelab.virtual.client import VirtualPhone
from devicelab.virtual.desk import VirtualDesk
from devicelab.virtual.image import build_image
from devicelab.virtual.libraries import read_elf
from devicelab.virtual.packages import host_arch
from devicelab.virtual.probe import arm64_problem
from devicelab.virtual.profile import load_profile
from tests.virtual.adbclient import Adb
from tests.virtual.wire import Wire, shell

PROFILE = "phone-arm64"


def binfmt(line: bytes) -> tuple[bytes, bytes]:
    """Magic and mask of a registration line, unescaped as the kernel does it."""
    empty, name, kind, offset, magic, mask, _, flags = line.split(b":")
    assert (empty, name, kind, offset, flags) == (b"", b"arm64", b"M", b"", b"F")
    return tuple(bytes.fromhex(part.replace(b"\\x", b"").decode()) for part in (magic, mask))  # type: ignore[return-value]  # two of them


def is_matched(header: bytes) -> bool:
    magic, mask = binfmt(registration("/emulator"))
    assert len(magic) == len(mask) == 20
    return all((byte ^ wanted) & care == 0 for byte, wanted, care in zip(header, magic, mask, strict=False))


@given(st.integers(0, 255), st.sampled_from([2, 3]), st.binary(min_size=8, max_size=8))
def test_arm64_programs_of_any_abi_are_matched(abi: int, kind: int, padding: bytes) -> None:
    header = b"\x7fELF\x02\x01\x01" + bytes([abi]) + bytes(8) + bytes([kind, 0]) + b"\xb7\x00"
    assert is_matched(header)
    assert not is_matched(header[:18] + b"\x3e\x00")  # x86-64
    assert not is_matched(header[:4] + b"\x01" + header[5:])  # 32 bits
    assert not is_matched(header[:16] + b"\x04" + header[17:])  # a core dump
    assert is_matched(header[:8] + padding + header[16:]) == (padding == bytes(8))


def test_the_hosts_own_programs_are_not_matched() -> None:
    with Path("/proc/self/exe").open("rb") as file:
        assert is_matched(file.read(20)) == (host_arch() == "arm64")


def test_what_is_foreign() -> None:
    assert not is_foreign(load_profile("pixel"))
    assert is_foreign(load_profile(PROFILE)) == (host_arch() != "arm64")


@pytest.fixture
def arm64_phone(desk: VirtualDesk) -> VirtualPhone | None:
    """None, once it is clear that the kernel's refusal is reported, where the kernel is too old."""
    problem = arm64_problem() if host_arch() != "arm64" else None
    if problem is None:
        return desk.up([PROFILE])[0]
    with pytest.raises(VirtualPhoneError, match="runs no arm64 programs for a phone alone"):
        desk.up([PROFILE])
    return None


def host_registry() -> dict[str, str] | None:
    """What the host executes through emulators; None where it has no such registry at hand."""
    folder = Path("/proc/sys/fs/binfmt_misc")
    if not folder.is_dir():
        return None
    return {path.name: path.read_text() for path in folder.iterdir() if path.name != "register"}


def run_on_host(program: Path) -> str:
    try:
        return str(subprocess.run([program, "true"], capture_output=True, timeout=60, check=False).returncode)
    except OSError as error:
        return str(error.errno)


def test_everything_in_it_is_arm64_and_the_host_is_as_before(
    desk: VirtualDesk, arm64_phone: VirtualPhone | None
) -> None:
    program = build_image(arch="arm64") / "usr/bin/toybox"
    assert read_elf(program).machine == 183
    if arm64_phone is None:
        return
    with Wire(arm64_phone.port) as wire:
        assert wire.shell("uname -m") == "aarch64\n"
        assert (
            wire.shell("getprop ro.devicelab.executes; getprop ro.product.cpu.abilist")
            == "aarch64\narm64-v8a\n"
        )
        assert wire.shell("busybox 2>/dev/null; awk 'BEGIN { print 6 * 7 }'").endswith("42\n")
        during = host_registry(), run_on_host(program)
        desk.down()
    assert (host_registry(), run_on_host(program)) == during


def test_a_pushed_arm64_program_runs_again_after_a_reboot(arm64_phone: VirtualPhone | None, adb: Adb) -> None:
    if arm64_phone is None:
        return
    serial = f"127.0.0.1:{arm64_phone.port}"
    adb("connect", serial)
    adb.wait(serial, "device")
    adb("push", str(build_image(arch="arm64") / "usr/bin/toybox"), "/data/local/tmp/toybox")
    run = "chmod 755 /data/local/tmp/toybox && /data/local/tmp/toybox uname -m"
    assert adb("shell", run).stdout == b"aarch64\n"
    for _ in range(3):
        arm64_phone.kill()
        arm64_phone.start()
        assert shell(arm64_phone.port, run) == "aarch64\n"


def test_it_freezes_and_fills_like_any_other(arm64_phone: VirtualPhone | None) -> None:
    if arm64_phone is None:
        return
    with Wire(arm64_phone.port) as wire:
        arm64_phone.freeze()
        wire.sock.settimeout(1)
        with pytest.raises(TimeoutError):
            wire.shell("echo anybody")
        arm64_phone.thaw()
        wire.sock.settimeout(60)
        arm64_phone.set_disk(1 << 20)
        assert "No space left on device" in wire.shell("head -c 2000000 /dev/zero >/data/local/tmp/x")


def test_the_emulator_is_one_file() -> None:
    emulator = read_elf(fetch_emulator())
    assert (emulator.interpreter, emulator.needed) == ("", ())


@pytest.mark.parametrize("body", ["proot", "python"])
def test_other_bodies_do_not_pretend(desk: VirtualDesk, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devicelab.virtual.ground.is_foreign", lambda profile: True)
    with pytest.raises(ConfigError, match="phone-arm64 needs a body of namespaces"):
        desk.up([PROFILE], body=body)  # type: ignore[arg-type]  # one of the three


def test_a_kernel_that_refuses_is_quoted(desk: VirtualDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devicelab.virtual.ground.is_foreign", lambda profile: True)
    monkeypatch.setattr("devicelab.virtual.ground.arm64_problem", lambda: "mount binfmt_misc: No such device")
    with pytest.raises(
        VirtualPhoneError, match="for a phone alone: mount binfmt_misc: No such device"
    ) as caught:
        desk.up([PROFILE], body="namespaces")
    assert "6.7" in str(caught.value.hint)
    assert desk.list() == []
