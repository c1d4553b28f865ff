from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from devicelab.virtual.relay import Link, Relay, bind_port


class Far:
    """The phone's side: what the relay connects to, and what it has accepted."""

    def __init__(self) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.refuse = False

    def handshake(self, _host: socket.socket) -> socket.socket | None:
        return None if self.refuse else socket.create_connection(self.server.getsockname(), 10)

    def accept(self) -> socket.socket:
        self.server.settimeout(30)
        return self.server.accept()[0]


@pytest.fixture
def far() -> Iterator[Far]:
    far = Far()
    yield far
    far.server.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def relay(far: Far, port: int) -> Iterator[Relay]:
    relay = Relay(bind_port(port), far.handshake, Link())
    yield relay
    relay.close()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 30)


def receive(sock: socket.socket, size: int) -> bytes:
    sock.settimeout(60)
    data = bytearray()
    while len(data) < size:
        part = sock.recv(1 << 20)
        assert part
        data += part
    return bytes(data)


def test_bytes_pass_unchanged_both_ways_at_once(relay: Relay, far: Far, port: int) -> None:
    relay.plug()
    up, down = (hashlib.shake_128(word).digest(3_000_017) for word in (b"up", b"down"))
    with connect(port) as host, far.accept() as phone:
        threads = [
            threading.Thread(target=sock.sendall, args=(data,)) for sock, data in ((host, up), (phone, down))
        ]
        for thread in threads:
            thread.start()
        assert receive(host, len(down)) == down
        assert receive(phone, len(up)) == up
        for thread in threads:
            thread.join()
        assert relay.connections == 1


@pytest.mark.parametrize("closer", ["host", "phone"])
def test_either_end_ends_both(relay: Relay, far: Far, port: int, closer: str) -> None:
    relay.plug()
    with connect(port) as host, far.accept() as phone:
        first, second = (host, phone) if closer == "host" else (phone, host)
        first.close()
        second.settimeout(30)
        assert second.recv(1) == b""
    end = time.monotonic() + 30
    while relay.connections:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_refused_host_is_hung_up_on(relay: Relay, far: Far, port: int) -> None:
    far.refuse = True
    relay.plug()
    with connect(port) as host:
        host.settimeout(30)
        assert host.recv(1) == b""


def test_a_phone_that_cannot_be_reached_is_no_disaster(relay: Relay, far: Far, port: int) -> None:
    far.server.close()
    relay.plug()
    for _ in range(3):
        with connect(port) as host:
            host.settimeout(30)
            assert host.recv(1) == b""


def test_unplugged_refuses_and_replugged_takes_the_same_port(relay: Relay, far: Far, port: int) -> None:
    with pytest.raises(ConnectionRefusedError):
        connect(port)
    for _ in range(3):
        relay.plug()
        relay.plug()
        with connect(port) as host, far.accept() as phone:
            host.sendall(b"x")
            assert receive(phone, 1) == b"x"
            relay.unplug()
            relay.unplug()
            for sock in (host, phone):
                sock.settimeout(30)
                assert sock.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            connect(port)


def test_the_port_belongs_to_one(relay: Relay, port: int) -> None:
    with pytest.raises(OSError, match="in use"):
        bind_port(port)
    relay.plug()
    with pytest.raises(OSError, match="in use"):
        bind_port(port)
    relay.unplug()
    with pytest.raises(OSError, match="in use"):
        bind_port(port)


def test_the_port_is_free_at_once_when_the_relay_is_gone(far: Far, port: int) -> None:
    for _ in range(3):
        relay = Relay(bind_port(port), far.handshake, Link())
        relay.plug()
        with connect(port) as host, far.accept() as phone:
            host.sendall(b"x")
            receive(phone, 1)
            relay.close()  # closes first, so TIME_WAIT is on our side


def test_there_is_a_limit_to_connections(relay: Relay, far: Far, port: int) -> None:
    relay.plug()
    with ExitStack() as stack:
        for _ in range(64):
            stack.enter_context(connect(port))
            stack.enter_context(far.accept())
        with connect(port) as host:
            host.settimeout(30)
            with pytest.raises((ConnectionResetError, AssertionError)):
                assert host.recv(1)


def test_no_thread_is_left(far: Far, port: int) -> None:
    before = set(threading.enumerate())
    relay = Relay(bind_port(port), far.handshake, Link())
    relay.plug()
    with connect(port), far.accept():
        assert set(threading.enumerate()) - before
        relay.close()
    end = time.monotonic() + 30
    while set(threading.enumerate()) - before:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_rate_holds_over_all_connections(far: Far, port: int) -> None:
    link = Link()
    relay = Relay(bind_port(port), far.handshake, link)
    relay.plug()
    link.set(1e6, 0.0)
    data = hashlib.shake_128(b"slow").digest(500_000)
    try:
        with connect(port) as one, far.accept() as first, connect(port) as two, far.accept() as second:
            begin = time.monotonic()
            for host in (one, two):
                threading.Thread(target=host.sendall, args=(data,)).start()
            assert receive(first, len(data)) == data
            assert receive(second, len(data)) == data
            assert time.monotonic() - begin > 0.9
    finally:
        relay.close()


def test_a_delay_is_no_rate(far: Far, port: int) -> None:
    link = Link()
    relay = Relay(bind_port(port), far.handshake, link)
    relay.plug()
    link.set(None, 0.2)
    try:
        with connect(port) as host, far.accept() as phone:
            begin = time.monotonic()
            host.sendall(b"x")
            receive(phone, 1)
            assert time.monotonic() - begin >= 0.19
            data = bytes(4_000_000)
            begin = time.monotonic()
            threading.Thread(target=host.sendall, args=(data,)).start()
            receive(phone, len(data))
            assert 0.19 <= time.monotonic() - begin < 20  # many chunks under way at a time: not 0.2 s for each
    finally:
        relay.close()


def test_a_link_can_change_under_way(far: Far, port: int) -> None:
    link = Link()
    relay = Relay(bind_port(port), far.handshake, link)
    relay.plug()
    data = hashlib.shake_128(b"change").digest(2_000_000)
    try:
        with connect(port) as host, far.accept() as phone:
            thread = threading.Thread(target=host.sendall, args=(data,))
            link.set(1e5, 0.0)
            thread.start()
            head = receive(phone, 1)
            begin = time.monotonic()
            link.set(None, 0.0)
            assert head + receive(phone, len(data) - len(head)) == data
            assert time.monotonic() - begin < 15  # not the 20 s that they would have taken
            thread.join()
            host.sendall(data)
            link.set(1e7, 0.01)
            assert receive(phone, len(data)) == data
            for latency in (0.3, 0.2):  # noticed on a connection that is silent, too
                link.set(None, latency)
                begin = time.monotonic()
                host.sendall(b"x")
                assert receive(phone, 1) == b"x"
                assert time.monotonic() - begin > latency - 0.01
    finally:
        relay.close()
