"""Which way phones are reached."""

from __future__ import annotations

from pathlib import Path

import pytest

from devicelab.adb import transports
from devicelab.adb.direct import DirectTransport
from devicelab.adb.server import ServerTransport
from devicelab.adb.transports import open_transport
from devicelab.deadline import Deadline
from devicelab.errors import AdbUnavailableError, DeadlineError
from tests.adb.smartserver import SmartServer, okay, silence

VERSION = {"host:version": okay("0029")}


def _soon() -> Deadline:
    return Deadline("start of the transport", 20)


@pytest.fixture(autouse=True)
def no_adb_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devicelab.adb.server.find_adb", lambda: None)
    monkeypatch.setattr(transports, "find_adb", lambda: None)


def _listen(monkeypatch: pytest.MonkeyPatch, server: SmartServer) -> None:
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(server.address.port))


@pytest.mark.parametrize("name", ["auto", "server"])
def test_a_running_server_is_used(name: transports.TransportChoice, monkeypatch: pytest.MonkeyPatch) -> None:
    with SmartServer(VERSION) as server:
        _listen(monkeypatch, server)
        transport = open_transport(name, _soon())
        assert isinstance(transport, ServerTransport)
        assert transport.description == f"adb server 1.0.41 on {server.address}"
        assert transport.release is None


def test_direct_asks_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with SmartServer(VERSION) as server:
        _listen(monkeypatch, server)
        assert isinstance(open_transport("direct", _soon()), DirectTransport)
    assert server.requests == []


def test_without_server_and_program_auto_is_direct() -> None:
    assert isinstance(open_transport("auto", _soon()), DirectTransport)
    with pytest.raises(AdbUnavailableError, match="no adb program to start one"):
        open_transport("server", _soon())


def test_a_program_that_cannot_start_a_server_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "adb"
    broken.write_text("#!/bin/sh\necho no; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr("devicelab.adb.server.find_adb", lambda: broken)
    monkeypatch.setattr(transports, "find_adb", lambda: broken)
    with pytest.raises(AdbUnavailableError, match="start-server` failed"):
        open_transport("auto", _soon())


def test_a_silent_server_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with SmartServer({"host:version": silence()}) as server:
        _listen(monkeypatch, server)
        with pytest.raises(DeadlineError) as caught:
            open_transport("auto", Deadline("start of the transport", 0.3))
    assert caught.value.message.startswith(f"answer of the adb server on {server.address}: no end within 0.")
    assert "ANDROID_ADB_SERVER_PORT" in str(caught.value.hint)


def test_a_silent_server_costs_less_than_there_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devicelab.adb.server._HELLO_SECONDS", 0.2)
    with SmartServer({"host:version": silence()}) as server:
        _listen(monkeypatch, server)
        with pytest.raises(DeadlineError, match=r"no end within 0\.2 s"):
            open_transport("server", _soon())
