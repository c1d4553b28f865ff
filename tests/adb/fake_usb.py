"""A stand-in for the ``usb1`` module, with phones on it whose other end is a double on TCP.

It knows what USB does to packets: a phone waits for a transfer to end, with a packet that is not full or with
an empty one; a read that runs out of time hands over what had come; a handle must not be closed under a
transfer.
"""

# ruff: noqa: N802, N818  # the names are those of usb1

from __future__ import annotations

import importlib
import socket
import struct
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace

import pytest

ENDPOINT_IN, ENDPOINT_OUT = 0x81, 0x01
PACKET = 512  # bytes; USB 2 high speed


class USBError(Exception):
    pass


class USBErrorTimeout(USBError):
    def __init__(self, *, received: bytes = b"", transferred: int = 0) -> None:
        super().__init__("LIBUSB_ERROR_TIMEOUT [-7]")
        self.received = received
        self.transferred = transferred


class USBErrorAccess(USBError):
    pass


class USBErrorBusy(USBError):
    pass


class USBErrorNoDevice(USBError):
    pass


class USBErrorNotFound(USBError):
    pass


class Handle:
    """An opened phone."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.sock = socket.create_connection(("127.0.0.1", device.port)) if device.port else None
        self.claimed = self.closed = False
        self.transfers: list[int] = []  # lengths of what the host wrote
        self._expected = 0  # bytes of payload that the phone waits for
        self._payload = b""
        self._running = threading.Semaphore(2)  # one each way

    def kernelDriverActive(self, _number: int) -> bool:
        return False

    def claimInterface(self, _number: int) -> None:
        if self.device.claim_error:
            raise self.device.claim_error
        self.claimed = True

    def releaseInterface(self, _number: int) -> None:
        if self.device.pulled:
            raise USBErrorNoDevice("LIBUSB_ERROR_NO_DEVICE [-4]")
        if not self.claimed:
            raise USBErrorNotFound("LIBUSB_ERROR_NOT_FOUND [-5]")

    def close(self) -> None:
        if self.closed:
            return
        for _ in range(2):
            assert self._running.acquire(blocking=False), "closed under a running transfer: libusb would crash"
        self.closed = True
        if self.sock is not None:
            self.sock.close()

    def bulkWrite(self, endpoint: int, data: memoryview, timeout: int) -> int:
        assert endpoint == ENDPOINT_OUT
        assert timeout > 0, "0 is for ever to libusb"
        with self._transfer():
            self.transfers.append(len(data))
            if self.device.appetite and len(data) > PACKET:
                taken = self.device.appetite.pop(0) // PACKET * PACKET
                if taken < len(data):
                    self._take(bytes(data[:taken]), ended=False)
                    raise USBErrorTimeout(transferred=taken)
            self._take(bytes(data), ended=len(data) % PACKET != 0 or not len(data))
            return len(data)

    def bulkRead(self, endpoint: int, length: int, timeout: int) -> bytearray:
        assert endpoint == ENDPOINT_IN
        assert timeout > 0
        with self._transfer():
            if self.device.stale:
                return bytearray(self.device.stale.pop(0))
            assert self.sock is not None
            self.sock.settimeout(timeout / 1000)
            data = bytearray()
            try:
                while len(data) < length:
                    part = self.sock.recv(length - len(data))
                    if not part:
                        raise USBErrorNoDevice("LIBUSB_ERROR_NO_DEVICE [-4]")
                    data += part
            except TimeoutError:
                raise USBErrorTimeout(received=bytes(data), transferred=len(data)) from None
            return data

    def _take(self, data: bytes, *, ended: bool) -> None:
        """The phone's side: a header is one transfer, its payload another that has to end."""
        assert self.sock is not None
        if not self._expected:
            if not data:
                return
            assert len(data) == 24, "a header has to be a transfer of its own"
            (self._expected,) = struct.unpack_from("<I", data, 12)
            self.sock.sendall(data)
            return
        self._payload += data
        if ended:
            assert len(self._payload) == self._expected
            self.sock.sendall(self._payload)
            self._expected, self._payload = 0, b""

    def _transfer(self) -> _Running:
        if self.closed or self.device.pulled:
            raise USBErrorNoDevice("LIBUSB_ERROR_NO_DEVICE [-4]")
        return _Running(self._running)


class _Running:
    def __init__(self, running: threading.Semaphore) -> None:
        self._semaphore = running

    def __enter__(self) -> None:
        assert self._semaphore.acquire(blocking=False)

    def __exit__(self, *_: object) -> None:
        self._semaphore.release()


@dataclass
class Device:
    """One USB device.

    Attributes:
        port: Where the double that plays its adbd listens.
        ports: Its place: hub by hub.
        triple: Class, subclass and protocol of its interface.
        open_error: Raised when it is opened.
        claim_error: Raised when its interface is claimed.
        stale: What a former host has left unread.
        appetite: How many bytes each of the next long writes takes before time is over.
        pulled: Whether the cable is out.
        handles: Every handle that was opened.
    """

    port: int = 0
    ports: Sequence[int] = (1,)
    triple: tuple[int, int, int] = (0xFF, 0x42, 0x01)
    open_error: USBError | None = None
    claim_error: USBError | None = None
    stale: list[bytes] = field(default_factory=list)
    appetite: list[int] = field(default_factory=list)
    pulled: bool = False
    handles: list[Handle] = field(default_factory=list)

    def open(self) -> Handle:
        if self.open_error:
            raise self.open_error
        self.handles.append(Handle(self))
        return self.handles[-1]

    def getBusNumber(self) -> int:
        return 1

    def getPortNumberList(self) -> list[int]:
        return list(self.ports)

    def getSerialNumber(self) -> str:
        return "never asked: sysfs knows it without opening the device"

    def iterSettings(self) -> Iterator[SimpleNamespace]:
        endpoints = [
            SimpleNamespace(getAddress=lambda at=at: at, getMaxPacketSize=lambda: PACKET)
            for at in (ENDPOINT_IN, ENDPOINT_OUT)
        ]
        yield SimpleNamespace(
            getClass=lambda: self.triple[0],
            getSubClass=lambda: self.triple[1],
            getProtocol=lambda: self.triple[2],
            getNumber=lambda: 0,
            iterEndpoints=lambda: iter(endpoints),
        )


class Bus:
    """All that is plugged in; also makes ``import usb1`` find this module's classes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.devices: list[Device] = []
        self.start_error: Exception | None = None
        module = ModuleType("usb1")
        for kind in (
            USBError,
            USBErrorTimeout,
            USBErrorAccess,
            USBErrorBusy,
            USBErrorNoDevice,
            USBErrorNotFound,
        ):
            setattr(module, kind.__name__, kind)
        module.__dict__.update(CLASS_VENDOR_SPEC=0xFF, ENDPOINT_DIR_MASK=0x80, USBContext=self._context)
        monkeypatch.setitem(sys.modules, "usb1", module)
        # adb_shell starts libusb when it is imported, so it has to be imported anew: now and after the test.
        monkeypatch.delitem(sys.modules, "adb_shell.transport.usb_transport", raising=False)
        monkeypatch.setattr(
            importlib.import_module("adb_shell.transport"), "usb_transport", None, raising=False
        )

    def _context(self) -> SimpleNamespace:
        if self.start_error:
            raise self.start_error
        return SimpleNamespace(
            open=lambda: None, getDeviceIterator=lambda skip_on_error: iter(list(self.devices))
        )
