"""What the Linux kernel knows of phones on USB, read from sysfs: no libusb and no permission needed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["UsbPhone", "usb_phones"]

# Interface class, subclass and protocol of ADB (AOSP, packages/modules/adb/adb.h: ADB_CLASS, ADB_SUBCLASS,
# ADB_PROTOCOL).
_ADB_INTERFACE = ("ff", "42", "01")


@dataclass(frozen=True, slots=True)
class UsbPhone:
    """One phone with USB debugging on.

    Attributes:
        name: The kernel's name of the port, "1-1.4": hub by hub, from the root.
        vendor: USB vendor id, four hex digits.
        product: USB product id, four hex digits.
        serial: The USB serial number, which adb uses as the phone's serial; empty where there is none.
        node: The device file that a program must be able to write to.
        accessible: Whether this user may.
    """

    name: str
    vendor: str
    product: str
    serial: str
    node: Path
    accessible: bool


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:  # unplugged while we look
        return ""


def usb_phones(sysfs: Path = Path("/sys/bus/usb/devices"), dev: Path = Path("/dev/bus/usb")) -> list[UsbPhone]:
    """List the phones that offer ADB on USB, sorted by port.

    Args:
        sysfs: Where the kernel lists USB devices and interfaces.
        dev: Where their device files are.
    """
    phones = []
    for interface in sorted(sysfs.glob("*:*")):
        triple = tuple(
            _read(interface / f"bInterface{part}").lower() for part in ("Class", "SubClass", "Protocol")
        )
        if triple != _ADB_INTERFACE:
            continue
        device = sysfs / interface.name.partition(":")[0]
        bus, number = _read(device / "busnum"), _read(device / "devnum")
        if not (bus.isdecimal() and number.isdecimal()):
            continue
        node = dev / f"{int(bus):03}" / f"{int(number):03}"
        phones.append(
            UsbPhone(
                name=device.name,
                vendor=_read(device / "idVendor"),
                product=_read(device / "idProduct"),
                serial=_read(device / "serial"),
                node=node,
                accessible=os.access(node, os.R_OK | os.W_OK),
            )
        )
    return phones
