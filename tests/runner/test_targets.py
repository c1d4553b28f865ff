"""Which runner a device gets: by what it says and by what it has."""

from __future__ import annotations

import pytest

from devicelab.errors import DeviceNotReadyError
from devicelab.lab import Lab
from devicelab.runner.targets import TARGETS, choose_target, find_target
from devicelab.virtual.desk import VirtualDesk
from devicelab.virtual.packages import host_arch

LINKER, LINKER64 = "/system/bin/linker", "/system/bin/linker64"
PC, ARM64 = "/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"


@pytest.mark.parametrize(
    ("abis", "linkers", "machine", "expected"),
    [
        (["arm64-v8a", "armeabi-v7a", "armeabi"], [LINKER, LINKER64], "aarch64", "android-arm64-v8a"),
        (["arm64-v8a"], [LINKER64], "aarch64", "android-arm64-v8a"),  # 64-bit only
        (["armeabi-v7a", "armeabi"], [LINKER], "armv7l", "android-armeabi-v7a"),
        (["armeabi-v7a", "armeabi"], [LINKER], "aarch64", "android-armeabi-v7a"),  # a 32-bit system on 64 bits
        (["arm64-v8a", "armeabi-v7a"], [LINKER], "armv8l", "android-armeabi-v7a"),
        (["x86_64", "x86", "arm64-v8a"], [LINKER, LINKER64], "x86_64", "android-x86_64"),
        (["x86", "armeabi-v7a"], [LINKER], "i686", "android-x86"),
        (["mips"], [LINKER], "mips", None),
        (["riscv64"], [LINKER64, ARM64], "riscv64", None),
        ([], [], "", None),
        (["arm64-v8a"], [PC], "x86_64", "linux-x86_64"),  # a virtual phone
        (["arm64-v8a"], [ARM64], "aarch64", "linux-aarch64"),
        ([], [PC, ARM64], "aarch64", "linux-aarch64"),
        ([], [PC, ARM64], "x86_64", "linux-x86_64"),
        (["arm64-v8a"], [PC, ARM64], "", "linux-x86_64"),
    ],
)
def test_a_device_gets_the_best_that_it_has_a_linker_for(
    abis: list[str], linkers: list[str], machine: str, expected: str | None
) -> None:
    target = choose_target(abis, linkers, machine)
    assert (target.name if target else None) == expected


def test_every_target_is_its_own_best_choice() -> None:
    for target in TARGETS.values():
        assert choose_target([target.abi], [target.linker], target.abi) is target


def test_virtual_phones_are_what_runs_them(desk: VirtualDesk) -> None:
    desk.up(["pixel"])
    desk.up(["phone-2014"])
    desk.up(["pixel"], body="python")
    with Lab(desk.directory.parent, transport="direct") as lab:
        devices = lab.discover()
        assert len(devices) == 3
        for device in devices:
            target = find_target(device)
            assert target.system == "linux"
            assert target.abi == {"amd64": "x86_64", "arm64": "aarch64"}[host_arch()]


def test_a_device_without_any_linker_is_told_what_there_is(
    desk: VirtualDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("devicelab.runner.targets._LINKERS", ("/nonexistent",))
    desk.up(["pixel"])
    with Lab(desk.directory.parent, transport="direct") as lab:
        [device] = lab.discover()
        with pytest.raises(DeviceNotReadyError, match=r"arm64-v8a.* none of their dynamic linkers") as caught:
            find_target(device)
    assert caught.value.device == device.serial
    assert "linux-x86_64" in str(caught.value.hint)
