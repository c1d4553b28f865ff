"""ADB's packets as the phone's side sees them: pure functions from bytes to values and back, no I/O.

A packet is a header of six little-endian 32-bit words and a payload (AOSP, ``modules/adb/protocol.txt``)::

    command   arg0   arg1   payload length   payload checksum   command ^ 0xffffffff

The checksum is the sum of the payload's bytes modulo 2**32. From version ``0x01000001`` on both ends leave it
zero.

:mod:`devicelab.adb.packets` is the computer's side, written separately: where virtual phones test it, no
mistake is shared by both ends.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

__all__ = [
    "AUTH",
    "AUTH_PUBLIC_KEY",
    "AUTH_SIGNATURE",
    "AUTH_TOKEN",
    "CLSE",
    "CNXN",
    "HANDSHAKE_LIMIT",
    "HEADER_SIZE",
    "MAX_PAYLOAD",
    "MIN_PAYLOAD",
    "OKAY",
    "OPEN",
    "STLS",
    "SYNC",
    "VERSION_CHECKSUMS",
    "VERSION_NO_CHECKSUMS",
    "WRTE",
    "Header",
    "Packet",
    "PacketError",
    "checksum",
    "limit_connect",
    "pack",
    "unpack_header",
]

CNXN, AUTH, OPEN, OKAY, WRTE, CLSE = b"CNXN", b"AUTH", b"OPEN", b"OKAY", b"WRTE", b"CLSE"
STLS, SYNC = b"STLS", b"SYNC"
_COMMANDS = frozenset({CNXN, AUTH, OPEN, OKAY, WRTE, CLSE, STLS, SYNC})

AUTH_TOKEN, AUTH_SIGNATURE, AUTH_PUBLIC_KEY = 1, 2, 3

VERSION_CHECKSUMS = 0x01000000
VERSION_NO_CHECKSUMS = 0x01000001

MIN_PAYLOAD = 4096  # what every ADB version can take
MAX_PAYLOAD = 1 << 20  # what adbd and adb offer since Android 9
HANDSHAKE_LIMIT = MIN_PAYLOAD  # neither end knows yet what the other takes, so CNXN and AUTH keep to this

HEADER_SIZE = 24
_HEADER = struct.Struct("<4s5I")
_WORD = 0xFFFFFFFF


class PacketError(ValueError):
    """The other end sent what ADB does not allow; its connection is only good for closing."""


@dataclass(frozen=True, slots=True)
class Header:
    """A packet's first 24 bytes, checked."""

    command: bytes
    arg0: int
    arg1: int
    length: int
    checksum: int


@dataclass(frozen=True, slots=True)
class Packet:
    """One whole packet."""

    command: bytes
    arg0: int
    arg1: int
    payload: bytes = b""


def checksum(payload: bytes | bytearray | memoryview) -> int:
    """The sum of the payload's bytes modulo 2**32."""
    return sum(payload) & _WORD


def pack(packet: Packet, *, with_checksum: bool = True) -> bytes:
    """A packet's bytes on the wire."""
    magic = int.from_bytes(packet.command, "little") ^ _WORD
    total = checksum(packet.payload) if with_checksum else 0
    head = _HEADER.pack(packet.command, packet.arg0, packet.arg1, len(packet.payload), total, magic)
    return head + packet.payload


def unpack_header(data: bytes, *, limit: int) -> Header:
    """Read a header and check it.

    Args:
        data: Exactly :data:`HEADER_SIZE` bytes.
        limit: The longest payload to accept.

    Raises:
        PacketError: An unknown command, a wrong magic or a longer payload.
    """
    command, arg0, arg1, length, total, magic = _HEADER.unpack(data)
    if command not in _COMMANDS or magic != int.from_bytes(command, "little") ^ _WORD:
        raise PacketError(f"not an ADB packet: {data[:4]!r}")
    if length > limit:
        raise PacketError(f"{command.decode()} with {length} bytes of payload, {limit} allowed")
    return Header(command, arg0, arg1, length, total)


def limit_connect(packet: Packet, *, version: int | None, max_payload: int | None) -> Packet:
    """Lower the protocol version and the payload size that a CNXN packet offers; None leaves one as it is."""
    return replace(
        packet,
        arg0=packet.arg0 if version is None else min(packet.arg0, version),
        arg1=packet.arg1 if max_payload is None else min(packet.arg1, max_payload),
    )
