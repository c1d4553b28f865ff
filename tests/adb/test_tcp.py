"""TCP links: each defect of adb_shell's own transport, shown on it and absent from ours."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from adb_shell.adb_device import AdbDevice
from adb_shell.exceptions import AdbTimeoutError
from adb_shell.transport.tcp_transport import TcpTransport

from devicelab.adb.tcp import TcpLink
from tests.adb.hostile import Hostile, Peer

BIG = 32 << 20  # bytes; more than any socket buffer takes


@pytest.fixture
def pair() -> Iterator[tuple[Callable[[type[TcpTransport]], Any], socket.socket]]:
    """A listener, and a way to connect either class to it; yields (connect, accepted-side listener)."""
    opened: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def connect(kind: type[TcpTransport]) -> Any:
            link = kind("127.0.0.1", port)
            link.connect(5.0)
            opened.append(link)
            return link

        yield connect, listener
        for link in opened:
            link.close()


class Drain(threading.Thread):
    """Reads all that comes, slowly at first; ``total`` is how much that was."""

    def __init__(self, listener: socket.socket) -> None:
        super().__init__(daemon=True)
        self.sock, _ = listener.accept()
        self.total = 0

    def run(self) -> None:
        time.sleep(0.1)
        while data := self.sock.recv(1 << 20):
            self.total += len(data)
        self.sock.close()


@pytest.mark.parametrize("kind", [TcpTransport, TcpLink])
def test_defect_1_a_short_send_loses_nothing(pair: Any, kind: type[TcpTransport]) -> None:
    connect, listener = pair
    link = connect(kind)
    drain = Drain(listener)
    drain.start()
    link.bulk_write(bytes(BIG), 30.0)  # as adb_shell calls it: the result is not looked at
    link.close()
    drain.join(30)
    if kind is TcpLink:
        assert drain.total == BIG
    else:
        assert drain.total < BIG, "adb_shell is mended: our own bulk_write may go"


@pytest.mark.parametrize("kind", [TcpTransport, TcpLink])
def test_defect_2_a_closed_socket_is_an_error_at_once_not_a_spin(
    kind: type[TcpTransport], monkeypatch: pytest.MonkeyPatch
) -> None:
    """adb_shell's own device class on both: stock, it reads b"" again and again until its time is over."""
    reads = []
    real = kind.bulk_read

    def counting(link: Any, numbytes: int, seconds: float) -> bytes:
        reads.append(numbytes)
        return bytes(real(link, numbytes, seconds))

    def hang_up(peer: Peer) -> None:
        peer.read()  # CNXN

    monkeypatch.setattr(kind, "bulk_read", counting)
    with Hostile(hang_up) as phone:
        device = AdbDevice(kind("127.0.0.1", phone.port))
        with pytest.raises((AdbTimeoutError, ConnectionError)) as caught:
            device.connect(transport_timeout_s=5.0, read_timeout_s=1.0)
        device.close()
    if kind is TcpLink:
        assert caught.type is ConnectionResetError
        assert len(reads) == 1
    else:
        assert caught.type is AdbTimeoutError
        assert len(reads) > 100, "adb_shell is mended: our own bulk_read may go"


@pytest.mark.parametrize("kind", [TcpTransport, TcpLink])
def test_defect_4_small_packets_are_not_held_back(pair: Any, kind: type[TcpTransport]) -> None:
    connect, _ = pair
    nodelay = connect(kind)._connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert bool(nodelay) is (kind is TcpLink)


def test_a_phone_that_vanishes_is_noticed_without_traffic(pair: Any) -> None:
    connect, _ = pair
    sock = connect(TcpLink)._connection
    idle, interval, count = (
        sock.getsockopt(socket.IPPROTO_TCP, option)
        for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    )
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert idle + interval * count <= 20
    # This one would also give up a phone that is there and does not read for a while.
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0


def test_a_refused_connection_is_an_os_error() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            TcpLink("127.0.0.1", unused.getsockname()[1]).connect(5.0)


def test_reading_with_a_limit_returns_what_is_there_and_then_times_out(pair: Any) -> None:
    connect, listener = pair
    link = connect(TcpLink)
    peer, _ = listener.accept()
    with peer:
        peer.sendall(b"abc")
        assert link.bulk_read(24, 10.0) == b"abc"
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            link.bulk_read(24, 0.1)
        assert time.monotonic() - began < 15


def test_reading_without_a_limit_waits_for_all(pair: Any) -> None:
    connect, listener = pair
    link = connect(TcpLink)
    peer, _ = listener.accept()

    def dribble() -> None:
        for part in (b"a", b"bc", b"defgh"):
            time.sleep(0.05)
            peer.sendall(part)

    with peer:
        thread = threading.Thread(target=dribble)
        thread.start()
        assert link.bulk_read(8, None) == b"abcdefgh"
        thread.join()


@pytest.mark.parametrize("limit", [None, 10.0])
def test_an_end_in_the_middle_is_a_connection_error(pair: Any, limit: float | None) -> None:
    connect, listener = pair
    link = connect(TcpLink)
    peer, _ = listener.accept()
    peer.sendall(b"abc")
    peer.close()
    if limit is not None:
        assert link.bulk_read(24, limit) == b"abc"
    with pytest.raises(ConnectionResetError):
        link.bulk_read(24, limit)


def test_writing_to_a_phone_that_does_not_read_times_out(pair: Any) -> None:
    connect, listener = pair
    link = connect(TcpLink)
    peer, _ = listener.accept()
    with peer:
        began, cpu = time.monotonic(), time.thread_time()
        with pytest.raises(TimeoutError):
            link.bulk_write(bytes(BIG), 0.5)
        assert 0.4 < time.monotonic() - began < 20
        assert time.thread_time() - cpu < 0.25, "spins"


def test_send_takes_header_and_payload_in_one_go(pair: Any) -> None:
    connect, listener = pair
    link = connect(TcpLink)
    peer, _ = listener.accept()
    with peer:
        assert link.send([memoryview(b"header"), memoryview(b"payload")], 0.0) == 13
        assert peer.recv(100) == b"headerpayload"


def test_send_without_waiting_returns_nothing_sent_when_the_phone_is_full(pair: Any) -> None:
    connect, listener = pair
    link = connect(TcpLink)
    peer, _ = listener.accept()
    with peer:
        block = memoryview(bytes(1 << 20))
        while link.send([block], 0.0):
            pass
        assert link.send([block], 0.05) == 0


def test_shut_down_wakes_a_reader(pair: Any) -> None:
    connect, listener = pair
    link = connect(TcpLink)
    peer, _ = listener.accept()
    woken: list[BaseException] = []

    def read() -> None:
        try:
            link.bulk_read(24, None)
        except OSError as error:
            woken.append(error)

    with peer:
        reader = threading.Thread(target=read)
        reader.start()
        time.sleep(0.1)
        link.shut_down()
        link.shut_down()
        reader.join(10)
        assert not reader.is_alive()
        assert isinstance(woken[0], ConnectionError)
        link.close()
        link.close()
        with pytest.raises(ConnectionError, match="closed"):
            link.bulk_read(1, 1.0)
        with pytest.raises(ConnectionError, match="closed"):
            link.send([memoryview(b"x")], 1.0)


def test_file_descriptors_above_1023_work(pair: Any) -> None:
    """select(), which adb_shell waits with, raises ValueError on them: a lab of many phones has many files."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1200:
        pytest.skip(f"this system allows {hard} open files only")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1200), hard))
    connect, listener = pair
    fillers: list[socket.socket] = []
    try:
        while not fillers or fillers[-1].fileno() < 1024:
            fillers.append(socket.socket())
        link = connect(TcpLink)
        peer, _ = listener.accept()
        with peer:
            assert link._connection.fileno() > 1023
            peer.sendall(b"x")
            assert link.bulk_read(1, 10.0) == b"x"
            assert link.bulk_write(bytes(1000), 10.0) == 1000
    finally:
        for filler in fillers:
            filler.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
