"""Phones on USB without an adb server: adb_shell's libusb transport, if this host has what it needs.

Listing needs no libusb (:mod:`devicelab.adb.usbfs`); opening a phone does. Mended here: adb_shell sends no
zero-length packet after a payload that fills its last USB packet, so the phone would wait for the rest of it,
and closing under a running transfer crashes libusb.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from devicelab.adb.connection import Endpoint, EndpointState
from devicelab.adb.usbfs import UsbPhone, usb_phones
from devicelab.errors import ConfigError, DeviceBusyError, DeviceLostError, DeviceNotReadyError

__all__ = ["PERMISSION_HINT", "UsbLink", "open_usb", "usb_endpoints", "usb_problem"]

PERMISSION_HINT = (
    "Give this user access: `sudo apt install android-sdk-platform-tools-common` (udev rules) and "
    "`sudo usermod -aG plugdev $USER`; then log in again and replug the phone."
)

_SLICE = 0.25  # seconds; libusb cannot be woken, so every transfer ends by itself this often
_SHORTEST = 0.001  # seconds; adb_shell rounds down to milliseconds, and to libusb 0 is for ever
_NO_WAIT = 0.05  # seconds for a transfer that should not wait
_DRAIN_READS = 64  # of 16 KiB: what a former connection may have left unread
_DRAIN_SIZE = 16384


def usb_problem() -> str | None:
    """Why phones on USB cannot be reached without the adb server, or None if they can."""
    try:
        _driver()
    except ConfigError as error:
        return f"{error.message} ({error.hint})" if error.hint else error.message
    return None


def _driver() -> ModuleType:
    """adb_shell's USB module; it starts libusb when it is imported.

    Raises:
        ConfigError: Something is missing on this host.
    """
    try:
        usb1 = importlib.import_module("usb1")
    except ImportError as error:
        raise ConfigError(
            "the Python package libusb1 is not installed", hint="pip install 'devicelab[usb]'"
        ) from error
    try:
        return importlib.import_module("adb_shell.transport.usb_transport")
    except OSError as error:
        raise ConfigError("the system's libusb-1.0 is missing", hint="sudo apt install libusb-1.0-0") from error
    except usb1.USBError as error:
        raise ConfigError(f"libusb does not start: {error}") from error


def usb_endpoints() -> list[Endpoint]:
    """The phones on USB as the kernel lists them; none where :func:`usb_problem` says that none can be used."""
    phones = usb_phones()
    if not phones or usb_problem() is not None:
        return []
    return [
        Endpoint(_serial(phone), EndpointState.ONLINE)
        if phone.accessible
        else Endpoint(_serial(phone), EndpointState.NO_PERMISSION, PERMISSION_HINT)
        for phone in phones
    ]


def _serial(phone: UsbPhone) -> str:
    return phone.serial or f"usb:{phone.name}"


def open_usb(serial: str) -> UsbLink:
    """Open and claim the ADB interface of one phone.

    Raises:
        ConfigError: This host lacks libusb.
        DeviceBusyError: Another program has claimed it.
        DeviceLostError: It is not plugged in, or has just been pulled.
        DeviceNotReadyError: This user may not open it.
    """
    names = {phone.name for phone in usb_phones() if _serial(phone) == serial}
    if not names:
        raise DeviceLostError("not on USB", device=serial, hint="Plug it in and turn on USB debugging.")
    driver = _driver()
    try:
        for transport in driver.UsbTransport.find_all_adb_devices():
            bus, *ports = transport.port_path
            if f"{bus}-{'.'.join(map(str, ports))}" in names:
                return _open(transport)
    except driver.usb1.USBErrorAccess as error:
        raise DeviceNotReadyError("this user may not open it", device=serial, hint=PERMISSION_HINT) from error
    except driver.usb1.USBErrorBusy as error:
        raise DeviceBusyError(
            "another program holds its USB interface",
            device=serial,
            hint="If that is an adb server, reach the phone through it: --transport server.",
        ) from error
    except (driver.usb1.USBError, OSError) as error:
        raise DeviceLostError(f"cannot be opened on USB: {error}", device=serial, hint="Replug it.") from error
    raise DeviceLostError("libusb does not see it", device=serial, hint="Replug it.")


def _open(transport: Any) -> UsbLink:  # noqa: ANN401  # adb_shell has no type information
    try:
        transport.connect()
        return UsbLink(transport)
    except BaseException:
        _close(transport)
        raise


def _close(transport: Any) -> None:  # noqa: ANN401  # adb_shell has no type information
    handle = transport._transport
    transport.close()
    if handle is not None:
        handle.close()  # adb_shell forgets to, when there is no interface to release any more


class UsbLink:
    """A :class:`~devicelab.adb.link.Link` over a pair of USB bulk endpoints.

    Args:
        transport: A connected ``adb_shell.transport.usb_transport.UsbTransport``; owned from now on.
    """

    def __init__(self, transport: Any) -> None:  # noqa: ANN401  # adb_shell has no type information
        self._transport = transport
        driver = _driver()
        self._read_error: type[Exception] = driver.exceptions.UsbReadFailedError
        self._write_error: type[Exception] = driver.exceptions.UsbWriteFailedError
        self._timeout: type[Exception] = driver.usb1.USBErrorTimeout
        self._packet = self._packet_size(driver.usb1.ENDPOINT_DIR_MASK)
        self._reading = threading.Lock()
        self._writing = threading.Lock()
        self._closing = False
        self._drain()

    def bulk_read(self, numbytes: int, transport_timeout_s: float | None) -> bytes:
        """Wait for bytes; see :meth:`Link.bulk_read <devicelab.adb.link.Link.bulk_read>`."""
        end = None if transport_timeout_s is None else time.monotonic() + transport_timeout_s
        data = bytearray()
        with self._reading:
            while len(data) < numbytes:
                wait = _SLICE if end is None else min(_SLICE, end - time.monotonic())
                if wait <= 0:
                    raise TimeoutError(f"nothing to read within {transport_timeout_s:g} s")
                data += self._read_once(numbytes - len(data), wait)
                if data and end is not None:
                    break
        return bytes(data)

    def bulk_write(self, data: bytes, transport_timeout_s: float | None) -> int:
        """Send all of it; see :meth:`Link.bulk_write <devicelab.adb.link.Link.bulk_write>`."""
        rest = memoryview(data)
        end = None if transport_timeout_s is None else time.monotonic() + transport_timeout_s
        while rest:
            left = _SLICE if end is None else end - time.monotonic()
            if left <= 0:
                raise TimeoutError(
                    f"{len(rest)} of {len(data)} bytes not taken within {transport_timeout_s:g} s"
                )
            rest = rest[self.send([rest], left) :]
        return len(data)

    def send(self, parts: Sequence[memoryview], timeout: float) -> int:
        """Send what goes out, each part as a transfer of its own; see :meth:`Link.send`."""
        total = 0
        wait = max(_NO_WAIT, min(timeout, _SLICE))
        with self._writing:
            for part in parts:
                sent = self._write_once(part, wait)
                total += sent
                if sent < len(part):
                    break
                if len(part) % self._packet == 0:
                    self._write_once(memoryview(b""), _SLICE)  # "that was all of it"
        return total

    def shut_down(self) -> None:
        """Wake reader and writer; they notice when their present transfers end, after 0.25 s at most."""
        self._closing = True

    def close(self) -> None:
        """Release the interface once no transfer runs."""
        self._closing = True
        with self._reading, self._writing:
            _close(self._transport)

    def _read_once(self, size: int, wait: float) -> bytes:
        self._check_open()
        try:
            return bytes(self._transport.bulk_read(size, max(wait, _SHORTEST)))
        except self._read_error as error:
            cause = error.args[1]
            if isinstance(cause, self._timeout):
                return bytes(getattr(cause, "received", b""))
            raise ConnectionError(f"USB: {cause}") from error

    def _write_once(self, part: memoryview, wait: float) -> int:
        self._check_open()
        try:
            return int(self._transport.bulk_write(part, max(wait, _SHORTEST)))
        except self._write_error as error:
            cause = error.args[1]
            if isinstance(cause, self._timeout):
                return int(getattr(cause, "transferred", 0))
            raise ConnectionError(f"USB: {cause}") from error

    def _check_open(self) -> None:
        if self._closing:
            raise ConnectionError("the connection is closed")

    def _packet_size(self, direction_mask: int) -> int:
        for endpoint in self._transport._setting.iterEndpoints():
            if not endpoint.getAddress() & direction_mask:
                return int(endpoint.getMaxPacketSize())
        raise ConnectionError("the ADB interface has no endpoint to write to")

    def _drain(self) -> None:
        """Throw away what was meant for the program that had the phone before us."""
        for _ in range(_DRAIN_READS):
            if not self._read_once(_DRAIN_SIZE, _NO_WAIT):
                return
