"""Many streams over one link: who gets which packet, how much may be under way, and what ends what.

One thread per connection reads packets and hands them to their streams; it never waits for a stream, nor for
the phone to take an answer. Readers and writers wait on their own stream only, each with its own deadline.

Flow control, from AOSP's ``protocol.txt`` and ``docs/dev/delayed_ack.md``: without windows, one WRTE may be
under way on a stream in each direction and an OKAY asks for the next; with windows (both ends announce
``delayed_ack``), OPEN and OKAY say how many bytes more the other end may send. Either way data is acknowledged
only when its reader takes it, so a slow reader stops the phone instead of filling memory.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from devicelab.adb.direct_stream import WINDOW, DirectStream
from devicelab.adb.link import Link
from devicelab.adb.outbox import Outbox
from devicelab.adb.packets import (
    DELAYED_ACK,
    HEADER_SIZE,
    HOST_FEATURES,
    Banner,
    Buffer,
    Command,
    Header,
    check_payload,
    checksum,
    pack_header,
    parse_header,
)
from devicelab.deadline import Deadline
from devicelab.errors import DeadlineError, DeviceError, DeviceLostError, ProtocolError, ServiceRefusedError

__all__ = ["Multiplexer", "Session"]

_MAX_STRAY = 100_000  # packets in a row for streams that do not exist; closed streams leave some behind
_LAST_ID = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Session:
    """What both ends agreed on when they connected.

    Attributes:
        banner: What the phone said of itself.
        max_payload: Bytes that the phone takes in one packet.
        sums: Whether payloads carry checksums.
    """

    banner: Banner
    max_payload: int
    sums: bool

    @property
    def features(self) -> frozenset[str]:
        """What both ends can use."""
        return self.banner.features & HOST_FEATURES


class Multiplexer:
    """Owns a link whose handshake is done, its reading thread and its streams.

    Args:
        link: The link; closed together with this.
        session: What the handshake settled.
        serial: The phone's serial, for errors and the thread's name.
    """

    def __init__(self, link: Link, session: Session, serial: str) -> None:
        self._serial = serial
        self._session = session
        self._link = link
        self._outbox = Outbox(link, self._lost)
        self._lock = threading.Lock()  # guards the three below
        self._streams: dict[int, DirectStream] = {}
        self._last_id = 0
        self._error: DeviceError | None = None
        # None: the phone announced no windows, and no OPEN has yet shown that it means it.
        self._windows: bool | None = True if DELAYED_ACK in session.features else None
        self._stray = 0
        self._thread = threading.Thread(target=self._run, name=f"adb {serial}", daemon=True)
        self._thread.start()

    @property
    def serial(self) -> str:
        """The phone's serial."""
        return self._serial

    @property
    def max_payload(self) -> int:
        """Bytes that the phone takes in one packet."""
        return self._session.max_payload

    def open(self, service: str, deadline: Deadline) -> DirectStream:
        """Open a service; see :meth:`Connection.open <devicelab.adb.connection.Connection.open>`."""
        name = service.encode("utf-8", "surrogateescape")
        if len(name) >= self.max_payload:
            raise ServiceRefusedError(
                f"takes service names of less than {self.max_payload} bytes, not of {len(name)}",
                device=self._serial,
                hint="Push a long command as a file and run that.",
            )
        windows = self._windows
        try:
            stream = self._open(name, deadline, windowed=bool(windows))
        except ServiceRefusedError:
            if windows is not None:
                raise
            # An adbd whose banner was set by hand (--device_banner) may hide delayed_ack and yet insist on
            # it, since we announced it: it refuses every OPEN that grants no window.
            stream = self._open(name, deadline, windowed=True)
            self._windows = True
        else:
            self._windows = bool(windows)
        return stream

    def close(self) -> None:
        """End all streams and the thread; may be called twice, waits for the thread 2 s at most."""
        with self._lock:
            streams = list(self._streams.values())
        for stream in streams:
            stream.close()  # over USB, the phone would not notice otherwise
        self._fail(DeviceLostError("the connection was closed on this side", device=self._serial))
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=2.0)

    # For the streams.

    def send(self, command: Command, arg0: int, arg1: int, payload: Buffer, deadline: Deadline) -> None:
        """Send one packet, waiting as long as the deadline allows.

        Raises:
            DeadlineError: The phone does not read.
            DeviceError: The connection has ended.
        """
        if (ended := self.ended()) is not None:
            raise ended
        total = checksum(payload) if self._session.sums else 0
        try:
            self._outbox.send(pack_header(command, arg0, arg1, len(payload), total), payload, deadline)
        except OSError as cause:
            self._lost(cause)
            raise self._ending() from cause

    def post(self, command: Command, arg0: int, arg1: int, payload: bytes = b"") -> None:
        """Send one small packet without waiting; if that fails, everybody else will hear of it."""
        total = checksum(payload) if self._session.sums else 0
        self._outbox.post(pack_header(command, arg0, arg1, len(payload), total), payload)

    def forget(self, stream: DirectStream) -> None:
        """Drop a stream from the table."""
        with self._lock:
            self._streams.pop(stream.id, None)

    def ended(self) -> DeviceError | None:
        """A fresh error if the connection has ended: one exception object must not serve several threads."""
        return None if self._error is None else self._ending()

    # Opening and ending.

    def _open(self, name: bytes, deadline: Deadline, *, windowed: bool) -> DirectStream:
        with self._lock:
            if self._error is not None:
                raise self._ending()
            identity = self._last_id % _LAST_ID + 1  # never 0, which means "none"
            while identity in self._streams:
                identity = identity % _LAST_ID + 1
            self._last_id = identity
            stream = self._streams[identity] = DirectStream(self, identity, windowed=windowed)
        try:
            # The NUL is for old phones, which took names for C strings.
            self.send(Command.OPEN, identity, WINDOW if windowed else 0, name + b"\0", deadline)
            stream.wait_opened(name.decode("utf-8", "replace"), deadline)
        except DeadlineError as error:
            stream.close()
            error.device = error.device or self._serial
            raise
        except BaseException:
            stream.close()
            raise
        return stream

    def _ending(self) -> DeviceError:
        error = self._error
        assert error is not None
        copy = type(error)(error.message, device=error.device, hint=error.hint)
        copy.__cause__ = error.__cause__
        return copy

    def _lost(self, cause: Exception) -> None:
        error: DeviceError
        if isinstance(cause, BlockingIOError):
            error = ProtocolError(str(cause), device=self._serial)
        else:
            why = (cause.strerror if isinstance(cause, OSError) else None) or cause
            error = DeviceLostError(
                f"connection lost: {why}",
                device=self._serial,
                hint="Check the cable or the network, and that USB debugging is still on.",
            )
        error.__cause__ = cause
        self._fail(error)

    def _fail(self, error: DeviceError) -> None:
        """End everything with an error, the first one winning, and wake all who wait."""
        with self._lock:
            if self._error is not None:
                return
            self._error = error
            streams = list(self._streams.values())
            self._streams.clear()
        for stream in streams:
            stream.wake()
        self._link.shut_down()

    # The reading thread.

    def _run(self) -> None:
        try:
            while self._error is None:
                header = parse_header(self._link.bulk_read(HEADER_SIZE, None), self._serial)
                payload = self._link.bulk_read(header.length, None) if header.length else b""
                if self._session.sums:
                    check_payload(header, payload, self._serial)
                self._dispatch(header, payload)
                self._outbox.settle()
        except OSError as cause:
            self._lost(cause)
        except ProtocolError as error:
            self._fail(error)
        finally:
            self._outbox.close()

    def _dispatch(self, header: Header, payload: bytes) -> None:
        command, remote, local = header.command, header.arg0, header.arg1
        if command in (Command.CNXN, Command.AUTH, Command.STLS):
            raise ProtocolError(f"sent {command.name} in the middle of a connection", device=self._serial)
        stream = self._streams.get(local)
        if stream is None or not stream.knows(command, remote):
            self._strays(header)
            return
        self._stray = 0
        if command is Command.WRTE:
            stream.receive(payload)
        elif command is Command.OKAY:
            stream.okay(remote, payload)
        else:
            self.forget(stream)
            stream.closed()

    def _strays(self, header: Header) -> None:
        """Packets for no stream of ours: late ones for closed streams, and nonsense. Answered as adb does."""
        self._stray += 1
        if self._stray > _MAX_STRAY:
            raise ProtocolError(
                f"sent {_MAX_STRAY} packets in a row for streams that do not exist", device=self._serial
            )
        if header.command is Command.OPEN and header.arg0:
            self.post(Command.CLSE, 0, header.arg0)  # nothing on this host is offered to phones
        elif header.command is Command.OKAY and header.arg0 and header.arg1 not in self._streams:
            self.post(Command.CLSE, header.arg1, header.arg0)  # an OPEN that was given up: end the service
