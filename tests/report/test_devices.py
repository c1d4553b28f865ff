"""What people and scripts see of devices, and what counts as an event."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from devicelab.adb.connection import EndpointState
from devicelab.adb.fake import FakePhone, FakeTransport
from devicelab.devices.device import Device
from devicelab.devices.discovery import Discovery
from devicelab.devices.leases import Leases
from devicelab.devices.quarantine import Quarantine
from devicelab.report.changes import change_document, change_line, changes
from devicelab.report.devices import device_table, devices_document
from devicelab.report.tables import plain_table
from tests.devices.answering import Character, answering


def _look(tmp_path: Path, *phones: FakePhone) -> list[Device]:
    with Leases(tmp_path / "leases") as leases:
        devices = Discovery(FakeTransport(phones), leases, Quarantine(tmp_path), patience=2).look()
    for device in devices:
        device.close()
    return devices


def _one(tmp_path: Path, character: Character) -> list[Device]:
    return _look(tmp_path, answering("A", lambda: character))


def _drawn(what: RenderableType, width: int = 160) -> str:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False).print(what)
    return out.getvalue()


def _events(before: Sequence[Device], after: Sequence[Device]) -> list[tuple[str, str]]:
    return [(change.event, change.device.serial) for change in changes(before, after)]


def test_the_document_has_every_key_and_survives_json(tmp_path: Path) -> None:
    silent = FakePhone("B", state=EndpointState.UNAUTHORIZED)
    devices = _look(tmp_path, answering("A", Character), silent)
    known, unknown = json.loads(json.dumps(devices_document(devices), allow_nan=False))["devices"]
    assert list(known) == list(unknown)
    assert (known["state"], known["ready"], known["sdk"], known["abis"]) == ("ready", True, 36, ["arm64-v8a"])
    assert (unknown["state"], unknown["identity"], unknown["model"]) == ("unauthorized", None, None)


def test_the_table_tells_why_under_it(tmp_path: Path) -> None:
    drawn = _drawn(device_table(_one(tmp_path, Character(tenths=470)), via="a test"))
    assert "A: battery at 47.0 °C" in drawn
    assert "1 device, 0 ready · a test" in drawn


@pytest.mark.parametrize("width", [40, 50, 60, 80, 120])
def test_a_narrow_terminal_costs_columns_and_no_words(tmp_path: Path, width: int) -> None:
    phones = [answering("127.0.0.1:6100", Character), FakePhone("B", state=EndpointState.UNAUTHORIZED)]
    drawn = _drawn(device_table(_look(tmp_path, *phones), via="a test"), width)
    head, first, second, *rest = drawn.splitlines()
    assert all(len(line) <= width for line in drawn.splitlines())
    for heading, cell in (("SERIAL", "127.0.0.1:6100"), ("MODEL", "Pixel 9"), ("STATE", "ready")):
        assert heading in head
        assert cell in first
    assert second.startswith("B ")
    assert ("RAM" in head) == ("7.6 GB" in first) == (width == 120)
    assert ("BATTERY" in head) == ("80% 27°C" in first) == (width >= 50)
    assert any("left out" in line for line in rest) == (width < 120)


def test_an_empty_table_says_what_to_do() -> None:
    drawn = _drawn(device_table([], via="a test"))
    assert "0 devices" in drawn
    assert "devicelab doctor" in drawn


def test_two_ways_and_warnings_are_told(tmp_path: Path) -> None:
    devices = _look(tmp_path, answering("A", Character), answering("h:1", Character))
    assert "A: also reached as h:1" in _drawn(device_table(devices, via=""))


def test_text_from_a_phone_is_no_markup(tmp_path: Path) -> None:
    drawn = _drawn(device_table(_one(tmp_path, Character(model="[red]Pixel[/red]")), via=""))
    assert "[red]Pixel[/red]" in drawn
    assert "[b]x" in _drawn(plain_table(["H"], [["[b]x"]]))


def test_sensors_that_drift_are_no_event(tmp_path: Path) -> None:
    assert _events(_one(tmp_path, Character()), _one(tmp_path, Character(tenths=275, percent=79))) == []


def test_states_boots_and_presence_are_events(tmp_path: Path) -> None:
    good, hot = _one(tmp_path, Character()), _one(tmp_path, Character(tenths=470))
    rebooted = _one(tmp_path, Character(boot_id="99999999-2222-3333-4444-555555555555"))
    assert _events([], good) == [("added", "A")]
    assert _events(good, hot) == [("changed", "A")]
    assert _events(good, rebooted) == [("changed", "A")]
    assert _events(hot, []) == [("removed", "A")]


def test_an_event_in_words_and_as_a_document(tmp_path: Path) -> None:
    [change] = changes([], _one(tmp_path, Character(tenths=470)))
    assert "+ A  cooling" in change_line(change).plain
    assert "47.0 °C" in change_line(change).plain
    told = json.loads(json.dumps(change_document(change)))
    assert (told["event"], told["device"]["serial"]) == ("added", "A")
    [gone] = changes(_one(tmp_path, Character()), [])
    assert change_line(gone).plain.endswith("- A  gone")
