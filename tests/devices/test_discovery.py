"""Discovery on fake phones: who is found, in which state, and that one bad phone hides nobody."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from devicelab.adb.connection import EndpointState
from devicelab.adb.fake import FakePhone, FakeTransport
from devicelab.devices.discovery import Discovery
from devicelab.devices.leases import Leases
from devicelab.devices.quarantine import Quarantine, QuarantineRule
from devicelab.devices.states import DeviceState
from tests.devices.answering import Character, answering

GOOD = Character()
_HOLD = """
import sys, pathlib
from devicelab.devices.leases import Leases
with Leases(pathlib.Path(sys.argv[1])) as leases, leases.acquire("SERIAL1", "run-round"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def leases(tmp_path: Path) -> Iterator[Leases]:
    with Leases(tmp_path / "leases") as leases:
        yield leases


def _discovery(leases: Leases, tmp_path: Path, *phones: FakePhone) -> Discovery:
    rule = QuarantineRule(strikes=1)
    return Discovery(FakeTransport(phones), leases, Quarantine(tmp_path, rule), patience=0.5, authorize=0.1)


def _character(character: Character, serial: str = "A") -> FakePhone:
    return answering(serial, lambda: character)


@pytest.mark.parametrize(
    ("character", "state", "words"),
    [
        (GOOD, DeviceState.READY, ""),
        (GOOD.but(booted=False), DeviceState.BOOTING, "starting"),
        (GOOD.but(tenths=460), DeviceState.COOLING, "46.0 °C"),
        (GOOD.but(percent=10), DeviceState.QUARANTINED, "10 %"),
        (GOOD.but(broken="sh: x: No space left on device"), DeviceState.QUARANTINED, "No space left"),
    ],
)
def test_a_phone_is_in_the_state_it_tells(
    character: Character, state: DeviceState, words: str, leases: Leases, tmp_path: Path
) -> None:
    [device] = _discovery(leases, tmp_path, _character(character)).look()
    assert (device.serial, device.identity, device.state) == ("A", "SERIAL1", state)
    assert words in device.reason
    assert device.ready == (state is DeviceState.READY)
    assert device.facts.model == "Pixel 9"


def test_one_bad_phone_hides_nobody(leases: Leases, tmp_path: Path) -> None:
    frozen, liar = _character(GOOD, "frozen"), FakePhone("liar", shell={})
    frozen.freeze()
    locked = _character(GOOD, "locked")
    locked.state = EndpointState.UNAUTHORIZED
    good = _character(GOOD, "good")
    devices = _discovery(leases, tmp_path, frozen, liar, locked, good).look(["host:1"])
    assert {device.serial: device.state for device in devices} == {
        "frozen": DeviceState.OFFLINE,
        "good": DeviceState.READY,
        "host:1": DeviceState.ABSENT,
        "liar": DeviceState.OFFLINE,
        "locked": DeviceState.UNAUTHORIZED,
    }
    assert all(device.reason for device in devices if not device.ready)


def test_two_ways_to_one_phone_are_one_device(leases: Leases, tmp_path: Path) -> None:
    phones = _character(GOOD, "10.0.0.1:5555"), _character(GOOD, "SERIAL1")
    [device] = _discovery(leases, tmp_path, *phones).look()
    assert (device.serial, device.alternatives, device.warning) == ("SERIAL1", ("10.0.0.1:5555",), None)


def test_two_phones_with_one_serial_number_are_two_devices(leases: Leases, tmp_path: Path) -> None:
    other = GOOD.but(boot_id="99999999-2222-3333-4444-555555555555")
    devices = _discovery(leases, tmp_path, _character(GOOD, "A"), _character(other, "B")).look()
    assert [device.identity for device in devices] == ["SERIAL1@A", "SERIAL1@B"]
    assert all(device.warning for device in devices)


def test_a_lease_of_somebody_else_makes_it_busy(leases: Leases, tmp_path: Path) -> None:
    discovery = _discovery(leases, tmp_path, _character(GOOD))
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path / "leases")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        [device] = discovery.look()
        assert device.state is DeviceState.BUSY
        assert "run-round" in device.reason
        holder.communicate(b"enough", timeout=60)
    [device] = discovery.look()
    assert device.ready


def test_our_own_lease_does_not_make_it_busy(leases: Leases, tmp_path: Path) -> None:
    with leases.acquire("SERIAL1", "run-round"):
        [device] = _discovery(leases, tmp_path, _character(GOOD)).look()
        assert device.ready


def test_a_broken_lease_file_is_a_reason_and_no_end_of_the_discovery(leases: Leases, tmp_path: Path) -> None:
    with leases.acquire("SERIAL1", "x"):
        pass
    for path in (tmp_path / "leases").iterdir():
        path.unlink()
        path.symlink_to("/etc/passwd")
    devices = _discovery(
        leases, tmp_path, _character(GOOD, "A"), _character(GOOD.but(serialno="S2"), "B")
    ).look()
    assert [device.state for device in devices] == [DeviceState.QUARANTINED, DeviceState.READY]
    assert devices[0].reason


def test_a_quarantined_phone_is_kept_out(leases: Leases, tmp_path: Path) -> None:
    discovery = _discovery(leases, tmp_path, _character(GOOD))
    discovery.quarantine.strike("SERIAL1", "dropped its update")
    [device] = discovery.look()
    assert device.state is DeviceState.QUARANTINED
    assert "dropped its update" in device.reason


def test_watching_follows_what_happens(leases: Leases, tmp_path: Path) -> None:
    character = GOOD
    phone = answering("A", lambda: character)
    discovery = _discovery(leases, tmp_path, phone)
    stop = Event()
    seen: list[list[tuple[str, DeviceState]]] = []
    for count, devices in enumerate(discovery.watch([], stop)):
        assert count < 100, seen
        now = [(device.serial, device.state) for device in devices]
        if not seen or seen[-1] != now:
            seen.append(now)
        if now == [("A", DeviceState.READY)] and len(seen) < 4:
            phone.unplug()
        elif not now and len(seen) > 2:
            character = GOOD.but(tenths=500)
            phone.replug()
        elif now == [("A", DeviceState.COOLING)]:
            stop.set()
    assert seen == [[], [("A", DeviceState.READY)], [], [("A", DeviceState.COOLING)]]
