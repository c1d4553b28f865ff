"""As much of an ADB host as it takes to look at a phone's own words: one stream at a time, no mercy."""

from __future__ import annotations

import socket
import struct
import time
from types import TracebackType
from typing import Self

from devicelab.virtual.packets import CLSE, CNXN, HEADER_SIZE, OKAY, OPEN, WRTE, Packet, pack, unpack_header

MAX = 1 << 20


class Wire:
    """A connection to a phone that lets everybody in."""

    def __init__(
        self, port: int, *, version: int = 0x01000001, max_payload: int = MAX, seconds: float = 30
    ) -> None:
        self._next = 1
        for pause in (0.05, 0.2, 0.5, None):  # see devicelab.adb.handshake.HungUpError
            self.sock = socket.create_connection(("127.0.0.1", port), seconds)
            try:
                self.send(Packet(CNXN, version, max_payload, b"host::features=shell_v2,cmd,stat_v2\0"))
                self.hello = self.receive()
                assert self.hello.command == CNXN, f"the phone answers CNXN with {self.hello.command.decode()}"
            except ConnectionError:
                self.close()
                if pause is None:
                    raise
                time.sleep(pause)
            except BaseException:
                self.close()
                raise
            else:
                break
        self.version, self.max_payload = self.hello.arg0, self.hello.arg1

    @property
    def banner(self) -> str:
        return self.hello.payload.rstrip(b"\0").decode()

    @property
    def features(self) -> list[str]:
        """As the adb client reads them: the third part between colons, cut at semicolons."""
        properties = self.banner.split(":")[2].split(";")
        return next(item for item in properties if item.startswith("features=")).partition("=")[2].split(",")

    def send(self, packet: Packet) -> None:
        self.sock.sendall(pack(packet))

    def receive(self) -> Packet:
        header = unpack_header(self._exactly(HEADER_SIZE), limit=MAX)
        return Packet(header.command, header.arg0, header.arg1, self._exactly(header.length))

    def call(self, service: str) -> bytes:
        """Everything that a service says until it closes."""
        local = self.send_open(service)
        said = bytearray()
        while True:
            packet = self.receive()
            if packet.arg1 != local:
                continue  # the end of an older stream
            if packet.command == WRTE:
                said += packet.payload
                self.send(Packet(OKAY, local, packet.arg0))
            elif packet.command == CLSE:
                return bytes(said)

    def send_open(self, service: str) -> int:
        """Ask for a service, without waiting for it."""
        local, self._next = self._next, self._next + 1
        self.send(Packet(OPEN, local, 0, service.encode() + b"\0"))
        return local

    def shell(self, command: str) -> str:
        """A command's output, standard error included where the phone has no shell v2."""
        if "shell_v2" not in self.features:
            return self.call(f"shell:{command}").decode().replace("\r\n", "\n")
        frames = self.call(f"shell,v2,raw:{command}")
        said = bytearray()
        while frames:
            kind, size = struct.unpack_from("<BI", frames)
            if kind in (1, 2):
                said += frames[5 : 5 + size]
            frames = frames[5 + size :]
        return said.decode()

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = self.sock.recv(size - len(data))
            if not part:
                raise ConnectionResetError("the phone hung up")
            data += part
        return bytes(data)

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def shell(port: int, command: str) -> str:
    """One command on a fresh connection."""
    with Wire(port) as wire:
        return wire.shell(command)
