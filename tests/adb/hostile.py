"""The phone's end of ADB connections, frame by frame: a double that can say anything, right or wrong.

A script gets one :class:`Peer` for each connection and does with it what it likes::

    def script(peer):
        peer.shake()
        stream = peer.accept_open()
        peer.send("WRTE", 1, stream.local, b"x" * 10, length=1 << 30)

    with Hostile(script) as phone:
        connection = DirectTransport(usb=False).connect(phone.serial, deadline)
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from devicelab.adb.packets import MAX_PAYLOAD, VERSION

FEATURES = "shell_v2,cmd,stat_v2,ls_v2"
WINDOWED = f"{FEATURES},delayed_ack"
CREDIT = 1 << 20  # bytes that the double lets the host send before any is acknowledged

_HEADER = struct.Struct("<6I")
_PATIENCE = 20.0  # seconds; a host that takes longer has hung


@dataclass(frozen=True)
class Frame:
    """One packet as it came from the host."""

    command: str
    arg0: int
    arg1: int
    payload: bytes
    checksum: int


@dataclass(frozen=True)
class Opened:
    """A stream that the host has opened."""

    local: int  # the host's id
    window: int  # bytes that the host grants; 0 without delayed_ack
    service: str


def header(
    command: str,
    arg0: int,
    arg1: int,
    payload: bytes = b"",
    *,
    length: int | None = None,
    checksum: int | None = None,
    magic: int | None = None,
) -> bytes:
    """24 bytes; what is not given is as it ought to be (the checksum is always right, if not asked for)."""
    number = int.from_bytes(command.encode("latin-1"), "little")
    return _HEADER.pack(
        number,
        arg0,
        arg1,
        len(payload) if length is None else length,
        sum(payload) & 0xFFFFFFFF if checksum is None else checksum,
        number ^ 0xFFFFFFFF if magic is None else magic,
    )


class Peer:
    """The phone's end of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(_PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.windowed = False

    def read(self) -> Frame:
        """The host's next packet; ConnectionError once it has hung up."""
        raw = self._exactly(_HEADER.size)
        number, arg0, arg1, length, checksum, magic = _HEADER.unpack(raw)
        assert magic == number ^ 0xFFFFFFFF, raw
        assert length <= MAX_PAYLOAD, raw
        return Frame(
            number.to_bytes(4, "little").decode("latin-1"), arg0, arg1, self._exactly(length), checksum
        )

    def read_until(self, command: str) -> Frame:
        """The host's next packet of one kind."""
        while (frame := self.read()).command != command:
            pass
        return frame

    def send(
        self,
        command: str,
        arg0: int = 0,
        arg1: int = 0,
        payload: bytes = b"",
        *,
        length: int | None = None,
        checksum: int | None = None,
        magic: int | None = None,
    ) -> None:
        """Send one packet; what is not given is as it ought to be."""
        self.sock.sendall(
            header(command, arg0, arg1, payload, length=length, checksum=checksum, magic=magic) + payload
        )

    def shake(
        self,
        features: str = WINDOWED,
        *,
        version: int = VERSION,
        max_payload: int = MAX_PAYLOAD,
        kind: str = "device",
        properties: str = "ro.product.model=Double;",
    ) -> Frame:
        """Read the host's CNXN and answer it; return the host's."""
        hello = self.read()
        assert hello.command == "CNXN", hello
        self.windowed = "delayed_ack" in features.split(",")
        self.send("CNXN", version, max_payload, f"{kind}::{properties}features={features}".encode())
        return hello

    def accept_open(self, remote: int = 1) -> Opened:
        """Wait until the host opens a stream and take it under the id ``remote``."""
        frame = self.read_until("OPEN")
        self.okay(remote, frame.arg0, CREDIT)
        return Opened(frame.arg0, frame.arg1, frame.payload.rstrip(b"\0").decode())

    def okay(self, remote: int, local: int, count: int) -> None:
        """Acknowledge, in the way that was agreed on."""
        self.send("OKAY", remote, local, struct.pack("<i", count) if self.windowed else b"")

    def linger(self, seconds: float = _PATIENCE) -> None:
        """Say nothing until the host hangs up; what it sends is dropped."""
        self.sock.settimeout(seconds)
        while self.sock.recv(65536):
            pass

    @contextlib.contextmanager
    def reading_aside(self) -> Iterator[None]:
        """Meanwhile another thread reads what the host sends, and drops it."""

        def drop() -> None:
            with contextlib.suppress(OSError):  # the host hung up
                self.linger()

        reader = threading.Thread(target=drop, daemon=True)
        reader.start()
        try:
            yield
        finally:
            reader.join(_PATIENCE)

    def stop_reading(self, seconds: float = _PATIENCE) -> None:
        """Say nothing and read nothing until the host hangs up."""
        poller = select.poll()
        poller.register(self.sock, select.POLLRDHUP | select.POLLHUP)
        poller.poll(seconds * 1000)

    def reset(self) -> None:
        """Hang up rudely: the host gets a reset, not an end."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = self.sock.recv(size - len(data))
            if not part:
                raise ConnectionResetError("the host hung up")
            data += part
        return bytes(data)


class Hostile:
    """Listens on 127.0.0.1 and runs a script on each connection, in a thread of its own.

    A script may end with the connection (OSError); any other exception fails the test on leaving the context.
    """

    def __init__(self, script: Callable[[Peer], None]) -> None:
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.serial = f"127.0.0.1:{self.port}"
        self.failures: list[BaseException] = []
        self.connections = 0
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._acceptor = threading.Thread(target=self._accept, name=f"phone {self.port}", daemon=True)

    def __enter__(self) -> Self:
        self._acceptor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(_PATIENCE)
        self._listener.close()
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(_PATIENCE)
            assert not thread.is_alive(), "a script hangs"
        for sock in self._sockets:
            sock.close()
        if error is None and self.failures:
            raise self.failures[0]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._sockets.append(sock)
            thread = threading.Thread(target=self._run, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self, sock: socket.socket) -> None:
        try:
            self._script(Peer(sock))
        except OSError:
            pass  # the host hung up, which is what most scripts provoke
        except BaseException as failure:  # noqa: BLE001  # reported by __exit__
            self.failures.append(failure)
        finally:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
