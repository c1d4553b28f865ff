"""The public Python API, on a real virtual phone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import devicelab
from devicelab import Lab, VirtualDesk
from devicelab.config import load_lab
from devicelab.errors import DeviceBusyError, DeviceNotReadyError, NoDeviceError


def test_everything_that_is_exported_is_there() -> None:
    for name in devicelab.__all__:
        assert getattr(devicelab, name).__name__ == name
    with pytest.raises(AttributeError, match="nonsense"):
        _ = devicelab.nonsense


@pytest.mark.parametrize("module", ["devicelab", "devicelab.cli", "devicelab.lab"])
def test_reaching_phones_loads_no_training_stack(module: str) -> None:
    heavy = ("torch", "onnx", "numpy", "pydantic")
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_a_lab_as_its_file_describes_it(image: Path, tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text("transport: direct\ngates: {min_free_storage_mb: 1000000, max_thermal_status: moderate}\n")
    desk = VirtualDesk(tmp_path)
    desk.up(["pixel"])
    try:
        with Lab.from_config(load_lab(file), tmp_path) as lab:
            [device] = lab.discover()
            assert "needs 1000000 MB" in device.reason
    finally:
        desk.down()


def test_a_lab_with_one_phone(image: Path, tmp_path: Path) -> None:
    desk = VirtualDesk(tmp_path)
    phone = desk.up(["pixel"])[0]
    try:
        with Lab(tmp_path, transport="direct") as lab:
            [device] = lab.discover(["model=Pixel*"])
            assert device.identity == phone.serial
            assert device.shell("echo", "hello").text == "hello"
            with pytest.raises(NoDeviceError):
                lab.discover(["sdk<20"])
            code = (
                "import sys, pathlib; from devicelab import Lab\n"
                "with Lab(pathlib.Path(sys.argv[1]), transport='direct') as lab:\n"
                "    [device] = lab.discover()\n"
                "    print(device.state, flush=True)\n"
                "    lab.lease(device, 'theft')\n"
            )
            with lab.lease(device, "test"):
                thief = subprocess.run(
                    [sys.executable, "-c", code, str(tmp_path)],
                    capture_output=True,
                    text=True,
                    timeout=60,
                    check=False,
                )
            assert thief.stdout.strip() == "busy"
            assert DeviceBusyError.__name__ in thief.stderr
            assert "test" in thief.stderr
    finally:
        desk.down()


def test_a_phone_that_never_answered_cannot_be_leased(tmp_path: Path) -> None:
    with Lab(tmp_path, transport="direct", addresses=["127.0.0.1:1"]) as lab:
        [device] = lab.discover()
        with pytest.raises(DeviceNotReadyError, match="absent"):
            lab.lease(device, "test")
