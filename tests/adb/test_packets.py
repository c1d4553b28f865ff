"""The packet codec: against adb_shell's own as an oracle, and against anything a phone may send."""

from __future__ import annotations

import struct

import pytest
from adb_shell import constants
from adb_shell.adb_message import AdbMessage
from adb_shell.adb_message import checksum as stock_checksum
from hypothesis import example, given, settings
from hypothesis import strategies as st

from devicelab.adb import packets
from devicelab.adb.packets import Command
from devicelab.errors import ProtocolError

words = st.integers(0, 0xFFFFFFFF)
commands = st.sampled_from(list(Command))
stock_commands = st.sampled_from(constants.IDS)


@settings(max_examples=500)
@given(stock_commands, words, words, st.binary(max_size=2000))
def test_headers_are_those_of_adb_shell(name: bytes, arg0: int, arg1: int, payload: bytes) -> None:
    command = Command[name.decode()]
    ours = packets.pack_header(command, arg0, arg1, len(payload), packets.checksum(payload))
    assert ours == AdbMessage(name, arg0, arg1, payload).pack()


@settings(max_examples=500)
@given(commands, words, words, st.integers(0, packets.MAX_PAYLOAD), words)
def test_a_packed_header_is_read_back(command: Command, arg0: int, arg1: int, length: int, total: int) -> None:
    raw = packets.pack_header(command, arg0, arg1, length, total)
    assert packets.parse_header(raw, "X") == (command, arg0, arg1, length, total)


@settings(max_examples=1500)
@given(st.binary(min_size=24, max_size=24))
@example(struct.pack("<6I", 0x4E584E43, 0, 0, 1 << 31, 0, 0x4E584E43 ^ 0xFFFFFFFF))
def test_any_24_bytes_are_a_header_or_a_protocol_error(raw: bytes) -> None:
    try:
        header = packets.parse_header(raw, "X")
    except ProtocolError as error:
        assert error.device == "X"  # noqa: PT017  # either outcome is right; this one must name the phone
    else:
        assert header.length <= packets.MAX_PAYLOAD
        assert packets.pack_header(*header) == raw


@settings(max_examples=500)
@given(commands, words, words, st.sampled_from([*range(32), *range(160, 192)]))
def test_a_flipped_bit_in_command_or_magic_is_noticed(command: Command, arg0: int, arg1: int, bit: int) -> None:
    raw = bytearray(packets.pack_header(command, arg0, arg1, 5, 6))
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ProtocolError, match="where an ADB packet must begin"):
        packets.parse_header(bytes(raw), "X")


@given(commands, st.integers(packets.MAX_PAYLOAD + 1, 0xFFFFFFFF))
def test_a_payload_beyond_the_limit_is_refused_before_it_is_read(command: Command, length: int) -> None:
    raw = packets.pack_header(command, 1, 1, length)
    with pytest.raises(ProtocolError, match=f"{length} bytes"):
        packets.parse_header(raw, "X")


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 4096, 1 << 20])
@pytest.mark.parametrize("byte", [0, 1, 255])
def test_checksums_are_those_of_adb_shell(size: int, byte: int) -> None:
    data = bytes([byte]) * size
    for buffer in (data, bytearray(data), memoryview(data)):
        assert packets.checksum(buffer) == stock_checksum(data) == byte * size


@settings(max_examples=200)
@given(st.binary(max_size=3000))
def test_checksums_of_any_data(data: bytes) -> None:
    assert packets.checksum(data) == sum(data)


def test_checksums_do_not_walk_through_the_payload_in_python() -> None:
    """Defect 7 of adb_shell 0.4.4: ``sum(data)`` over every payload halves throughput.

    Not timed but counted: a buffer that refuses to be walked through is still summed up.
    """

    class Unwalkable(bytes):
        def __iter__(self) -> object:  # type: ignore[override]  # that is the point
            raise AssertionError("walked through in Python")

    data = Unwalkable(b"\x01" * 100_000)
    assert packets.checksum(data) == 100_000
    with pytest.raises(AssertionError):
        stock_checksum(data)


def test_a_wrong_checksum_is_a_protocol_error() -> None:
    header = packets.parse_header(packets.pack_header(Command.WRTE, 1, 1, 3, 6), "X")
    packets.check_payload(header, b"\1\2\3", "X")
    with pytest.raises(ProtocolError, match="checksum 0x7, not 0x6"):
        packets.check_payload(header, b"\1\2\4", "X")


def test_the_host_banner_is_what_adbd_parses() -> None:
    banner = packets.host_banner()
    assert banner.startswith(b"host::features=")
    assert not banner.endswith(b"\0"), "adbd would take the NUL as part of the last feature's name"
    assert packets.parse_banner(banner, "X").features == packets.HOST_FEATURES
    assert len(banner) <= packets.MAX_PAYLOAD_V1


@pytest.mark.parametrize(
    ("raw", "kind", "properties", "features"),
    [
        (
            b"device::ro.product.name=panther;ro.product.model=Pixel 7;ro.product.device=panther;"
            b"features=shell_v2,cmd,delayed_ack",
            "device",
            {"ro.product.name": "panther", "ro.product.model": "Pixel 7", "ro.product.device": "panther"},
            {"shell_v2", "cmd", "delayed_ack"},
        ),
        # Before Android 7: a semicolon at the end, a NUL, no features.
        (
            b"device::ro.product.name=hammerhead;ro.product.model=Nexus 5;\0",
            "device",
            {"ro.product.name": "hammerhead", "ro.product.model": "Nexus 5"},
            set(),
        ),
        (b"device::", "device", {}, set()),
        (b"recovery:", "recovery", {}, set()),
        (b"sideload", "sideload", {}, set()),
        (b"", "", {}, set()),
        # adbd run with --device_banner says its own after ours; the adb server reads only the first, so do we.
        (
            b"device::ro.product.model=Mine;features=cmd::ro.product.model=Real;features=cmd,shell_v2",
            "device",
            {"ro.product.model": "Mine"},
            {"cmd"},
        ),
        # Two equals signs: passed over, as in adb. Nonsense: passed over.
        (b"device::a=b=c;=x;y;;ro.product.model=M", "device", {"ro.product.model": "M"}, set()),
        # A model that would clear the terminal and turn it red.
        (
            b"device::ro.product.model=\x1b[2J\x1b[31mEvil\x07\n;features=,cmd,",
            "device",
            {"ro.product.model": "[2J[31mEvil"},
            {"cmd"},
        ),
        (b"device::ro.product.model=\xff\xfe", "device", {"ro.product.model": "\ufffd\ufffd"}, set()),
    ],
)
def test_banners(raw: bytes, kind: str, properties: dict[str, str], features: set[str]) -> None:
    banner = packets.parse_banner(raw, "X")
    assert (banner.kind, dict(banner.properties), set(banner.features)) == (kind, properties, features)


@settings(max_examples=1000)
@given(st.one_of(st.binary(max_size=300), st.text(max_size=300).map(lambda text: b"device::" + text.encode())))
def test_any_banner_is_read_and_printable(raw: bytes) -> None:
    banner = packets.parse_banner(raw, "X")
    for text in (banner.kind, *banner.properties, *banner.properties.values(), *banner.features):
        assert text.isprintable()


def test_a_banner_beyond_the_limit_is_refused() -> None:
    packets.parse_banner(b"device::" + b"x" * 4088, "X")
    with pytest.raises(ProtocolError, match="banner of 4097 bytes"):
        packets.parse_banner(b"device::" + b"x" * 4089, "X")
