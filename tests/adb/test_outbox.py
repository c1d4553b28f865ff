"""The way out: packets stay whole and in order whatever the link takes, and nobody waits who must not."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devicelab.adb.outbox import Outbox
from devicelab.adb.packets import Command, pack_header, parse_header
from devicelab.deadline import Deadline
from devicelab.errors import DeadlineError


class Narrow:
    """A link that takes as many bytes as it is told, call by call; then all or nothing."""

    def __init__(self, appetite: Sequence[int] = (), *, then: int = 1 << 30) -> None:
        self.appetite = list(appetite)
        self.then = then
        self.taken = bytearray()
        self.calls = 0
        self.inside = threading.Lock()

    def send(self, parts: Sequence[memoryview], timeout: float) -> int:
        assert self.inside.acquire(blocking=False), "two threads inside the link"
        try:
            self.calls += 1
            left = limit = self.appetite.pop(0) if self.appetite else self.then
            for part in parts:
                assert part, "an empty part"
                self.taken += part[:left]
                left = max(0, left - len(part))
            sent = min(limit, sum(map(len, parts)))
            if not sent and timeout:
                time.sleep(min(timeout, 0.01))
            return sent
        finally:
            self.inside.release()

    def bulk_read(self, numbytes: int, transport_timeout_s: float | None) -> bytes:
        raise AssertionError

    def bulk_write(self, data: bytes, transport_timeout_s: float | None) -> int:
        raise AssertionError

    def shut_down(self) -> None: ...

    def close(self) -> None:
        assert self.inside.acquire(blocking=False), "closed under a thread's feet"
        self.inside.release()


def packet(number: int, size: int) -> tuple[bytes, bytes]:
    payload = bytes([number % 251]) * size
    return pack_header(Command.WRTE, number, 1, size), payload


def numbers(stream: bytes | bytearray) -> list[int]:
    """Take a byte stream apart again; anything cut in two does not survive this."""
    found = []
    while stream:
        header = parse_header(stream[:24], "X")
        payload = stream[24 : 24 + header.length]
        assert payload == bytes([header.arg0 % 251]) * header.length
        found.append(header.arg0)
        stream = stream[24 + header.length :]
    return found


def fail(error: Exception) -> None:
    raise AssertionError(error)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.integers(0, 60), max_size=60),
    st.lists(st.tuples(st.booleans(), st.integers(0, 100)), min_size=1, max_size=20),
)
def test_whatever_the_link_takes_packets_stay_whole(
    appetite: list[int], packets: list[tuple[bool, int]]
) -> None:
    link = Narrow(appetite)
    outbox = Outbox(link, fail)
    sure: list[int] = []
    for number, (waits, size) in enumerate(packets):
        if not waits:
            outbox.post(*packet(number, size))
            sure.append(number)
            continue
        try:
            outbox.send(*packet(number, size), Deadline("send", 0.005))
            sure.append(number)
        except DeadlineError:
            pass  # not sent at all, or finished later
    link.appetite.clear()
    outbox.settle()
    arrived = numbers(link.taken)
    assert arrived == sorted(arrived)
    assert set(sure) <= set(arrived)


def test_what_a_deadline_cut_off_is_finished_before_anything_else() -> None:
    link = Narrow([30], then=0)
    outbox = Outbox(link, fail)
    header, payload = packet(1, 1000)
    buffer = bytearray(payload)
    with pytest.raises(DeadlineError):
        outbox.send(header, buffer, Deadline("send", 0.05))
    buffer[:] = bytes(1000)  # the caller's again
    outbox.post(*packet(2, 0))
    assert len(link.taken) == 30
    link.then = 1 << 30
    outbox.send(*packet(3, 5), Deadline("send", 10))
    assert numbers(link.taken) == [1, 2, 3]


def test_what_was_posted_meanwhile_goes_behind_what_was_cut_off() -> None:
    link = Narrow([30], then=0)
    outbox = Outbox(link, fail)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(outbox.send, *packet(1, 1000), Deadline("send", 0.5))
        while link.calls < 2:
            time.sleep(0.01)
        outbox.post(*packet(2, 0))
        with pytest.raises(DeadlineError):
            sending.result(timeout=20)
    link.then = 1 << 30
    outbox.settle()
    assert numbers(link.taken) == [1, 2]


def test_what_was_not_begun_is_never_sent() -> None:
    link = Narrow(then=0)
    outbox = Outbox(link, fail)
    with pytest.raises(DeadlineError):
        outbox.send(*packet(1, 1000), Deadline("send", 0.05))
    link.then = 1 << 30
    outbox.send(*packet(2, 5), Deadline("send", 10))
    assert numbers(link.taken) == [2]


def test_posting_never_waits_for_who_sends() -> None:
    link = Narrow(then=0)
    outbox = Outbox(link, fail)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(outbox.send, *packet(1, 10), Deadline("send", 30))
        while not link.calls:
            time.sleep(0.01)
        began = time.monotonic()
        for number in range(2, 100):
            outbox.post(*packet(number, 0))
        assert time.monotonic() - began < 15
        link.then = 1 << 30
        sending.result(timeout=20)
    assert numbers(link.taken) == list(range(1, 100)), "who sends takes along what was posted meanwhile"


def test_waiting_for_another_sender_has_a_deadline_too() -> None:
    link = Narrow(then=0)
    outbox = Outbox(link, fail)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(outbox.send, *packet(1, 10), Deadline("send", 30))
        while not link.calls:
            time.sleep(0.01)
        with pytest.raises(DeadlineError):
            outbox.send(*packet(2, 10), Deadline("send", 0.05))
        link.then = 1 << 30
        sending.result(timeout=20)
    assert numbers(link.taken) == [1]


def test_many_threads_at_once() -> None:
    link = Narrow(list(range(1, 200)))
    outbox = Outbox(link, fail)

    def work(start: int) -> None:
        for number in range(start, start + 50):
            if number % 3:
                outbox.send(*packet(number, number % 97), Deadline("send", 60))
            else:
                outbox.post(*packet(number, number % 5))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(0, 600, 100)))
    outbox.settle()
    arrived = numbers(link.taken)
    assert sorted(arrived) == [start + number for start in range(0, 600, 100) for number in range(50)]


def test_a_phone_that_reads_nothing_does_not_fill_memory() -> None:
    failures: list[Exception] = []
    outbox = Outbox(Narrow(then=0), failures.append)
    for number in range(10_000):
        outbox.post(*packet(number, 0))
        if failures:
            break
    assert isinstance(failures[0], BlockingIOError)
    assert number < 5000


def test_a_broken_link_is_reported_to_whoever_can_tell_the_others() -> None:
    class Broken(Narrow):
        def send(self, parts: Sequence[memoryview], timeout: float) -> int:
            raise BrokenPipeError("gone")

    failures: list[Exception] = []
    outbox = Outbox(Broken(), failures.append)
    outbox.post(*packet(1, 0))
    assert isinstance(failures[0], BrokenPipeError)
    with pytest.raises(BrokenPipeError):
        outbox.send(*packet(2, 0), Deadline("send", 10))


def test_closing_waits_until_nobody_is_inside() -> None:
    link = Narrow(then=0)
    outbox = Outbox(link, fail)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(outbox.send, *packet(1, 10), Deadline("send", 0.3))
        while not link.calls:
            time.sleep(0.01)
        outbox.close()
        with pytest.raises(DeadlineError):
            sending.result(timeout=10)
