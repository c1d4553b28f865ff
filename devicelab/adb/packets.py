"""ADB's packets as bytes: headers, checksums, banners, and the limits that every packet from a phone must keep.

Pure functions, no input or output. The format is AOSP's ``packages/modules/adb/protocol.txt``: a header of six
little-endian 32-bit words (command, two arguments, payload length, checksum of the payload, command with all
bits flipped), then the payload. Numbers come from :mod:`adb_shell.constants` where it has them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import NamedTuple

from adb_shell import constants

from devicelab.errors import ProtocolError

__all__ = [
    "DELAYED_ACK",
    "HEADER_SIZE",
    "HOST_FEATURES",
    "MAX_PAYLOAD",
    "MAX_PAYLOAD_V1",
    "VERSION",
    "VERSION_MIN",
    "Auth",
    "Banner",
    "Buffer",
    "Command",
    "Header",
    "check_payload",
    "checksum",
    "host_banner",
    "pack_header",
    "parse_banner",
    "parse_header",
]

Buffer = bytes | bytearray | memoryview

VERSION_MIN: int = constants.VERSION
"""The first protocol version, 0x01000000: every payload carries a checksum."""

VERSION = 0x01000001
"""The version we speak: checksums are neither made nor looked at (Android 9 and newer)."""

MAX_PAYLOAD: int = constants.MAX_ADB_DATA
"""Largest payload in bytes that we take, and the largest any known adbd takes."""

MAX_PAYLOAD_V1: int = constants.MAX_LEGACY_ADB_DATA
"""Largest payload of the oldest phones, and of every packet before both ends know each other."""

DELAYED_ACK = "delayed_ack"
"""Feature: several WRTE may be under way on a stream at a time (AOSP, ``docs/dev/delayed_ack.md``)."""

HOST_FEATURES = frozenset(
    {
        "shell_v2",
        "cmd",
        "stat_v2",
        "ls_v2",
        "fixed_push_mkdir",
        "fixed_push_symlink_timestamp",
        "apex",
        "sendrecv_v2",
        "sendrecv_v2_brotli",
        "sendrecv_v2_lz4",
        "sendrecv_v2_zstd",
        DELAYED_ACK,
    }
)
"""What this host can use; a feature counts only where the phone announces it too."""

_HEADER = struct.Struct(constants.MESSAGE_FORMAT)
HEADER_SIZE: int = constants.MESSAGE_SIZE

_SMALL = 512  # bytes; up to here summing in Python beats the way into numpy and back


class Command(IntEnum):
    """What a packet is for (``A_…`` in AOSP's adb.h)."""

    SYNC = constants.ID_TO_WIRE[constants.SYNC]
    CNXN = constants.ID_TO_WIRE[constants.CNXN]
    OPEN = constants.ID_TO_WIRE[constants.OPEN]
    OKAY = constants.ID_TO_WIRE[constants.OKAY]
    CLSE = constants.ID_TO_WIRE[constants.CLSE]
    WRTE = constants.ID_TO_WIRE[constants.WRTE]
    AUTH = constants.ID_TO_WIRE[constants.AUTH]
    STLS = int.from_bytes(b"STLS", "little")


class Auth(IntEnum):
    """The first argument of an AUTH packet."""

    TOKEN = constants.AUTH_TOKEN
    SIGNATURE = constants.AUTH_SIGNATURE
    PUBLIC_KEY = constants.AUTH_RSAPUBLICKEY


_COMMANDS: dict[int, Command] = {int(command): command for command in Command}


class Header(NamedTuple):
    """One packet's header, checked.

    Attributes:
        command: What the packet is for.
        arg0: The sender's stream id, or what the command says.
        arg1: The receiver's stream id, or what the command says.
        length: Bytes of payload that follow, at most :data:`MAX_PAYLOAD`.
        checksum: Sum of the payload's bytes modulo 2**32; 0 where the version has none.
    """

    command: Command
    arg0: int
    arg1: int
    length: int
    checksum: int


def checksum(payload: Buffer) -> int:
    """The sum of all bytes modulo 2**32 (adb_shell's own takes 5 ms for each MB, this 0.14)."""
    if len(payload) <= _SMALL:
        return sum(payload)
    # Phones since Android 9 do without checksums, so most commands never pay for loading numpy.
    import numpy as np  # noqa: PLC0415

    return int(np.frombuffer(payload, np.uint8).sum(dtype=np.uint64)) & 0xFFFFFFFF


def pack_header(command: Command, arg0: int, arg1: int, length: int = 0, total: int = 0) -> bytes:
    """The 24 bytes that announce a payload of ``length`` bytes whose checksum is ``total``."""
    return _HEADER.pack(command, arg0, arg1, length, total, command ^ 0xFFFFFFFF)


def parse_header(raw: Buffer, device: str) -> Header:
    """Read and check 24 bytes.

    Raises:
        ProtocolError: The magic is wrong, the command unknown, or the payload longer than we ever allowed.
    """
    number, arg0, arg1, length, total, magic = _HEADER.unpack(raw)
    command = _COMMANDS.get(number)
    if command is None or magic != number ^ 0xFFFFFFFF:
        raise ProtocolError(
            f"sent {bytes(raw[:8]).hex(' ')} … where an ADB packet must begin",
            device=device,
            hint="What listens there may not be an adbd at all, or its stream is out of step: reconnect.",
        )
    if length > MAX_PAYLOAD:
        raise ProtocolError(
            f"announced a {command.name} payload of {length} bytes, more than the {MAX_PAYLOAD} allowed",
            device=device,
        )
    return Header(command, arg0, arg1, length, total)


def check_payload(header: Header, payload: Buffer, device: str) -> None:
    """Compare a payload with its header's checksum.

    Raises:
        ProtocolError: They differ.
    """
    found = checksum(payload)
    if found != header.checksum:
        raise ProtocolError(
            f"sent a {header.command.name} payload of {header.length} bytes with checksum {found:#x}, "
            f"not {header.checksum:#x} as announced",
            device=device,
            hint="The cable or the hub damages data: try another one.",
        )


@dataclass(frozen=True, slots=True)
class Banner:
    """What a phone says of itself when it accepts a connection.

    Attributes:
        kind: ``device``, ``recovery``, ``sideload``, ``rescue``, ``bootloader``, or what else it said.
        properties: ``ro.product.name``, ``ro.product.model``, ``ro.product.device`` where given; printable.
        features: Everything it announced, whether or not this host knows it.
    """

    kind: str
    properties: Mapping[str, str]
    features: frozenset[str]


def host_banner() -> bytes:
    """What we say of ourselves: no trailing NUL, which adbd would take as part of the last feature's name."""
    return b"host::features=" + ",".join(sorted(HOST_FEATURES)).encode()


def parse_banner(payload: Buffer, device: str) -> Banner:
    """Read a banner: ``device::ro.product.model=Pixel 7;…;features=shell_v2,cmd``.

    Taken apart exactly as the adb server does (``parse_banner`` in AOSP's adb.cpp): between the second and the
    third colon, separated by semicolons, one equals sign each; what does not fit is passed over.

    Raises:
        ProtocolError: It is longer than a banner may be.
    """
    if len(payload) > MAX_PAYLOAD_V1:
        raise ProtocolError(
            f"sent a connection banner of {len(payload)} bytes, more than the {MAX_PAYLOAD_V1} allowed",
            device=device,
        )
    pieces = bytes(payload).rstrip(b"\0").decode("utf-8", "replace").split(":")
    properties: dict[str, str] = {}
    for entry in pieces[2].split(";") if len(pieces) > 2 else ():
        key, equals, value = entry.partition("=")
        if key and equals and "=" not in value:
            properties[_printable(key)] = _printable(value)
    features = frozenset(filter(None, properties.pop("features", "").split(",")))
    return Banner(_printable(pieces[0]), MappingProxyType(properties), features)


def _printable(text: str) -> str:
    """Without control characters: a phone must not steer the terminal that shows its model."""
    return "".join(character for character in text if character.isprintable())
