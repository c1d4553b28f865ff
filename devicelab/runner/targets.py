"""Which of the runner's builds a device can run.

A phone says which ABIs it takes, best first, but a virtual phone says so, too, and runs this machine's own
programs behind it. So the phone is asked which dynamic linkers it has, and an ABI counts only if its linker is
there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from devicelab.devices.device import Device
from devicelab.elf import AARCH64, ARM, X86, X86_64
from devicelab.errors import DeviceNotReadyError

__all__ = ["TARGETS", "Target", "choose_target", "find_target"]


@dataclass(frozen=True, slots=True)
class Target:
    """One build of the runner and the engine that goes with it.

    Attributes:
        name: ``android-arm64-v8a``, ``linux-x86_64``, …; the directory of its runner.
        system: Whose dynamic linker and C library it needs.
        abi: Android's name of the ABI, or the machine's name on Linux.
        machine: The number that its ELF files carry.
        bits: 32 or 64.
        linker: Path of the dynamic linker on the device.
    """

    name: str
    system: Literal["android", "linux"]
    abi: str
    machine: int
    bits: int
    linker: str


def _android(abi: str, machine: int, bits: int) -> Target:
    linker = "/system/bin/linker64" if bits == 64 else "/system/bin/linker"
    return Target(f"android-{abi}", "android", abi, machine, bits, linker)


TARGETS: Final[Mapping[str, Target]] = {
    target.name: target
    for target in (
        _android("arm64-v8a", AARCH64, 64),
        _android("armeabi-v7a", ARM, 32),
        _android("x86_64", X86_64, 64),
        _android("x86", X86, 32),
        Target("linux-x86_64", "linux", "x86_64", X86_64, 64, "/lib64/ld-linux-x86-64.so.2"),
        Target("linux-aarch64", "linux", "aarch64", AARCH64, 64, "/lib/ld-linux-aarch64.so.1"),
    )
}
"""All that runners are built for, by name."""

_LINKERS: Final = tuple(dict.fromkeys(target.linker for target in TARGETS.values()))
_SCRIPT: Final = 'for f in "$@"; do [ -e "$f" ] && echo "$f"; done; uname -m'


def choose_target(abis: Sequence[str], linkers: Collection[str], machine: str = "") -> Target | None:
    """The target for a device, None if there is none.

    Args:
        abis: What the device says it takes, best first.
        linkers: Paths of the dynamic linkers that it has.
        machine: What ``uname -m`` says; decides between Linux systems that have both linkers.
    """
    for abi in abis:
        target = TARGETS.get(f"android-{abi}")
        if target is not None and target.linker in linkers:
            return target
    if any(target.linker in linkers for target in TARGETS.values() if target.system == "android"):
        return None  # an Android of another ABI; a Linux beside it would be no place for us
    found = [target for target in TARGETS.values() if target.linker in linkers]
    return next((target for target in found if target.abi == machine), found[0] if found else None)


def find_target(device: Device, *, seconds: float = 30.0) -> Target:
    """Ask a device which target it is.

    Args:
        device: The device; its facts must be known.
        seconds: For its answer.

    Raises:
        DeviceNotReadyError: No runner is built for it; says what it is.
        DeviceLostError, DeadlineError: As everywhere.
    """
    words = device.shell("sh", "-c", _SCRIPT, "sh", *_LINKERS, seconds=seconds, check=False).text.split()
    linkers = [word for word in words if word in _LINKERS]
    machine = words[-1] if words and words[-1] not in _LINKERS else ""
    abis = device.facts.abis
    target = choose_target(abis, linkers, machine)
    if target is not None:
        return target
    said = f"takes programs for {', '.join(abis) or 'no known ABI'} and has {_listed(linkers)}"
    raise DeviceNotReadyError(
        f"no runner is built for this device: it {said}",
        device=device.serial,
        hint=f"there are runners for {', '.join(TARGETS)}",
    )


def _listed(linkers: Sequence[str]) -> str:
    return f"the dynamic linker {' and '.join(linkers)}" if linkers else "none of their dynamic linkers"
