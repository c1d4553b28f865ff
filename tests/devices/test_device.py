"""One device: it reconnects by itself, to the same phone only, and cleans up behind a broken push."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from devicelab.adb.fake import FakePhone, FakeTransport
from devicelab.devices.device import Device
from devicelab.devices.discovery import Discovery
from devicelab.devices.leases import Leases
from devicelab.devices.quarantine import Quarantine
from devicelab.errors import DeviceLostError, DeviceNotReadyError, RemoteFileError
from tests.devices.answering import Character, answering

REMOTE = "/data/local/tmp/devicelab/x"


class Desk:
    """A phone whose character can be changed."""

    def __init__(self) -> None:
        self.character = Character()
        self.phone: FakePhone = answering("A", lambda: self.character)


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def device(desk: Desk, tmp_path: Path) -> Iterator[Device]:
    with Leases(tmp_path / "leases") as leases:
        [device] = Discovery(FakeTransport([desk.phone]), leases, Quarantine(tmp_path), patience=2).look()
        with device:
            yield device


def test_shell_push_and_pull(device: Device, desk: Desk, tmp_path: Path) -> None:
    assert device.shell("echo", "a b", "c").text == "a b c"
    device.push(b"content", REMOTE)
    assert desk.phone.files == {REMOTE: b"content"}
    device.pull(REMOTE, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"content"


def test_a_file_larger_than_allowed_is_refused(device: Device, desk: Desk, tmp_path: Path) -> None:
    desk.phone.files[REMOTE] = bytes(100)
    with pytest.raises(RemoteFileError):
        device.pull(REMOTE, tmp_path / "back", max_bytes=99)
    assert not (tmp_path / "back").exists()


def test_a_phone_that_was_away_is_found_again(device: Device, desk: Desk) -> None:
    desk.phone.unplug()
    with pytest.raises(DeviceLostError):
        device.shell("echo", "hello", seconds=2)
    desk.phone.replug()
    assert device.shell("echo", "hello").text == "hello"


def test_another_phone_in_its_place_is_not_taken_for_it(device: Device, desk: Desk) -> None:
    desk.phone.unplug()
    desk.phone.replug()
    desk.character = Character(serialno="SERIAL2")
    with pytest.raises(DeviceLostError, match="another phone, SERIAL2"):
        device.shell("echo", "hello")


def test_a_reboot_is_the_same_phone_with_new_facts(device: Device, desk: Desk) -> None:
    desk.phone.unplug()
    desk.phone.replug()
    desk.character = Character(boot_id="99999999-2222-3333-4444-555555555555")
    assert device.shell("echo", "hello").text == "hello"
    assert device.facts.boot_id == desk.character.boot_id


def test_what_a_broken_push_left_goes_when_the_phone_is_back(device: Device, desk: Desk) -> None:
    def unplug(_sent: int) -> None:
        desk.phone.unplug()

    with pytest.raises(DeviceLostError):
        device.push(bytes(8 << 20), REMOTE, progress=unplug)
    left = next(iter(device._leftovers))
    desk.phone.files[left] = b"half of it"
    desk.phone.replug()
    device.shell("echo", "hello")
    assert desk.phone.files == {}


def test_a_phone_that_is_not_ready_is_refused_with_the_reason(desk: Desk, tmp_path: Path) -> None:
    desk.character = Character(tenths=500)
    with Leases(tmp_path / "leases") as leases:
        [device] = Discovery(FakeTransport([desk.phone]), leases, Quarantine(tmp_path)).look()
        with device, pytest.raises(DeviceNotReadyError, match="cooling") as caught:
            device.require_ready()
    assert "50.0 °C" in (caught.value.hint or "")
