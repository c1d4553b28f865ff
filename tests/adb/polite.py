"""An honest double of adbd that watches the host: every breach of the protocol is written down.

Services: ``echo:`` sends back what it gets, ``source:N`` sends N bytes of a pattern and ends, ``sink:N`` reads
N bytes, answers with their CRC-32 and ends, ``drip:N`` sends N bytes one by one, ``mute:`` never says anything
and reads nothing. All others are refused.
"""

from __future__ import annotations

import queue
import struct
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from devicelab.adb.packets import MAX_PAYLOAD, VERSION
from tests.adb.hostile import CREDIT, FEATURES, WINDOWED, Frame, Hostile, Peer


def pattern(size: int) -> bytes:
    """Bytes in which every lost, doubled or swapped piece shows."""
    return np.arange(size // 4 + 1, dtype="<u4").tobytes()[:size]


@dataclass(eq=False)
class Served:
    """One stream, seen from the phone."""

    phone: Polite
    peer: Peer
    remote: int  # our id
    local: int  # the host's id
    window: int  # bytes that the host still takes, with windows
    owed: int = 0  # bytes that the host may still send, without windows WRTE packets
    inbox: queue.SimpleQueue[bytes | None] = field(default_factory=queue.SimpleQueue)
    granted: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    closed: bool = False

    def write(self, data: bytes) -> None:
        """Send data as adbd does: while the window is open, or one packet for each OKAY."""
        view = memoryview(data)
        while view:
            part = bytes(view[: self.phone.max_payload])
            if not self.peer.windowed:
                self._await_grant()
            while self.peer.windowed and self.window <= 0 and not self.closed:
                self._await_grant()
            if self.closed:
                raise ConnectionAbortedError
            self.window -= len(part)
            self.phone.send(self.peer, "WRTE", self.remote, self.local, part)
            view = view[len(part) :]

    def _await_grant(self) -> None:
        if not self.granted.acquire(timeout=20):
            raise AssertionError("the host grants nothing")

    def read(self) -> bytes:
        """The next packet's payload; b"" once the host has closed its end. Acknowledged when it is taken."""
        data = self.inbox.get(timeout=20)
        if data is None:
            return b""
        self.owed += len(data) if self.peer.windowed else 1
        self.phone.okay(self.peer, self.remote, self.local, len(data))
        return data

    def okay(self, frame: Frame) -> None:
        if len(frame.payload) != (4 if self.peer.windowed else 0):
            self.phone.violations.append(f"OKAY with {len(frame.payload)} bytes")
        elif self.peer.windowed:
            self.window += struct.unpack("<i", frame.payload)[0]
        self.granted.release()

    def receive(self, frame: Frame) -> None:
        if self.owed <= 0:
            self.phone.violations.append(f"WRTE of {len(frame.payload)} bytes that were not asked for")
        if len(frame.payload) > self.phone.max_payload:
            self.phone.violations.append(f"WRTE of {len(frame.payload)} bytes, more than agreed")
        self.owed -= len(frame.payload) if self.peer.windowed else 1
        self.inbox.put(frame.payload)

    def end(self) -> None:
        self.closed = True
        self.inbox.put(None)
        for _ in range(3):
            self.granted.release()


class Polite(Hostile):
    """The double; ``violations`` lists what the host did wrong, ``open_streams`` what it has not closed."""

    def __init__(
        self,
        *,
        windowed: bool = True,
        max_payload: int = MAX_PAYLOAD,
        version: int = VERSION,
        credit: int = CREDIT,
        hidden: bool = False,
    ) -> None:
        super().__init__(self._serve)
        self.windowed = windowed
        self.max_payload = max_payload
        self.version = version
        self.credit = credit
        self.hidden = hidden  # insists on windows although its banner does not announce them
        self.violations: list[str] = []
        self.open_streams: dict[int, Served] = {}
        self.opens = self.closes = 0  # by the host
        self.sent_bytes = 0
        self._sending = threading.Lock()
        self._workers: list[threading.Thread] = []

    @property
    def sums(self) -> bool:
        return self.version < VERSION

    def send(self, peer: Peer, command: str, arg0: int, arg1: int, payload: bytes = b"") -> None:
        with self._sending:
            peer.send(command, arg0, arg1, payload, checksum=None if self.sums else 0)
            self.sent_bytes += len(payload)

    def okay(self, peer: Peer, remote: int, local: int, count: int) -> None:
        self.send(peer, "OKAY", remote, local, struct.pack("<i", count) if peer.windowed else b"")

    def _serve(self, peer: Peer) -> None:
        features = WINDOWED if self.windowed and not self.hidden else FEATURES
        peer.shake(features, version=self.version, max_payload=self.max_payload)
        peer.windowed = self.windowed
        try:
            while True:
                self._handle(peer, peer.read())
        finally:
            for stream in list(self.open_streams.values()):
                stream.end()
            for worker in self._workers:
                worker.join(20)

    def _handle(self, peer: Peer, frame: Frame) -> None:
        if self.sums and frame.checksum != sum(frame.payload) & 0xFFFFFFFF:
            self.violations.append(f"{frame.command} with checksum {frame.checksum:#x}")
        if frame.command == "OPEN":
            self._open(peer, frame)
            return
        stream = self.open_streams.get(frame.arg1)
        if stream is None or frame.arg0 not in (stream.local, 0):
            return  # late for a closed stream, as adbd sees it
        if frame.command == "OKAY":
            stream.okay(frame)
        elif frame.command == "WRTE":
            stream.receive(frame)
        elif frame.command == "CLSE":
            self.closes += 1
            del self.open_streams[frame.arg1]
            stream.end()
        else:
            self.violations.append(f"unexpected {frame.command}")

    def _open(self, peer: Peer, frame: Frame) -> None:
        self.opens += 1
        if not frame.payload.endswith(b"\0"):
            self.violations.append("OPEN without NUL")
        if len(frame.payload) > self.max_payload:
            self.violations.append(f"OPEN of {len(frame.payload)} bytes, more than agreed")
        name, _, argument = frame.payload.rstrip(b"\0").decode().partition(":")
        service = _SERVICES.get(name)
        if service is None or bool(frame.arg1) != peer.windowed:
            self.send(peer, "CLSE", 0, frame.arg0)
            return
        grant = self.credit if peer.windowed else 1
        stream = Served(self, peer, self.opens, frame.arg0, frame.arg1, owed=grant)
        stream.granted.release()  # without windows, adbd sends its first packet unasked
        self.open_streams[stream.remote] = stream
        self.okay(peer, stream.remote, stream.local, self.credit)
        worker = threading.Thread(target=self._work, args=(service, stream, argument), daemon=True)
        self._workers.append(worker)
        worker.start()

    def _work(self, service: Callable[[Served, str], None], stream: Served, argument: str) -> None:
        try:
            service(stream, argument)
            if self.open_streams.pop(stream.remote, None):
                stream.closed = True
                self.send(stream.peer, "CLSE", stream.remote, stream.local)
        except OSError:
            pass  # the host closed the stream or the connection
        except (AssertionError, queue.Empty) as failure:
            self.failures.append(failure)


def _echo(stream: Served, _: str) -> None:
    while data := stream.read():
        stream.write(data)


def _source(stream: Served, argument: str) -> None:
    stream.write(pattern(int(argument)))


def _sink(stream: Served, argument: str) -> None:
    left, crc = int(argument), 0
    while left > 0:
        data = stream.read()
        if not data:
            return
        left -= len(data)
        crc = zlib.crc32(data, crc)
    stream.write(struct.pack("<I", crc))


def _drip(stream: Served, argument: str) -> None:
    for byte in pattern(int(argument)):
        stream.write(bytes([byte]))


def _mute(stream: Served, _: str) -> None:
    while not stream.closed and stream.granted.acquire(timeout=20):
        pass


_SERVICES: dict[str, Callable[[Served, str], None]] = {
    "echo": _echo,
    "source": _source,
    "sink": _sink,
    "drip": _drip,
    "mute": _mute,
}
