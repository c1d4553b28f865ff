"""What "connect" answers, and what it means."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from devicelab.adb.connection import Endpoint, EndpointState
from devicelab.adb.listing import parse_listing
from devicelab.adb.program import ServerAddress
from devicelab.adb.reconnect import absent, forget, reconnect
from devicelab.deadline import Deadline
from devicelab.errors import AdbUnavailableError
from tests.adb.smartserver import Reply, SmartServer, fail, okay, silence

PHONE = "10.0.0.1:5555"


def _reconnect(replies: dict[str, Reply], seconds: float = 20, stop: threading.Event | None = None) -> str:
    with SmartServer(replies) as server:
        return reconnect(server.address, PHONE, Deadline("connection", seconds), stop or threading.Event())


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (okay(f"connected to {PHONE}"), ""),
        (okay(f"already connected to {PHONE}"), ""),
        (okay(f"failed to authenticate to {PHONE}"), ""),  # there, and now listed as unauthorized
        (okay(f"failed to connect to '{PHONE}': Connection refused"), "Connection refused"),
        (okay("bad port number 'x' in 'a:x'"), "bad port number 'x' in 'a:x'"),
        (fail("unknown host service"), "unknown host service"),
    ],
)
def test_okay_stands_in_front_of_failures_too(answer: bytes, said: str) -> None:
    assert _reconnect({f"host:connect:{PHONE}": answer}) == said


def test_what_the_server_remembers_is_dropped_first() -> None:
    replies: dict[str, Reply] = {
        f"host:disconnect:{PHONE}": okay("disconnected"),
        f"host:connect:{PHONE}": okay(f"connected to {PHONE}"),
    }
    with SmartServer(replies) as server:
        assert reconnect(server.address, PHONE, Deadline("connection", 20), threading.Event()) == ""
    assert server.requests == [f"host:disconnect:{PHONE}", f"host:connect:{PHONE}"]


def test_silence_is_an_answer_once_the_time_is_over() -> None:
    assert "no end within 0.3 s" in _reconnect({f"host:connect:{PHONE}": silence(b"OKAY")}, 0.3)
    assert "no end within 0.3 s" in _reconnect({f"host:disconnect:{PHONE}": silence()}, 0.3)


def test_a_stop_is_noticed_at_once() -> None:
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    begin = time.monotonic()
    assert _reconnect({f"host:connect:{PHONE}": silence(b"OKAY")}, 60, stop) == "not looked for any more"
    assert time.monotonic() - begin < 20


@pytest.mark.parametrize("answer", [b"OKAY", b"OKAYxyz!"])
def test_a_server_that_goes_away_is_no_answer(answer: bytes) -> None:
    def reply(connection: socket.socket) -> None:
        connection.sendall(answer)

    with pytest.raises(AdbUnavailableError):
        _reconnect({f"host:connect:{PHONE}": reply})


def test_what_was_asked_for_and_is_not_listed_is_absent() -> None:
    listed = parse_listing(b"B\tdevice\nA\toffline\n")
    assert absent(listed, {"A", "C", "D"}, {"C": "Connection refused"}) == [
        Endpoint("A", EndpointState.OFFLINE, "offline"),
        Endpoint("B", EndpointState.ONLINE),
        Endpoint("C", EndpointState.ABSENT, "Connection refused"),
        Endpoint("D", EndpointState.ABSENT),
    ]


def test_forgetting_asks_a_server_only_if_there_is_one() -> None:
    with SmartServer({f"host:disconnect:{PHONE}": okay("disconnected")}) as server:
        forget(server.address, PHONE, Deadline("goodbye", 20))
        forget(server.address, "10.0.0.2:5555", Deadline("goodbye", 20))  # which it does not know
    assert server.requests == [f"host:disconnect:{PHONE}", "host:disconnect:10.0.0.2:5555"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = ServerAddress("127.0.0.1", free.getsockname()[1])
    forget(address, PHONE, Deadline("goodbye", 20))
