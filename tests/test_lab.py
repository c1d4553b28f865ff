"""The public Python API, on a real virtual phone."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

import devicelab
from devicelab import Lab, VirtualDesk
from devicelab.deadline import Deadline
from devicelab.errors import (
    ConfigError,
    DeadlineError,
    DeviceBusyError,
    DeviceNotReadyError,
    NoDeviceError,
)
from devicelab.lab import LAB_FILE
from devicelab.rounds.events import DeployProgress, Event
from devicelab.virtual.client import VirtualPhone
from tests.rounds.small import experiment_file


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


LAB = """\
transport: direct
gates: {{min_free_storage_mb: 1000000, max_thermal_status: moderate}}
devices:
  kitchen: {{identity: {0}, labels: [fast, new], hub: left}}
  hall: {{identity: {1}, labels: [fast], hub: left}}
  away: {{serial: R58M123}}
pushes: 1
deadlines: {{command: 7, push: 8}}
"""


@pytest.fixture(scope="module")
def phones(module_desk: VirtualDesk) -> list[VirtualPhone]:
    return module_desk.up(["pixel", "pixel"])


def lab_file(path: Path, phones: list[VirtualPhone]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(LAB.format(*(phone.serial for phone in phones)))
    return path


def test_a_lab_as_its_file_describes_it(phones: list[VirtualPhone], tmp_path: Path) -> None:
    file = lab_file(tmp_path / "mine.yaml", phones)
    addresses = [phone.address for phone in phones]
    with Lab.open(tmp_path, file=file, addresses=addresses, patience=30.0) as lab:
        assert [device.name for device in lab.discover(["label=new"])] == ["kitchen"]
        assert [device.name for device in lab.discover(["hall"])] == ["hall"]
        devices = lab.discover(["label=fast"])
        assert [device.labels for device in devices] == [("fast", "new"), ("fast",)]
        assert all("needs 1000000 MB" in device.reason for device in devices)
        assert all((each.deadlines.command, each.deadlines.push) == (7, 8) for each in devices)
        lanes, (one, other) = lab.lanes(), addresses
        with lanes.turn(one, Deadline("turn", 20)):
            with pytest.raises(DeadlineError), lanes.turn(other, Deadline("turn", 0.5)):
                pass  # they share a hub
            with lanes.turn("127.0.0.1:1", Deadline("turn", 20)):
                pass


def test_a_lab_file_in_the_state_directory_is_found(phones: list[VirtualPhone], tmp_path: Path) -> None:
    lab_file(tmp_path / LAB_FILE, phones)
    with Lab.open(tmp_path, addresses=[phones[0].address], patience=30.0) as lab:
        assert [device.name for device in lab.discover()] == ["kitchen"]
        assert lab.transport.name == "direct"
    with pytest.raises(ConfigError, match="nowhere"):
        Lab.open(tmp_path, file=tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        ("tv: {selector: model=*}", "'tv' fits several"),
        ("tv: {identity: SERIAL}, radio: {selector: SERIAL}", "'tv' and 'radio' are both"),
    ],
)
def test_a_name_means_one_device(
    devices: str, message: str, phones: list[VirtualPhone], tmp_path: Path
) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text(f"transport: direct\ndevices: {{{devices.replace('SERIAL', phones[0].serial)}}}\n")
    addresses = [phone.address for phone in phones]
    with Lab.open(file=file, addresses=addresses, patience=30.0) as lab, pytest.raises(ConfigError) as caught:
        lab.discover()
    assert message in caught.value.message


def test_phones_on_one_hub_are_pushed_to_one_after_the_other(
    phones: list[VirtualPhone], tmp_path: Path
) -> None:
    file = tmp_path / "lab.yaml"
    text = LAB.format(*(phone.serial for phone in phones))
    file.write_text(text.replace("1000000", "200").replace("push: 8", "push: 100"))
    told: list[str] = []

    def hear(event: Event) -> None:
        if isinstance(event, DeployProgress):
            told.append(event.device)

    addresses = [phone.address for phone in phones]
    with Lab.open(tmp_path, file=file, addresses=addresses, patience=30.0) as lab:
        done = lab.push_plan(experiment_file(tmp_path), listener=hear)
    assert all(each.bytes_sent > 1 << 20 for each in done.devices)
    assert len([device for device, _ in itertools.groupby(told)]) == len(phones)


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
