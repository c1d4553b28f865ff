"""The adb server as a transport: what each of its answers means, and that its own death is not a phone's."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from devicelab.adb.connection import Connection, Endpoint, EndpointState, Stream, Transport
from devicelab.adb.program import ServerAddress
from devicelab.adb.server import ServerTransport
from devicelab.deadline import Deadline
from devicelab.errors import (
    AdbUnavailableError,
    ConfigError,
    DeadlineError,
    DevicelabError,
    DeviceLostError,
    DeviceNotReadyError,
    DeviceUnauthorizedError,
    ServiceRefusedError,
    StreamClosedError,
)
from tests.adb.smartserver import Reply, SmartServer, fail, okay, silence
from tests.servers import ADB, AdbServer

SERIAL = "R58M42"
LISTED = okay(f"{SERIAL}         device product:p model:Kite_10 device:d transport_id:1\n")


def _soon(operation: str = "test") -> Deadline:
    return Deadline(operation, 20)


def _transport(server: SmartServer) -> ServerTransport:
    return ServerTransport(server.address, 41)


def _phone(**replies: Reply) -> dict[str, Reply]:
    """Replies of a server with one good phone; keys of the given ones are services."""
    return {
        "host:devices-l": LISTED,
        f"host-serial:{SERIAL}:features": okay("shell_v2,cmd,stat_v2,delayed_ack"),
        f"host-serial:{SERIAL}:get-state": okay("device"),
        f"host:transport:{SERIAL}": okay(),
        "sync:": okay(),
        **replies,
    }


def test_it_is_a_transport_with_connections_and_streams() -> None:
    with SmartServer(_phone()) as server:
        transport = _transport(server)
        assert isinstance(transport, Transport)
        connection: Connection = transport.connect(SERIAL, _soon())
        stream: Stream = connection.open("sync:", _soon())
        assert (transport.name, connection.transport, stream.serial) == ("server", "server", SERIAL)
        connection.close()
        transport.close()


def test_a_connection_knows_what_the_server_shows_of_the_phone() -> None:
    with SmartServer(_phone()) as server, _transport(server).connect(SERIAL, _soon()) as connection:
        assert connection.features == {"shell_v2", "cmd", "stat_v2"}
        assert connection.banner["ro.product.model"] == "Kite_10"
        assert connection.alive()
    assert not connection.alive()


@pytest.mark.parametrize(
    ("reason", "kind", "words"),
    [
        ("device 'R58M42' not found", DeviceLostError, "device 'R58M42' not found"),
        ("device offline", DeviceLostError, "device offline"),
        ("no devices/emulators found", DeviceLostError, "no devices/emulators found"),
        (
            "device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS is not set\nTry 'adb kill-server'",
            DeviceUnauthorizedError,
            "does not know this computer yet",
        ),
        ("insufficient permissions for device: verify udev rules.", DeviceNotReadyError, "may not open it"),
        ("more than one device with serial R58M42", DeviceNotReadyError, "more than one device"),
        ("", DeviceNotReadyError, "no reason given"),
    ],
)
def test_a_refusal_means_what_its_words_say(reason: str, kind: type[DevicelabError], words: str) -> None:
    replies = _phone(**{f"host-serial:{SERIAL}:features": fail(reason)})
    with SmartServer(replies) as server, pytest.raises(kind, match=words) as caught:
        _transport(server).connect(SERIAL, _soon())
    assert caught.value.device == SERIAL
    assert type(caught.value) is kind


def test_unauthorized_says_what_to_press() -> None:
    replies = _phone(**{f"host-serial:{SERIAL}:features": fail("device unauthorized.")})
    with SmartServer(replies) as server, pytest.raises(DeviceUnauthorizedError) as caught:
        _transport(server).connect(SERIAL, _soon())
    assert caught.value.hint is not None
    assert "Allow" in caught.value.hint


@pytest.mark.parametrize("word", ["connecting", "authorizing"])
def test_a_phone_that_is_still_busy_is_waited_for(word: str) -> None:
    asked: list[float] = []

    def features(connection: socket.socket) -> None:
        asked.append(time.monotonic())
        connection.sendall(fail(f"device still {word}") if len(asked) < 3 else okay("cmd"))

    with SmartServer(_phone(**{f"host-serial:{SERIAL}:features": features})) as server:
        _transport(server).connect(SERIAL, _soon()).close()
    assert len(asked) == 3


def test_a_phone_that_stays_busy_costs_the_deadline() -> None:
    replies = _phone(**{f"host-serial:{SERIAL}:features": fail("device still connecting")})
    with SmartServer(replies) as server, pytest.raises(DeadlineError, match="connection"):
        _transport(server).connect(SERIAL, Deadline("connection", 0.5, SERIAL))


def test_a_frozen_phone_is_not_taken_for_reachable() -> None:
    replies = _phone(**{"sync:": silence()})
    with SmartServer(replies) as server, pytest.raises(DeadlineError, match=f"^{SERIAL}: connection"):
        _transport(server).connect(SERIAL, Deadline("connection", 0.3))


def test_a_stale_address_is_dropped_and_connected_anew() -> None:
    serial = "127.0.0.1:6999"
    state = {"known": False}

    def connected(connection: socket.socket) -> None:
        state["known"] = True
        connection.sendall(okay(f"connected to {serial}"))

    def features(connection: socket.socket) -> None:
        connection.sendall(okay("cmd") if state["known"] else fail("device offline"))

    replies: dict[str, Reply] = {
        f"host-serial:{serial}:features": features,
        f"host:disconnect:{serial}": okay(f"disconnected {serial}"),
        f"host:connect:{serial}": connected,
        "host:devices-l": okay(f"{serial} device\n"),
        f"host:transport:{serial}": okay(),
        "sync:": okay(),
    }
    with SmartServer(replies) as server:
        _transport(server).connect(serial, _soon()).close()
        assert server.requests[1:3] == [f"host:disconnect:{serial}", f"host:connect:{serial}"]


def test_an_address_where_nothing_answers_is_lost_with_the_servers_reason() -> None:
    serial = "127.0.0.1:6999"
    replies: dict[str, Reply] = {
        f"host-serial:{serial}:features": fail(f"device '{serial}' not found"),
        f"host:disconnect:{serial}": fail(f"no such device '{serial}'"),
        f"host:connect:{serial}": okay(f"failed to connect to '{serial}': Connection refused"),
    }
    with SmartServer(replies) as server, pytest.raises(DeviceLostError, match=r"6999: Connection refused$"):
        _transport(server).connect(serial, _soon())


def test_an_address_on_its_way_out_of_the_list_is_absent() -> None:
    """The server still lists for a moment what it has been made to drop."""
    serial = "127.0.0.1:6999"
    refused = f"failed to connect to '{serial}': Connection refused"
    lists = iter([okay(f"{serial} offline\n")] * 4 + [okay("")] * 9)
    replies: dict[str, Reply] = {
        "host:devices-l": lambda connection: connection.sendall(next(lists)),
        f"host:disconnect:{serial}": okay(f"disconnected {serial}"),
        f"host:connect:{serial}": okay(refused),
    }
    with SmartServer(replies) as server:
        found = _transport(server).endpoints([serial], _soon())
    assert found == [Endpoint(serial, EndpointState.ABSENT, "Connection refused")]


# --- streams ---


def test_a_refused_service_is_not_a_lost_phone() -> None:
    with SmartServer(_phone(**{"nonsense:": fail("closed")})) as server:
        connection = _transport(server).connect(SERIAL, _soon())
        with pytest.raises(ServiceRefusedError, match="adbd refused `nonsense:`"):
            connection.open("nonsense:", _soon())
        server.replies[f"host-serial:{SERIAL}:get-state"] = fail("device offline")
        with pytest.raises(DeviceLostError, match=r"the phone is gone \(device offline\)"):
            connection.open("nonsense:", _soon())
        connection.close()


def test_a_name_that_would_abort_the_server_is_never_sent() -> None:
    replies = _phone(**{f"host-serial:{SERIAL}:features": okay("cmd"), "shell:" + "x" * 4089: okay()})
    with SmartServer(replies) as server:
        connection = _transport(server).connect(SERIAL, _soon())
        connection.open("shell:" + "x" * 4089, _soon()).close()
        with pytest.raises(ServiceRefusedError, match="less than 4096 bytes, not of 4096") as caught:
            connection.open("shell:" + "x" * 4090, _soon())
        assert caught.value.hint is not None
        connection.close()


def _stream_that(reply: bytes) -> Reply:
    return lambda connection: connection.sendall(b"OKAY" + reply)


def test_the_end_of_a_service_is_its_end() -> None:
    with SmartServer(_phone(**{"shell:x": _stream_that(b"hi")})) as server:
        connection = _transport(server).connect(SERIAL, _soon())
        stream = connection.open("shell:x", _soon())
        assert stream.read(10, _soon()) == b"hi"
        assert stream.read(10, _soon()) == b""
        connection.close()


@pytest.mark.parametrize("state", [fail("device offline"), okay("offline"), fail("device 'R58M42' not found")])
def test_the_same_end_is_a_lost_phone_if_the_server_says_so(state: bytes) -> None:
    with SmartServer(_phone(**{"shell:x": _stream_that(b"hi")})) as server:
        connection = _transport(server).connect(SERIAL, _soon())
        stream = connection.open("shell:x", _soon())
        server.replies[f"host-serial:{SERIAL}:get-state"] = state
        assert stream.read(10, _soon()) == b"hi"
        with pytest.raises(DeviceLostError, match=f"^{SERIAL}: the phone is gone"):
            stream.read(10, _soon())
        connection.close()


def test_the_same_end_is_a_dead_server_if_there_is_none() -> None:
    with SmartServer(_phone(**{"shell:x": okay()})) as server:
        connection = _transport(server).connect(SERIAL, _soon())
        stream = connection.open("shell:x", _soon())
        assert connection.alive()
        server.stop()
        with pytest.raises(AdbUnavailableError, match="no adb server answers"):
            stream.read(10, _soon())
        assert not connection.alive()
        with pytest.raises(AdbUnavailableError):
            connection.open("shell:x", _soon())
        connection.close()


def test_writing_to_a_service_that_has_ended() -> None:
    with SmartServer(_phone(**{"shell:x": _stream_that(b"")})) as server:
        connection = _transport(server).connect(SERIAL, _soon())
        stream = connection.open("shell:x", _soon())
        with pytest.raises(StreamClosedError, match="shell service ended while it was written to"):
            stream.write(bytes(50_000_000), _soon())
        connection.close()


def test_silence_names_the_phone() -> None:
    with SmartServer(_phone(**{"shell:x": okay()})) as server:
        connection = _transport(server).connect(SERIAL, _soon())
        stream = connection.open("shell:x", _soon())
        with pytest.raises(DeadlineError, match=f"^{SERIAL}: reply: "):
            stream.read(10, Deadline("reply", 0.1))
        connection.close()


def test_closing_a_connection_ends_its_streams_from_any_thread() -> None:
    with SmartServer(_phone(**{"shell:x": okay()})) as server:
        connection = _transport(server).connect(SERIAL, _soon())
        stream = connection.open("shell:x", _soon())
        errors: list[DevicelabError] = []

        def read() -> None:
            try:
                stream.read(10, _soon())
            except DevicelabError as error:
                errors.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        time.sleep(0.05)
        connection.close()
        thread.join()
        assert isinstance(errors[0], DeviceLostError)
        with pytest.raises(DeviceLostError, match="closed on this side"):
            connection.open("shell:x", _soon())


# --- listing ---


def test_addresses_are_connected_to_at_once_and_reasons_are_kept() -> None:
    barrier = threading.Barrier(3, timeout=20)  # breaks unless all three are asked for at the same time
    listed = ["R58M42\tdevice"]

    def connect(serial: str) -> Reply:
        def reply(connection: socket.socket) -> None:
            barrier.wait()
            listed.append(f"{serial}\tdevice")
            connection.sendall(okay(f"connected to {serial}"))

        return reply

    def devices(connection: socket.socket) -> None:
        connection.sendall(okay("\n".join(listed) + "\n"))

    addresses = [f"10.0.0.{n}:5555" for n in (3, 1, 2)]
    replies: dict[str, Reply] = {"host:devices-l": devices}
    replies |= {f"host:connect:{address}": connect(address) for address in addresses}
    replies["host:connect:10.0.0.9:5555"] = okay("failed to connect to '10.0.0.9:5555': No route to host")
    with SmartServer(replies) as server:
        endpoints = _transport(server).endpoints([*addresses, "10.0.0.9"], _soon())
    assert endpoints == [
        *(Endpoint(address, EndpointState.ONLINE) for address in sorted(addresses)),
        Endpoint("10.0.0.9:5555", EndpointState.ABSENT, "No route to host"),
        Endpoint("R58M42", EndpointState.ONLINE),
    ]


def test_an_address_that_swallows_packets_does_not_hold_the_listing_up() -> None:
    replies: dict[str, Reply] = {
        "host:devices-l": okay("R58M42\tdevice\n"),
        "host:connect:10.0.0.9:5555": silence(b"OKAY"),
    }
    with SmartServer(replies) as server:
        endpoints = _transport(server).endpoints(["10.0.0.9:5555"], Deadline("listing", 1.5))
    assert [endpoint.state for endpoint in endpoints] == [EndpointState.ABSENT, EndpointState.ONLINE]
    assert "no end within" in endpoints[0].detail


def test_known_addresses_are_left_alone() -> None:
    listing = okay("10.0.0.1:5555\tdevice\n10.0.0.2:5555\tunauthorized\n")
    with SmartServer({"host:devices-l": listing}) as server:
        _transport(server).endpoints(["10.0.0.1:5555", "10.0.0.2:5555"], _soon())
    assert server.requests == ["host:devices-l"]


def test_a_wrong_address_is_the_callers_mistake() -> None:
    with SmartServer({}) as server, pytest.raises(ConfigError, match="not the address of a phone"):
        _transport(server).endpoints(["a b"], _soon())


# --- the real server ---


@pytest.fixture
def address(adb_server: AdbServer) -> ServerAddress:
    return ServerAddress("127.0.0.1", adb_server.port)


def test_a_real_server_is_found_and_names_its_release(address: ServerAddress) -> None:
    transport = ServerTransport.running(address, deadline=_soon())
    assert (
        transport.description
        == f"adb server 1.0.41 (adb {'.'.join(map(str, transport.release or ()))}) on {address}"
    )
    assert transport.release is not None
    assert transport.release >= (36, 0, 0)


def test_a_real_server_reports_a_closed_port_as_absent(address: ServerAddress) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        closed = f"127.0.0.1:{free.getsockname()[1]}"
    transport = ServerTransport.running(address, deadline=_soon())
    endpoints = {endpoint.serial: endpoint for endpoint in transport.endpoints([closed], _soon())}
    assert endpoints[closed] == Endpoint(closed, EndpointState.ABSENT, "Connection refused")
    with pytest.raises(DeviceLostError, match="Connection refused"):
        transport.connect(closed, _soon())
    with pytest.raises(DeviceLostError, match="'no-such-serial' not found"):
        transport.connect("no-such-serial", _soon())


@pytest.fixture
def unused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerAddress]:
    """An address where no server runs; one that is started there is ended."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = cast("int", free.getsockname()[1])
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
    monkeypatch.setenv("ADB_LOCAL_TRANSPORT_MAX_PORT", "5553")  # look for no emulators
    monkeypatch.setenv("ADB_MDNS", "0")
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # for its log
    yield ServerAddress("127.0.0.1", port)
    subprocess.run([ADB, "kill-server"], check=False, capture_output=True, timeout=30)


def test_a_server_is_started_once_and_then_used(unused: ServerAddress, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AdbUnavailableError, match="no adb server answers"):
        ServerTransport.running(deadline=_soon())
    monkeypatch.setenv("ADB", str(ADB))
    first = ServerTransport.start(deadline=Deadline("start", 60))
    assert first.address == unused
    monkeypatch.setenv("ADB", "/nowhere")  # so a second start would fail
    assert ServerTransport.start(deadline=_soon()).description == first.description


def test_without_an_adb_program_there_is_a_hint(unused: ServerAddress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devicelab.adb.server.find_adb", lambda: None)
    with pytest.raises(AdbUnavailableError, match="no adb program to start one") as caught:
        ServerTransport.start(unused, deadline=_soon())
    assert caught.value.hint is not None
    assert "--transport direct" in caught.value.hint
