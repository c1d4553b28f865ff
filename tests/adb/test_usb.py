"""Phones on USB, over a stand-in for libusb: what is listed, opened, mended and said when it cannot be."""

from __future__ import annotations

import struct
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from devicelab.adb import usb
from devicelab.adb.connection import Endpoint, EndpointState
from devicelab.adb.direct import DirectConnection, DirectTransport
from devicelab.adb.packets import Command, pack_header
from devicelab.adb.usb import UsbLink, open_usb, usb_endpoints, usb_problem
from devicelab.adb.usbfs import UsbPhone
from devicelab.deadline import Deadline
from devicelab.errors import DeadlineError, DeviceBusyError, DeviceError, DeviceLostError, DeviceNotReadyError
from tests.adb import fake_usb
from tests.adb.fake_usb import PACKET, Bus, Device
from tests.adb.hostile import Hostile, Peer
from tests.adb.polite import Polite, pattern
from tests.measures import idle


def soon(seconds: float = 20.0) -> Deadline:
    return Deadline("test", seconds)


def in_sysfs(name: str, serial: str, *, accessible: bool = True) -> UsbPhone:
    return UsbPhone(name, "18d1", "4ee7", serial, Path("/dev/bus/usb/001/002"), accessible)


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Bus:
    return Bus(monkeypatch)


@pytest.fixture
def sysfs(monkeypatch: pytest.MonkeyPatch) -> list[UsbPhone]:
    """What the kernel lists; empty at first."""
    phones: list[UsbPhone] = []
    monkeypatch.setattr(usb, "usb_phones", lambda: list(phones))
    return phones


@pytest.fixture(params=[True, False], ids=["windows", "one by one"])
def phone(request: pytest.FixtureRequest) -> Iterator[Polite]:
    with Polite(windowed=request.param) as polite:
        yield polite
        assert not polite.violations


@pytest.fixture
def device(bus: Bus, sysfs: list[UsbPhone], phone: Polite) -> Device:
    """One phone on USB, called PIXEL, behind a hub; a mouse and another phone are there, too."""
    plugged = Device(phone.port, ports=(1, 4))
    bus.devices += [Device(triple=(3, 1, 2)), Device(ports=(2,)), plugged]
    sysfs += [in_sysfs("1-2", "OTHER"), in_sysfs("1-1.4", "PIXEL")]
    return plugged


@pytest.fixture
def connection(device: Device) -> Iterator[DirectConnection]:
    with DirectTransport(scan_emulators=False).connect("PIXEL", soon()) as opened:
        yield opened


class TestWhatThisHostHas:
    def test_no_python_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "usb1", None)
        assert usb_problem() == "the Python package libusb1 is not installed (pip install 'devicelab[usb]')"

    def test_no_libusb(self, bus: Bus) -> None:
        bus.start_error = OSError(2, "cannot find a suitable libusb-1.0")
        assert usb_problem() == "the system's libusb-1.0 is missing (sudo apt install libusb-1.0-0)"

    def test_libusb_does_not_start(self, bus: Bus) -> None:
        bus.start_error = fake_usb.USBError("LIBUSB_ERROR_OTHER [-99]")
        assert usb_problem() == "libusb does not start: LIBUSB_ERROR_OTHER [-99]"

    def test_all_there(self, bus: Bus) -> None:
        assert usb_problem() is None
        assert DirectTransport().description == "direct to phones on TCP and USB"

    def test_without_it_phones_on_usb_are_not_offered(self, bus: Bus, sysfs: list[UsbPhone]) -> None:
        sysfs.append(in_sysfs("1-1", "PIXEL"))
        bus.start_error = OSError(2, "cannot find a suitable libusb-1.0")
        assert usb_endpoints() == []
        assert "no USB" in DirectTransport().description


class TestListing:
    def test_states(self, bus: Bus, sysfs: list[UsbPhone]) -> None:
        sysfs += [
            in_sysfs("1-1", "PIXEL"),
            in_sysfs("1-2", "LOCKED", accessible=False),
            in_sysfs("1-3.1", ""),
        ]
        found = DirectTransport(scan_emulators=False).endpoints([], soon())
        assert [(endpoint.serial, endpoint.state) for endpoint in found] == [
            ("LOCKED", EndpointState.NO_PERMISSION),
            ("PIXEL", EndpointState.ONLINE),
            ("usb:1-3.1", EndpointState.ONLINE),
        ]
        assert "udev" in found[0].detail

    def test_it_can_be_left_out(self, bus: Bus, sysfs: list[UsbPhone]) -> None:
        sysfs.append(in_sysfs("1-1", "PIXEL"))
        assert DirectTransport(scan_emulators=False, usb=False).endpoints([], soon()) == []

    def test_watching_sees_a_phone_plugged_in(self, bus: Bus, sysfs: list[UsbPhone]) -> None:
        stop = threading.Event()
        seen: list[list[Endpoint]] = []
        for endpoints in DirectTransport(scan_emulators=False).watch([], stop):
            seen.append(endpoints)
            if len(seen) == 1:
                sysfs.append(in_sysfs("1-1", "PIXEL"))
            elif endpoints or len(seen) > 20:
                stop.set()
        assert seen[0] == []
        assert seen[-1] == [Endpoint("PIXEL", EndpointState.ONLINE)]


class TestOpening:
    @pytest.mark.parametrize(
        ("where", "error", "kind", "hint"),
        [
            ("open_error", fake_usb.USBErrorAccess("LIBUSB_ERROR_ACCESS [-3]"), DeviceNotReadyError, "udev"),
            ("claim_error", fake_usb.USBErrorBusy("LIBUSB_ERROR_BUSY [-6]"), DeviceBusyError, "adb server"),
            ("open_error", fake_usb.USBErrorNoDevice("LIBUSB_ERROR_NO_DEVICE [-4]"), DeviceLostError, "Replug"),
            ("claim_error", fake_usb.USBError("LIBUSB_ERROR_IO [-1]"), DeviceLostError, "Replug"),
        ],
    )
    def test_failures(
        self, device: Device, where: str, error: Exception, kind: type[DeviceError], hint: str
    ) -> None:
        setattr(device, where, error)
        with pytest.raises(kind) as caught:
            DirectTransport().connect("PIXEL", soon())
        assert caught.value.device == "PIXEL"
        assert hint in str(caught.value.hint)
        assert all(handle.closed for handle in device.handles)

    def test_a_phone_that_is_pulled_while_it_is_opened(self, device: Device) -> None:
        real = device.open

        def opened_and_pulled() -> fake_usb.Handle:
            handle = real()
            device.pulled = True
            return handle

        device.open = opened_and_pulled  # type: ignore[method-assign]  # once
        with pytest.raises(DeviceLostError, match="cannot be opened"):
            DirectTransport().connect("PIXEL", soon())
        assert all(handle.closed for handle in device.handles)

    def test_a_phone_that_only_the_kernel_sees(self, bus: Bus, sysfs: list[UsbPhone]) -> None:
        sysfs.append(in_sysfs("1-1", "PIXEL"))
        with pytest.raises(DeviceLostError, match="libusb does not see it"):
            DirectTransport().connect("PIXEL", soon())

    def test_a_phone_that_is_not_there(self, device: Device) -> None:
        with pytest.raises(DeviceLostError, match="not on USB"):
            DirectTransport().connect("NEXUS", soon())

    def test_what_a_former_host_left_unread_is_dropped(self, device: Device) -> None:
        device.stale = [b"x" * 24, b"y" * PACKET, b"z" * 100]
        with (
            DirectTransport().connect("PIXEL", soon()) as connection,
            connection.open("source:5", soon()) as stream,
        ):
            assert stream.read(10, soon()) == pattern(5)


class TestStreams:
    @pytest.mark.parametrize("size", [1, PACKET - 1, PACKET, PACKET + 1, 1 << 20, (3 << 20) + PACKET])
    def test_both_directions(self, connection: DirectConnection, size: int) -> None:
        data = pattern(size)
        with connection.open(f"source:{size}", soon()) as stream:
            received = b""
            while part := stream.read(1 << 20, soon()):
                received += part
        assert received == data
        with connection.open(f"sink:{size}", soon()) as stream:
            stream.write(data, soon())
            assert stream.read(4, soon()) == struct.pack("<I", zlib.crc32(data))

    def test_a_write_that_runs_out_of_a_slice_goes_on(
        self, connection: DirectConnection, device: Device
    ) -> None:
        data = pattern(100_000)
        with connection.open(f"sink:{len(data)}", soon()) as stream:
            device.appetite = [0, PACKET, 0, 10 * PACKET, 70 * PACKET]
            stream.write(data, soon())
            assert stream.read(4, soon()) == struct.pack("<I", zlib.crc32(data))

    def test_silence_costs_nothing(self, connection: DirectConnection) -> None:
        with connection.open("mute:", soon()) as stream, idle(), pytest.raises(DeadlineError) as caught:
            stream.read(1, soon(1.0))
        assert caught.value.device == "PIXEL"

    def test_a_pulled_cable_ends_every_wait(self, connection: DirectConnection, device: Device) -> None:
        with connection.open("mute:", soon()) as stream, ThreadPoolExecutor(1) as pool:
            reading = pool.submit(stream.read, 1, soon(60))
            device.pulled = True
            with pytest.raises(DeviceLostError, match="USB") as caught:
                reading.result(timeout=20)
            assert caught.value.device == "PIXEL"
            with pytest.raises(DeviceLostError):
                connection.open("mute:", soon())
        connection.close()
        assert [handle.closed for handle in device.handles] == [True]

    def test_closing_tells_the_phone_and_waits_for_running_transfers(
        self, device: Device, phone: Polite
    ) -> None:
        connection = DirectTransport().connect("PIXEL", soon())
        connection.open("mute:", soon())
        began = time.monotonic()
        connection.close()
        assert time.monotonic() - began < 15
        assert [handle.closed for handle in device.handles] == [True]
        assert "adb PIXEL" not in [thread.name for thread in threading.enumerate()]
        end = time.monotonic() + 10
        while not phone.closes:  # a cable does not tell the phone that we are gone; CLSE does
            assert time.monotonic() < end
            time.sleep(0.01)

    def test_a_silent_phone_in_the_handshake(self, bus: Bus, sysfs: list[UsbPhone]) -> None:
        def silent(peer: Peer) -> None:
            peer.linger()

        sysfs.append(in_sysfs("1-1", "PIXEL"))
        with Hostile(silent) as phone:
            bus.devices.append(Device(phone.port))
            with pytest.raises(DeadlineError) as caught:
                DirectTransport().connect("PIXEL", soon(0.6))
            assert caught.value.device == "PIXEL"
            assert all(handle.closed for handle in bus.devices[0].handles)


class TestLink:
    @pytest.fixture
    def link(self, device: Device) -> Iterator[UsbLink]:
        opened = open_usb("PIXEL")
        yield opened
        opened.shut_down()
        opened.close()

    def test_a_payload_that_fills_its_last_packet_is_ended(self, link: UsbLink, device: Device) -> None:
        (handle,) = device.handles
        payload = bytes(2 * PACKET)
        packet = [memoryview(pack_header(Command.CNXN, 0, 0, len(payload))), memoryview(payload)]
        assert link.send(packet, 1.0) == 24 + len(payload)
        assert handle.transfers == [24, len(payload), 0]

    def test_adb_shell_leaves_it_open(self, link: UsbLink, device: Device) -> None:
        """The stock class on the same phone: it never gets the payload, and waits for more."""
        (handle,) = device.handles
        stock: Any = link._transport
        stock.bulk_write(pack_header(Command.CNXN, 0, 0, PACKET), 1.0)
        stock.bulk_write(bytes(PACKET), 1.0)
        assert handle._expected == PACKET, "adb_shell is mended: our own send may go"

    def test_what_came_before_time_was_over_is_kept(self, link: UsbLink, device: Device) -> None:
        link.bulk_write(pack_header(Command.CNXN, 0x01000001, 1 << 20, 6, sum(b"host::")), 1.0)
        link.bulk_write(b"host::", 1.0)
        answer = link.bulk_read(24, 10.0)
        while len(answer) < 24:
            answer += link.bulk_read(24 - len(answer), 10.0)
        assert answer[:4] == b"CNXN"
        length = struct.unpack_from("<I", answer, 12)[0]
        # Asked for more than there is: libusb waits in vain for the rest, then hands over what it has.
        assert link.bulk_read(length + 100, 1.0)[:8] == b"device::"

    def test_after_shutting_down_nothing_works(self, link: UsbLink) -> None:
        link.shut_down()
        with pytest.raises(ConnectionError, match="closed"):
            link.bulk_read(1, 1.0)
        with pytest.raises(ConnectionError, match="closed"):
            link.send([memoryview(b"x")], 1.0)
