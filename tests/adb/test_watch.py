"""Following the server's list: changes, silence, phones that went away, and servers that do."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from devicelab.adb import watch
from devicelab.adb.connection import Endpoint, EndpointState
from devicelab.adb.program import ServerAddress
from devicelab.adb.watch import watch_server
from devicelab.errors import AdbUnavailableError
from tests.adb.smartserver import Reply, SmartServer, fail, okay, silence

PHONE = "10.0.0.1:5555"


class Tracker:
    """A listing that tests change, sent to whoever tracks it."""

    def __init__(self, listing: str = "") -> None:
        self.listing = listing
        self.changed = threading.Condition()
        self.connections = 0

    def set(self, listing: str) -> None:
        with self.changed:
            self.listing = listing
            self.changed.notify_all()

    def replies(self, **more: Reply) -> dict[str, Reply]:
        """Replies of a server with this listing."""
        return {"host:track-devices-l": self, "host:devices-l": self.list, **more}

    def list(self, connection: socket.socket) -> None:
        with self.changed:
            connection.sendall(okay(self.listing))

    def __call__(self, connection: socket.socket) -> None:
        sent = None
        with self.changed:
            self.connections += 1
            begin = b"OKAY"
            while True:
                if sent != self.listing:
                    sent = self.listing
                    connection.sendall(begin + okay(sent)[4:])
                    begin = b""
                self.changed.wait(0.05)
                with contextlib.suppress(BlockingIOError):
                    if not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                        return


Watch = Callable[..., Iterator[list[Endpoint]]]


@pytest.fixture
def watching() -> Iterator[Watch]:
    """Start a watch; it is ended with the test."""
    stop = threading.Event()
    running = []

    def start(address: ServerAddress, *wanted: str) -> Iterator[list[Endpoint]]:
        iterator = watch_server(address, set(wanted), stop)
        running.append(iterator)
        return iterator

    yield start
    stop.set()
    for iterator in running:
        for _ in iterator:
            pass


def _until(lists: Iterator[list[Endpoint]], wanted: Callable[[list[Endpoint]], bool]) -> list[Endpoint]:
    end = time.monotonic() + 30
    for endpoints in lists:
        if wanted(endpoints):
            return endpoints
        assert time.monotonic() < end, endpoints
    raise AssertionError("the watch ended")


def _states(endpoints: list[Endpoint]) -> dict[str, EndpointState]:
    return {endpoint.serial: endpoint.state for endpoint in endpoints}


def test_the_list_comes_at_once_and_with_every_change(watching: Watch) -> None:
    tracker = Tracker("A\tdevice\n")
    with SmartServer(tracker.replies()) as server:
        lists = watching(server.address)
        assert next(lists) == [Endpoint("A", EndpointState.ONLINE)]
        tracker.set("A\toffline\nB\tunauthorized\n")
        changed = _until(lists, lambda endpoints: len(endpoints) == 2)
        assert _states(changed) == {"A": EndpointState.OFFLINE, "B": EndpointState.UNAUTHORIZED}
        tracker.set("")
        assert _until(lists, lambda endpoints: not endpoints) == []
    assert tracker.connections == 1


def test_the_same_list_comes_again_within_a_second(watching: Watch) -> None:
    with SmartServer(Tracker("A\tdevice\n").replies()) as server:
        lists = watching(server.address)
        begin = time.monotonic()
        assert [next(lists) for _ in range(4)] == [[Endpoint("A", EndpointState.ONLINE)]] * 4
        assert 1.5 < time.monotonic() - begin < 20  # neither a busy loop nor asleep


def test_an_old_server_has_only_the_short_list(watching: Watch) -> None:
    tracker = Tracker("A\tdevice\n")
    more: dict[str, Reply] = {"host:track-devices-l": fail("unknown"), "host:track-devices": tracker}
    with SmartServer(tracker.replies(**more)) as server:
        assert next(watching(server.address)) == [Endpoint("A", EndpointState.ONLINE)]
    assert tracker.connections == 1


def test_a_server_that_keeps_a_loss_to_itself_is_asked(watching: Watch) -> None:
    tracker = Tracker("A\tdevice\n")
    replies = tracker.replies(**{"host:track-devices-l": silence(okay("A\tdevice\n"))})
    with SmartServer(replies) as server:
        lists = watching(server.address)
        assert _states(next(lists)) == {"A": EndpointState.ONLINE}
        tracker.set("A\toffline\n")
        _until(lists, lambda endpoints: _states(endpoints) == {"A": EndpointState.OFFLINE})


def test_a_missing_address_is_looked_for_until_it_is_there(watching: Watch) -> None:
    tracker = Tracker()
    attempts: list[float] = []

    def connect(connection: socket.socket) -> None:
        attempts.append(time.monotonic())
        if len(attempts) < 3:
            connection.sendall(okay(f"failed to connect to '{PHONE}': Connection refused"))
        else:
            tracker.set(f"{PHONE}\tdevice\n")
            connection.sendall(okay(f"connected to {PHONE}"))

    with SmartServer(tracker.replies(**{f"host:connect:{PHONE}": connect})) as server:
        lists = watching(server.address, PHONE)
        assert next(lists) == [Endpoint(PHONE, EndpointState.ABSENT)]
        _until(
            lists, lambda endpoints: endpoints == [Endpoint(PHONE, EndpointState.ABSENT, "Connection refused")]
        )
        _until(lists, lambda endpoints: endpoints == [Endpoint(PHONE, EndpointState.ONLINE)])
        count = len(attempts)
        next(lists)
        next(lists)
        assert len(attempts) == count == 3  # a phone that is there is left alone
    assert min(b - a for a, b in itertools.pairwise(attempts)) >= 0.5


def test_a_phone_that_stays_offline_is_dropped_and_connected_anew(watching: Watch) -> None:
    tracker = Tracker(f"{PHONE}\tdevice\n")

    def connect(connection: socket.socket) -> None:
        tracker.set(f"{PHONE}\tdevice\n")
        connection.sendall(okay(f"connected to {PHONE}"))

    with SmartServer(tracker.replies(**{f"host:connect:{PHONE}": connect})) as server:
        lists = watching(server.address, PHONE)
        next(lists)
        begin = time.monotonic()
        tracker.set(f"{PHONE}\toffline\n")
        _until(lists, lambda endpoints: _states(endpoints) == {PHONE: EndpointState.OFFLINE})
        _until(lists, lambda endpoints: _states(endpoints) == {PHONE: EndpointState.ONLINE})
        assert time.monotonic() - begin > 1.0  # it might have come back by itself
        assert server.requests.index(f"host:disconnect:{PHONE}") < server.requests.index(
            f"host:connect:{PHONE}"
        )


def test_a_server_that_restarts_is_found_again(watching: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_RESTART", 30.0)
    hang_up = threading.Event()
    tracker = Tracker("A\tdevice\n")

    def track(connection: socket.socket) -> None:
        if hang_up.is_set():
            tracker(connection)
            return
        connection.sendall(okay("A\tdevice\n"))
        hang_up.wait(30)

    with SmartServer(tracker.replies(**{"host:track-devices-l": track})) as server:
        lists = watching(server.address)
        next(lists)
        hang_up.set()
        gone = _until(lists, lambda endpoints: _states(endpoints) == {"A": EndpointState.OFFLINE})
        assert gone[0].detail == "no adb server"
        _until(lists, lambda endpoints: _states(endpoints) == {"A": EndpointState.ONLINE})


def test_a_server_that_stays_away_is_an_error(watching: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_RESTART", 0.3)
    with SmartServer(Tracker("A\tdevice\n").replies()) as server:
        lists = watching(server.address)
        next(lists)
        server.stop()
        with pytest.raises(AdbUnavailableError, match="no adb server answers"):
            _until(lists, lambda _endpoints: False)


def test_a_server_that_tracks_nothing_is_an_error(watching: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_RESTART", 0.0)
    with (
        SmartServer({}) as server,
        pytest.raises(AdbUnavailableError, match="does not report changes of its phones"),
    ):
        _until(watching(server.address), lambda _endpoints: False)


def test_it_ends_soon_after_stop_even_while_an_address_swallows_packets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "_ATTEMPT", 60.0)
    stop = threading.Event()
    replies = Tracker().replies(**{f"host:connect:{PHONE}": silence(b"OKAY")})
    with SmartServer(replies) as server:
        lists = watch_server(server.address, {PHONE}, stop)
        next(lists)
        next(lists)
        assert f"host:connect:{PHONE}" in server.requests
        stop.set()
        begin = time.monotonic()
        for _ in lists:
            pass
        assert time.monotonic() - begin < 30  # an attempt would take a minute
