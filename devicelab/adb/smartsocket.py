"""The adb server's own protocol ("smart socket"): text requests on a local socket.

A request is four hex digits with the length of the service's name, and the name. The answer is ``OKAY``, or
``FAIL`` with four hex digits and that many bytes of reason. Some services add one block after OKAY, or many:
four hex digits and that many bytes. After ``host:transport:SERIAL`` the socket belongs to one phone, and after
the next service it is the raw byte pipe to it. Source: ``packages/modules/adb/SERVICES.TXT`` of AOSP.

The codec knows nothing of sockets; :class:`SmartSocket` is the one that talks.
"""

from __future__ import annotations

import re
import socket

from devicelab.adb.malformed import MalformedError
from devicelab.adb.program import ServerAddress
from devicelab.adb.sockets import DeadlineSocket
from devicelab.closing import Closing
from devicelab.deadline import Deadline
from devicelab.errors import AdbUnavailableError, ConfigError

__all__ = [
    "BlockDecoder",
    "RefusedError",
    "SmartSocket",
    "encode_request",
    "parse_length",
    "parse_server_status",
    "query",
]

REQUEST_LIMIT = 0xFFFF  # four hex digits
_HEX = re.compile(rb"[0-9a-fA-F]{4}")


class RefusedError(Exception):
    """The server answered FAIL; the reason is its only argument. Always turned into a DevicelabError."""


def encode_request(service: str) -> bytes:
    """The bytes that ask for ``service``.

    Raises:
        ConfigError: It is too long for the protocol (65,535 bytes).
    """
    name = service.encode("utf-8", "surrogateescape")
    if len(name) > REQUEST_LIMIT:
        raise ConfigError(
            f"an adb request of {len(name)} bytes is too long (at most {REQUEST_LIMIT})",
            hint="push long scripts and arguments as a file",
        )
    return b"%04x%b" % (len(name), name)


def parse_length(digits: bytes) -> int:
    """Read four hex digits.

    Raises:
        MalformedError: They are something else.
    """
    if not _HEX.fullmatch(digits):
        raise MalformedError(f"{digits!r} is not a length")
    return int(digits, 16)


class BlockDecoder:
    """Cuts a byte stream into length-prefixed blocks; never holds more than one block (64 KiB) and a read."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Add what was read; returns the blocks that are complete now.

        Raises:
            MalformedError: A length is no hex number.
        """
        self._buffer += data
        blocks = []
        while len(self._buffer) >= 4:
            end = 4 + parse_length(bytes(self._buffer[:4]))
            if len(self._buffer) < end:
                break
            blocks.append(bytes(self._buffer[4:end]))
            del self._buffer[:end]
        return blocks


def parse_server_status(message: bytes) -> str:
    """The release in a ``host:server-status`` answer ("36.0.0"), or "" where it holds none.

    It is a protocol buffer (``AdbServerStatus`` in ``proto/adb_host.proto``), whose field 5 is the version.
    """
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        kind = tag & 7
        if kind == 0:
            _, position = _varint(message, position)
        elif kind == 2:
            length, position = _varint(message, position)
            if tag >> 3 == 5:
                return message[position : position + length].decode("ascii", "replace")
            position += length
        else:
            break  # a later adb says more than we know to skip
    return ""


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(message) and shift < 64:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    return value, position


class SmartSocket(Closing):
    """One connection to the adb server.

    Every method raises :class:`AdbUnavailableError` where the server is not there, goes away or is no adb
    server, and :class:`DeadlineError` where it stays silent.

    Args:
        address: Where the server listens.
        deadline: For connecting.
    """

    def __init__(self, address: ServerAddress, deadline: Deadline) -> None:
        self.address = address
        try:
            self.socket = DeadlineSocket(_connect(address, deadline))
        except TimeoutError:
            raise deadline.error() from None
        except OSError as error:
            raise AdbUnavailableError(
                f"no adb server answers on {address}: {error.strerror or error}", hint="adb start-server"
            ) from error

    def request(self, service: str, deadline: Deadline) -> None:
        """Ask for a service and take the OKAY.

        Raises:
            RefusedError: The server answered FAIL.
            ConfigError: The service's name is too long.
        """
        message = encode_request(service)
        try:
            self.socket.send(message, deadline)
            status = self._exactly(4, deadline)
            if status == b"FAIL":
                raise RefusedError(self._block(deadline).decode("utf-8", "replace"))
            if status != b"OKAY":
                raise MalformedError(f"{status!r} is neither OKAY nor FAIL")
        except (OSError, MalformedError) as error:
            raise self._unavailable(service, error) from error

    def block(self, service: str, deadline: Deadline) -> bytes:
        """The block that follows a service's OKAY (``service`` is for the error message)."""
        try:
            return self._block(deadline)
        except (OSError, MalformedError) as error:
            raise self._unavailable(service, error) from error

    def close(self) -> None:
        """Hang up; may be called twice."""
        self.socket.close()

    def _block(self, deadline: Deadline) -> bytes:
        return self._exactly(parse_length(self._exactly(4, deadline)), deadline)

    def _exactly(self, count: int, deadline: Deadline) -> bytes:
        parts = []
        while count:
            part = self.socket.receive(count, deadline)
            if not part:
                raise ConnectionResetError("it hung up")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _unavailable(self, service: str, error: Exception) -> AdbUnavailableError:
        if isinstance(error, MalformedError):
            message = f"what answers on {self.address} is no adb server: {error}"
        else:
            message = f"the adb server on {self.address} went away during `{service[:80]}`: {error}"
        return AdbUnavailableError(message, hint="adb start-server")


def query(address: ServerAddress, service: str, deadline: Deadline) -> bytes:
    """Ask the server one thing, over a connection of its own: the block after OKAY.

    Raises:
        RefusedError: It answered FAIL.
        AdbUnavailableError: There is no adb server.
        DeadlineError: It stays silent.
    """
    with SmartSocket(address, deadline) as smart:
        smart.request(service, deadline)
        return smart.block(service, deadline)


def _connect(address: ServerAddress, deadline: Deadline) -> socket.socket:
    if address.path is None:
        return socket.create_connection((address.host, address.port), timeout=deadline.remaining())
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(deadline.remaining())
        sock.connect(address.path)
    except BaseException:
        sock.close()
        raise
    return sock
