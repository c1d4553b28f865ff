"""A connection whose streams say what a test wrote down: for phones that do not play by the rules."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

from devicelab.adb.fake_phone import FEATURES
from devicelab.deadline import Deadline
from devicelab.errors import DeviceLostError, ServiceRefusedError

SERIAL = "R58M42"

HANG = None
"""In a script: say nothing until the host gives up."""

Step = bytes | Exception | None


class ScriptedStream:
    """Says one step of its script after the other, then ends; keeps what was written to it."""

    def __init__(self, script: Iterable[Step]) -> None:
        self.written = bytearray()
        self.closed = False
        self._steps: Iterator[Step] = iter(script)
        self._rest = b""
        self._woken = threading.Event()

    @property
    def serial(self) -> str:
        return SERIAL

    def read(self, limit: int, deadline: Deadline) -> bytes:
        deadline.remaining()
        while not self._rest:
            step = next(self._steps, b"")
            if isinstance(step, Exception):
                raise step
            if step is HANG:
                if self._woken.wait(deadline.remaining()):
                    raise DeviceLostError("closed on this side", device=SERIAL)
                raise deadline.error()
            if not step:
                return b""
            self._rest = step
        data, self._rest = self._rest[:limit], self._rest[limit:]
        return data

    def write(self, data: bytes | bytearray | memoryview, deadline: Deadline) -> None:
        deadline.remaining()
        self.written += data

    def close(self) -> None:
        self.closed = True
        self._woken.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass
class ScriptedConnection:
    """Each open() takes the next script; without one, the service is refused."""

    scripts: list[Iterable[Step]]
    features: frozenset[str] = FEATURES
    banner: Mapping[str, str] = field(default_factory=dict)
    streams: list[ScriptedStream] = field(default_factory=list)
    services: list[str] = field(default_factory=list)

    @property
    def serial(self) -> str:
        return SERIAL

    @property
    def transport(self) -> Literal["direct"]:
        return "direct"

    def alive(self) -> bool:
        return True

    def open(self, service: str, deadline: Deadline) -> ScriptedStream:
        deadline.remaining()
        self.services.append(service)
        if not self.scripts:
            raise ServiceRefusedError(f"adbd refused `{service}`", device=SERIAL)
        stream = ScriptedStream(self.scripts.pop(0))
        self.streams.append(stream)
        return stream

    def close(self) -> None:
        for stream in self.streams:
            stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def soon(operation: str = "test", seconds: float = 20.0) -> Deadline:
    """A deadline that only a hanging test reaches."""
    return Deadline(operation, seconds, SERIAL)


def cut(wire: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Cut bytes into pieces of the given sizes, over and over."""
    pieces: list[bytes] = []
    position = 0
    while position < len(wire):
        size = cuts[len(pieces) % len(cuts)]
        pieces.append(wire[position : position + size])
        position += size
    return pieces
