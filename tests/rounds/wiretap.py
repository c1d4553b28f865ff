"""Everything that crosses the cables of some phones, recorded on its way and taken apart afterwards.

A tap stands between the host and a phone's port and passes on what it hears. On TCP that is a row of ADB
packets; their payloads, by stream, are what services say. Those of the sync service are files, in frames of
64 KiB at most.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Literal

from devicelab.virtual.client import VirtualPhone

__all__ = ["Tape", "tapped", "windows"]

Direction = Literal["to phone", "to host"]

_PACKET: Final = struct.Struct("<4s5I")
_FRAME: Final = struct.Struct("<4sI")
_ANSWERS: Final = {b"STA2": 72, b"LST2": 72, b"STAT": 16}  # that come before a file; their sizes


def windows(content: bytes, size: int) -> set[bytes]:
    """All pieces of that size, wherever they begin."""
    return {content[start : start + size] for start in range(len(content) - size + 1)}


@dataclass
class Tape:
    """What was recorded: for each connection, what either side said."""

    said: list[dict[Direction, bytearray]] = field(default_factory=list)

    def heard(self, direction: Direction) -> list[bytes]:
        """Every place in which something could be hidden: each stream's payload, and the bare bytes, too."""
        return [bytes(each[direction]) for each in self.said] + self.streams(direction)

    def holds(self, piece: bytes, direction: Direction) -> bool:
        """Whether some bytes were said."""
        return any(piece in each for each in self.heard(direction))

    def found(self, pieces: set[bytes], direction: Direction) -> set[bytes]:
        """Those of some pieces, all of one size, that were said."""
        (size,) = {len(each) for each in pieces}
        return set[bytes]().union(*(pieces & windows(each, size) for each in self.heard(direction)))

    def streams(self, direction: Direction) -> list[bytes]:
        """The payload of each stream, without the packets that carried it."""
        found: dict[tuple[int, int], bytearray] = {}
        for number, each in enumerate(self.said):
            content, at = bytes(each[direction]), 0
            while at < len(content):
                command, first, second, length, _, magic = _PACKET.unpack_from(content, at)
                assert int.from_bytes(command, "little") ^ 0xFFFFFFFF == magic  # it is ADB that was recorded
                at += _PACKET.size
                if command == b"WRTE":  # named by its sender's id first, then by its receiver's; ours tells it
                    ours = first if direction == "to phone" else second
                    found.setdefault((number, ours), bytearray()).extend(content[at : at + length])
                at += length
        return [bytes(each) for each in found.values()]

    def pulled(self) -> list[bytes]:
        """Every file that phones have sent."""
        files = []
        for stream in self.streams("to host"):
            at = 0
            while size := _ANSWERS.get(stream[at : at + 4]):
                at += size
                content = bytearray()
                while stream[at : at + 4] == b"DATA":
                    length = _FRAME.unpack_from(stream, at)[1]
                    content += stream[at + _FRAME.size : at + _FRAME.size + length]
                    at += _FRAME.size + length
                if stream[at : at + 4] == b"DONE":
                    at += _FRAME.size
                    files.append(bytes(content))
        return files


@contextmanager
def tapped(phones: Sequence[VirtualPhone]) -> Iterator[tuple[Tape, list[str]]]:
    """A tape, and addresses at which phones can be reached so that it hears everything."""
    tape = Tape()
    with contextlib.ExitStack() as stack:
        yield tape, [stack.enter_context(_tap(phone.address, tape)) for phone in phones]


@contextmanager
def _tap(address: str, tape: Tape) -> Iterator[str]:
    """The address of a tap on a phone; no thread of it is left afterwards."""
    host, _, port = address.rpartition(":")
    with socket.create_server(("127.0.0.1", 0)) as server:
        ends: list[socket.socket] = []
        threads: list[threading.Thread] = []

        def accept() -> None:
            while True:
                try:
                    ours, _ = server.accept()
                except OSError:
                    return
                theirs = socket.create_connection((host, int(port)))
                ends.extend((ours, theirs))
                said: dict[Direction, bytearray] = {"to phone": bytearray(), "to host": bytearray()}
                tape.said.append(said)
                for source, target, record in (
                    (ours, theirs, said["to phone"]),
                    (theirs, ours, said["to host"]),
                ):
                    source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    thread = threading.Thread(target=_pass_on, args=(source, target, record))
                    thread.start()
                    threads.append(thread)

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for end in ends:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()
            for end in ends:
                end.close()


def _pass_on(source: socket.socket, target: socket.socket, record: bytearray) -> None:
    """Until one side has enough; what was heard is recorded before it is passed on."""
    with contextlib.suppress(OSError):
        while heard := source.recv(1 << 18):
            record += heard
            target.sendall(heard)
    for each in (source, target):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
