"""One stream of a multiplexed connection: what has arrived and not been read, and what may still be sent."""

from __future__ import annotations

import struct
import threading
from collections import deque
from typing import Protocol

from devicelab.adb.packets import MAX_PAYLOAD, Buffer, Command
from devicelab.closing import Closing
from devicelab.deadline import Deadline
from devicelab.errors import (
    DeadlineError,
    DeviceError,
    ProtocolError,
    ServiceRefusedError,
    StreamClosedError,
)

__all__ = ["WINDOW", "Carrier", "DirectStream"]

WINDOW = 8 * MAX_PAYLOAD
"""Bytes that a phone may send on a stream before its reader has taken any: enough for 80 MB/s over a link
that takes 100 ms for a round trip, and what one stream whose reader sleeps costs in memory."""

_ACKNOWLEDGE = WINDOW // 16  # bytes taken that are worth an OKAY of their own
_UNPROMPTED = 2  # WRTE packets that may wait where there are no windows: the one allowed, one for the sloppy
_SMALL = 4096  # bytes; smaller payloads are gathered, or millions of one-byte objects would fill memory
_GATHERED = 65536  # bytes gathered into one piece
_COUNT = struct.Struct("<i")  # the payload of an OKAY where there are windows


class Carrier(Protocol):
    """What a stream needs of its connection."""

    @property
    def serial(self) -> str:
        """The phone's serial, for errors."""
        ...

    @property
    def max_payload(self) -> int:
        """Bytes that the phone takes in one packet."""
        ...

    def send(self, command: Command, arg0: int, arg1: int, payload: Buffer, deadline: Deadline) -> None:
        """Send one packet, waiting until it is out."""
        ...

    def post(self, command: Command, arg0: int, arg1: int, payload: bytes = b"") -> None:
        """Send one small packet without waiting."""
        ...

    def forget(self, stream: DirectStream) -> None:
        """Drop a stream from the table: nothing more is to be handed to it."""
        ...

    def ended(self) -> DeviceError | None:
        """A fresh error if the connection has ended, else None."""
        ...


class DirectStream(Closing):
    """A :class:`~devicelab.adb.connection.Stream` over packets.

    The connection's reading thread calls ``knows``, ``okay``, ``receive``, ``closed`` and ``wake``; none of
    them waits.

    Args:
        carrier: The connection.
        identity: Its id on this side, never 0.
        windowed: Whether both ends count bytes (``delayed_ack``).
    """

    def __init__(self, carrier: Carrier, identity: int, *, windowed: bool) -> None:
        self._carrier = carrier
        self._id = identity
        self._windowed = windowed
        self._changed = threading.Condition(threading.Lock())  # guards all below
        self._remote = 0  # the phone's id of it; 0 until it has answered OPEN
        self._phone_closed = False
        self._given_up = False
        self._credit = 0  # bytes that may be sent; without windows 1 or 0: whether a WRTE may be
        self._pieces: deque[bytes | bytearray] = deque()
        self._head: memoryview | None = None  # what a read left of the piece it began
        self._pending = 0  # received and not acknowledged: bytes, without windows packets
        self._taken = 0  # of these, read

    @property
    def serial(self) -> str:
        """The ADB serial of the phone at the other end."""
        return self._carrier.serial

    @property
    def id(self) -> int:
        """Its id on this side."""
        return self._id

    def read(self, limit: int, deadline: Deadline) -> bytes:
        """The next bytes; see :meth:`Stream.read <devicelab.adb.connection.Stream.read>`."""
        with self._changed:
            while self._head is None and not self._pieces:
                if self._phone_closed and not self._given_up:
                    return b""
                self._wait(deadline)
            data, owed = self._take(limit)
        if owed:
            self._carrier.post(
                Command.OKAY, self._id, self._remote, _COUNT.pack(owed) if self._windowed else b""
            )
        return data

    def write(self, data: Buffer, deadline: Deadline) -> None:
        """Send all of it; see :meth:`Stream.write <devicelab.adb.connection.Stream.write>`."""
        rest = memoryview(data).cast("B")
        while rest:
            part = rest[: self._carrier.max_payload]
            with self._changed:
                while self._credit <= 0 or self._phone_closed or self._given_up:
                    if self._phone_closed and not self._given_up:
                        raise StreamClosedError("the service has ended and reads no more", device=self.serial)
                    self._wait(deadline)
                self._credit -= len(part) if self._windowed else 1
            try:
                self._carrier.send(Command.WRTE, self._id, self._remote, part, deadline)
            except DeadlineError as error:
                error.device = error.device or self.serial
                raise
            rest = rest[len(part) :]

    def close(self) -> None:
        """Give it up: what has not been read is dropped, the service on the phone is told."""
        with self._changed:
            if self._given_up:
                return
            self._given_up = True
            self._pieces.clear()
            self._head = None
            tell = bool(self._remote) and not self._phone_closed
            self._changed.notify_all()
        self._carrier.forget(self)
        if tell:
            self._carrier.post(Command.CLSE, self._id, self._remote)

    def wait_opened(self, service: str, deadline: Deadline) -> None:
        """Wait for the phone's answer to OPEN.

        Raises:
            ServiceRefusedError: It answered CLSE.
            DeadlineError: It did not answer.
            DeviceError: The connection ended.
        """
        with self._changed:
            while not self._remote:
                if self._phone_closed:
                    raise ServiceRefusedError(
                        f"refused to open the service `{service[:200]}`",
                        device=self.serial,
                        hint="This phone's adbd does not know the service or does not allow it.",
                    )
                self._wait(deadline)

    # For the reading thread.

    def knows(self, command: Command, remote: int) -> bool:
        """Whether a packet from the phone's stream ``remote`` is meant for this one, as adb sees it."""
        if command is Command.CLSE:
            return remote == 0 or self._remote in (0, remote)
        if command is Command.OKAY:
            return remote != 0 and self._remote in (0, remote)
        return command is Command.WRTE and remote != 0 and remote == self._remote

    def okay(self, remote: int, payload: bytes) -> None:
        """The phone takes the OPEN, or more data.

        Raises:
            ProtocolError: Its payload is not what was agreed on.
        """
        if len(payload) != (_COUNT.size if self._windowed else 0):
            raise ProtocolError(f"sent an OKAY with a payload of {len(payload)} bytes", device=self.serial)
        with self._changed:
            self._remote = remote
            if self._windowed:
                self._credit += _COUNT.unpack(payload)[0]
            else:
                self._credit = 1
            self._changed.notify_all()

    def receive(self, payload: bytes) -> None:
        """The phone sends data.

        Raises:
            ProtocolError: More than it was allowed to.
        """
        if not payload:  # nothing to read; without windows it still has to be acknowledged
            if not self._windowed:
                self._carrier.post(Command.OKAY, self._id, self._remote)
            return
        with self._changed:
            if self._given_up:
                return
            # As in adbd, the last packet may go beyond the window, but only that one.
            limit = WINDOW if self._windowed else _UNPROMPTED
            if self._pending >= limit:
                unit = "bytes" if self._windowed else "packets"
                raise ProtocolError(
                    f"sent more on a stream although {self._pending} {unit} are not acknowledged",
                    device=self.serial,
                )
            self._pending += len(payload) if self._windowed else 1
            tail = self._pieces[-1] if self._pieces else None
            if not self._windowed or len(payload) >= _SMALL:
                self._pieces.append(payload)
            elif isinstance(tail, bytearray) and len(tail) < _GATHERED:
                tail += payload
            else:
                self._pieces.append(bytearray(payload))
            self._changed.notify_all()

    def closed(self) -> None:
        """The phone sends CLSE: no more data, and none is taken."""
        with self._changed:
            self._phone_closed = True
            self._changed.notify_all()

    def wake(self) -> None:
        """The connection has ended: let all who wait look again."""
        with self._changed:
            self._changed.notify_all()

    # Inside the lock.

    def _wait(self, deadline: Deadline) -> None:
        """Wait for a change, or raise what makes waiting pointless."""
        if self._given_up:
            raise StreamClosedError("the stream was closed on this side", device=self.serial)
        if (ended := self._carrier.ended()) is not None:
            raise ended
        try:
            self._changed.wait(deadline.remaining())
        except DeadlineError as error:
            error.device = error.device or self.serial
            raise

    def _take(self, limit: int) -> tuple[bytes, int]:
        """Take up to ``limit`` bytes; also return how much to acknowledge now."""
        fresh = self._head is None
        piece = memoryview(self._pieces[0]) if self._head is None else self._head
        if fresh:
            whole = self._pieces.popleft()
            data = whole if isinstance(whole, bytes) and len(whole) <= limit else bytes(piece[:limit])
        else:
            data = bytes(piece[:limit])
        rest = piece[len(data) :]
        self._head = rest or None
        if not self._windowed:
            self._pending -= fresh
            return data, int(fresh)
        self._taken += len(data)
        if self._taken < _ACKNOWLEDGE:
            return data, 0
        owed, self._taken = self._taken, 0
        self._pending -= owed
        return data, owed
