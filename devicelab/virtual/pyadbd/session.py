"""One host's connection: the handshake, and many streams over one socket."""

from __future__ import annotations

import contextlib
import itertools
import logging
import socket
import threading
from collections.abc import Callable

from devicelab.virtual.packets import (
    CLSE,
    CNXN,
    HANDSHAKE_LIMIT,
    HEADER_SIZE,
    MAX_PAYLOAD,
    MIN_PAYLOAD,
    OKAY,
    OPEN,
    VERSION_CHECKSUMS,
    VERSION_NO_CHECKSUMS,
    WRTE,
    Header,
    Packet,
    PacketError,
    checksum,
    pack,
    unpack_header,
)

__all__ = ["Opener", "Service", "Session", "Stream", "StreamEndedError"]

_log = logging.getLogger(__name__)

_STREAMS_LIMIT = 256
_SERVICE_LIMIT = MIN_PAYLOAD  # bytes of a service's name, as in every adbd before Android 9


class StreamEndedError(ConnectionError):
    """The host has closed the stream or the connection."""


class Stream:
    """The phone's end of one stream; one thread reads, and any thread may write.

    ADB's flow control: at most one WRTE is under way in each direction until the other end's OKAY.
    """

    def __init__(self, session: Session, local: int, remote: int) -> None:
        self.local = local
        self.remote = remote
        self._session = session
        self._changed = threading.Condition()
        self._writing = threading.Lock()
        self._inbox: bytes | None = None
        self._acknowledged = True
        self._ended = False
        self._on_end: Callable[[], object] | None = None
        self._buffer = bytearray()

    @property
    def ended(self) -> bool:
        """Whether nothing more can be written, and nothing read but what has already arrived."""
        return self._ended

    def read(self) -> bytes:
        """The next bytes as soon as there are any; ``b""`` at the end."""
        if self._buffer:
            data = bytes(self._buffer)
            self._buffer.clear()
            return data
        with self._changed:
            self._changed.wait_for(lambda: self._inbox is not None or self._ended)
            data, self._inbox = self._inbox or b"", None
        if data and not self._ended:
            self._session.send(Packet(OKAY, self.local, self.remote))
        return data

    def read_exactly(self, size: int) -> bytes:
        """The next ``size`` bytes.

        Raises:
            StreamEndedError: There are not so many.
        """
        held = bytearray()
        while len(held) < size:
            data = self.read()
            if not data:
                raise StreamEndedError("closed in the middle of a message")
            held += data
        self._buffer += held[size:]
        return bytes(held[:size])

    def write(self, data: bytes) -> None:
        """Hand over all of ``data``, in pieces that the host can take.

        Raises:
            StreamEndedError: The host has closed its end.
        """
        size = self._session.max_payload
        with self._writing:
            for begin in range(0, len(data), size):
                with self._changed:
                    self._changed.wait_for(lambda: self._acknowledged or self._ended)
                    if self._ended:
                        raise StreamEndedError("closed by the host")
                    self._acknowledged = False
                self._session.send(Packet(WRTE, self.local, self.remote, data[begin : begin + size]))

    def on_end(self, action: Callable[[], object] | None) -> None:
        """Have ``action`` called once when the stream ends, or now if it has; None takes that back."""
        with self._changed:
            self._on_end = action
            if self._ended and action is not None:
                action()

    def close(self) -> None:
        """Tell the host that there is no more, unless it closed first."""
        if self.end():
            with contextlib.suppress(OSError):
                self._session.send(Packet(CLSE, self.local, self.remote))

    def deliver(self, payload: bytes) -> None:
        """From the session: a WRTE has come.

        Raises:
            PacketError: The host did not wait for our OKAY.
        """
        with self._changed:
            if self._inbox is not None:
                raise PacketError(f"stream {self.local}: WRTE before the last one was acknowledged")
            self._inbox = payload
            self._changed.notify_all()

    def acknowledge(self) -> None:
        """From the session: an OKAY has come."""
        with self._changed:
            self._acknowledged = True
            self._changed.notify_all()

    def end(self) -> bool:
        """From the session: a CLSE has come, or the connection is gone. False if it had ended before."""
        with self._changed:
            before, self._ended = self._ended, True
            self._changed.notify_all()
            if self._on_end is not None and not before:
                self._on_end()
        return not before


Service = Callable[[Stream], None]
Opener = Callable[[str], Service | None]
"""Gives what serves a service name such as ``shell,v2,raw:id``; None for those that do not exist."""


class Session:
    """A connection from its first byte to its last.

    Args:
        sock: The connection; closed at the end.
        banner: What the phone says of itself.
        opener: Finds services.
        version: The highest protocol version to speak.
        max_payload: The largest payload to take, in bytes.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        banner: str,
        opener: Opener,
        version: int = VERSION_NO_CHECKSUMS,
        max_payload: int = MAX_PAYLOAD,
    ) -> None:
        self.max_payload = MIN_PAYLOAD
        self._sock = sock
        self._banner = banner.encode()
        self._opener = opener
        self._our_version = version
        self._our_max_payload = max_payload
        self._version = VERSION_CHECKSUMS
        self._limit = HANDSHAKE_LIMIT
        self._sending = threading.Lock()
        self._ids = itertools.count(1)
        self._streams: dict[int, Stream] = {}
        self._threads: set[threading.Thread] = set()
        self._lock = threading.Lock()

    def run(self) -> None:
        """Serve until either end hangs up; returns once all services have ended."""
        try:
            self._greet(self._receive())
            while True:
                self._handle(self._receive())
        except (PacketError, OSError) as error:
            _log.info("connection ended: %s", error)
        finally:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
            with self._lock:
                streams, threads = list(self._streams.values()), list(self._threads)
            for stream in streams:
                stream.end()
            for thread in threads:
                thread.join()
            self._sock.close()

    def send(self, packet: Packet) -> None:
        """Send one packet, from any thread.

        Raises:
            OSError: The connection is gone.
        """
        data = pack(packet, with_checksum=self._version < VERSION_NO_CHECKSUMS)
        with self._sending:
            self._sock.sendall(data)

    def _greet(self, hello: Packet) -> None:
        if hello.command != CNXN:
            raise PacketError(f"{hello.command.decode()} before CNXN")
        self.send(Packet(CNXN, self._our_version, self._our_max_payload, self._banner))
        self._version = min(self._our_version, hello.arg0)
        self.max_payload = min(self._our_max_payload, max(hello.arg1, 1))
        self._limit = self._our_max_payload

    def _handle(self, packet: Packet) -> None:
        if packet.command == OPEN:
            self._open(packet)
            return
        with self._lock:
            stream = self._streams.get(packet.arg1)
        if packet.command not in (WRTE, OKAY, CLSE):
            raise PacketError(f"{packet.command.decode()} on an open connection")
        if stream is None or packet.arg0 not in {stream.remote, 0}:
            if packet.command == WRTE:  # as adbd does for streams that have just ended
                self.send(Packet(CLSE, 0, packet.arg0))
        elif packet.command == WRTE:
            stream.deliver(packet.payload)
        elif packet.command == OKAY:
            stream.acknowledge()
        else:
            stream.close()

    def _open(self, packet: Packet) -> None:
        name = packet.payload.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
        service = self._opener(name) if len(packet.payload) <= _SERVICE_LIMIT else None
        with self._lock:
            if service is None or len(self._streams) >= _STREAMS_LIMIT or packet.arg0 == 0:
                stream = None
            else:
                stream = Stream(self, next(self._ids), packet.arg0)
                self._streams[stream.local] = stream
        if stream is None or service is None:
            self.send(Packet(CLSE, 0, packet.arg0))
            return
        self.send(Packet(OKAY, stream.local, stream.remote))
        thread = threading.Thread(target=self._serve, args=(stream, service), name=name[:40])
        with self._lock:
            self._threads.add(thread)
        thread.start()

    def _serve(self, stream: Stream, service: Service) -> None:
        try:
            service(stream)
        except StreamEndedError as error:
            _log.debug("stream %d: %s", stream.local, error)
        except OSError as error:
            _log.warning("stream %d: %s", stream.local, error)
        finally:
            stream.close()
            with self._lock:
                self._streams.pop(stream.local, None)
                self._threads.discard(threading.current_thread())

    def _receive(self) -> Packet:
        header = unpack_header(self._read(HEADER_SIZE), limit=self._limit)
        payload = self._read(header.length)
        self._check(header, payload)
        return Packet(header.command, header.arg0, header.arg1, payload)

    def _check(self, header: Header, payload: bytes) -> None:
        """Today's adbd looks at no checksum; the phones that the old version stands for do."""
        if self._version < VERSION_NO_CHECKSUMS and header.checksum != checksum(payload):
            raise PacketError(f"{header.command.decode()} with a wrong checksum")

    def _read(self, size: int) -> bytes:
        data = bytearray(size)
        view, filled = memoryview(data), 0
        while filled < size:
            count = self._sock.recv_into(view[filled:])
            if not count:
                raise ConnectionResetError("hung up")
            filled += count
        return bytes(data)
