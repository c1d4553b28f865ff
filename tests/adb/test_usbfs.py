"""Phones on USB as sysfs shows them, on a tree made after the kernel's layout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from devicelab.adb.usbfs import usb_phones


def _plug(
    root: Path, port: str, number: int, interfaces: list[tuple[str, str, str]], serial: str | None
) -> None:
    device = root / "sys" / port
    device.mkdir(parents=True)
    values = {"busnum": "1", "devnum": str(number), "idVendor": "18d1", "idProduct": "4ee7"}
    if serial is not None:
        values["serial"] = serial
    for name, value in values.items():
        (device / name).write_text(value + "\n")
    for index, triple in enumerate(interfaces):
        interface = root / "sys" / f"{port}:1.{index}"
        interface.mkdir()
        for name, value in zip(("Class", "SubClass", "Protocol"), triple, strict=True):
            (interface / f"bInterface{name}").write_text(value + "\n")
    node = root / "dev" / "001" / f"{number:03}"
    node.parent.mkdir(parents=True, exist_ok=True)
    node.touch()


def test_only_devices_with_an_adb_interface_are_phones(tmp_path: Path) -> None:
    _plug(tmp_path, "1-1.4", 7, [("06", "01", "01"), ("ff", "42", "01")], "R58M123")  # MTP + ADB
    _plug(tmp_path, "1-1.2", 5, [("03", "01", "02")], "MOUSE")
    _plug(tmp_path, "1-1.3", 6, [("ff", "42", "03")], "FASTBOOT")  # the bootloader's protocol
    [phone] = usb_phones(tmp_path / "sys", tmp_path / "dev")
    assert (phone.name, phone.serial, phone.vendor, phone.product) == ("1-1.4", "R58M123", "18d1", "4ee7")
    assert phone.node == tmp_path / "dev" / "001" / "007"
    assert phone.accessible


def test_a_phone_without_serial_or_device_file_is_still_listed(tmp_path: Path) -> None:
    _plug(tmp_path, "2-1", 9, [("FF", "42", "01")], None)
    (tmp_path / "dev" / "001" / "009").unlink()
    [phone] = usb_phones(tmp_path / "sys", tmp_path / "dev")
    assert phone.serial == ""
    assert not phone.accessible


def test_a_device_file_of_somebody_else_is_not_accessible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _plug(tmp_path, "1-1", 3, [("ff", "42", "01")], "X")
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.R_OK)  # root may open everything
    [phone] = usb_phones(tmp_path / "sys", tmp_path / "dev")
    assert not phone.accessible


def test_no_usb_at_all(tmp_path: Path) -> None:
    assert usb_phones(tmp_path / "sys", tmp_path / "dev") == []
