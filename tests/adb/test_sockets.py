"""A socket with deadlines: short sends, silence, and a close() from elsewhere."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from devicelab.adb.sockets import DeadlineSocket
from devicelab.deadline import Deadline
from devicelab.errors import DeadlineError

Pair = tuple[DeadlineSocket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    wrapped = DeadlineSocket(ours)
    yield wrapped, theirs
    wrapped.close()
    theirs.close()


def test_everything_is_sent_however_little_the_kernel_takes_at_a_time(pair: Pair) -> None:
    ours, theirs = pair
    data = os.urandom(5_000_000)
    received = bytearray()

    def drain() -> None:
        while len(received) < len(data):
            received.extend(theirs.recv(10_000))

    thread = threading.Thread(target=drain)
    thread.start()
    ours.send(data, Deadline("send", 20))
    thread.join()
    assert received == data


def test_silence_ends_with_the_deadline_and_loses_nothing(pair: Pair) -> None:
    ours, theirs = pair
    with pytest.raises(DeadlineError, match=r"^answer: no end within 0\.05 s$"):
        ours.receive(100, Deadline("answer", 0.05))
    theirs.sendall(b"late")
    assert ours.receive(100, Deadline("answer", 20)) == b"late"


def test_a_peer_that_does_not_read_ends_with_the_deadline(pair: Pair) -> None:
    ours, _ = pair
    with pytest.raises(DeadlineError, match=r"^push: "):
        ours.send(bytes(50_000_000), Deadline("push", 0.1))


def test_each_direction_has_its_own_deadline(pair: Pair) -> None:
    ours, theirs = pair
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(ours.receive(10, Deadline("read", 20))))
    reader.start()
    with pytest.raises(DeadlineError):
        ours.send(bytes(50_000_000), Deadline("write", 0.1))
    theirs.sendall(b"still there")
    reader.join()
    assert got == [b"still ther"]


def test_the_end_is_empty_and_a_reset_is_an_error(pair: Pair) -> None:
    ours, theirs = pair
    theirs.close()
    assert ours.receive(10, Deadline("read", 20)) == b""
    with pytest.raises(ConnectionError):
        ours.send(b"x", Deadline("write", 20))


def test_close_wakes_the_thread_that_reads(pair: Pair) -> None:
    ours, _ = pair
    errors: list[BaseException] = []

    def read() -> None:
        try:
            ours.receive(10, Deadline("read", 20))
        except OSError as error:
            errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    time.sleep(0.05)
    begin = time.monotonic()
    ours.close()
    ours.close()
    reader.join()
    assert time.monotonic() - begin < 10
    assert isinstance(errors[0], ConnectionAbortedError)
    with pytest.raises(ConnectionAbortedError):
        ours.receive(10, Deadline("read", 20))


def test_ended_tells_a_dead_idle_socket_from_a_live_one(pair: Pair) -> None:
    ours, theirs = pair
    assert not ours.ended()
    theirs.close()
    assert ours.ended()


def test_ended_is_true_after_close(pair: Pair) -> None:
    ours, _ = pair
    ours.close()
    assert ours.ended()


def test_small_messages_are_not_held_back_on_tcp() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        raw = socket.create_connection(listener.getsockname())
        peer, _ = listener.accept()
        wrapped = DeadlineSocket(raw)
        try:
            assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        finally:
            wrapped.close()
            peer.close()
