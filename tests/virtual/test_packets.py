"""The packet codec: what is packed is read back, and nothing else is taken for a packet."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devicelab.virtual.packets import (
    AUTH,
    CLSE,
    CNXN,
    HEADER_SIZE,
    OKAY,
    OPEN,
    STLS,
    SYNC,
    WRTE,
    Packet,
    PacketError,
    checksum,
    limit_connect,
    pack,
    unpack_header,
)

words = st.integers(0, 2**32 - 1)
commands = st.sampled_from([CNXN, AUTH, OPEN, OKAY, WRTE, CLSE, STLS, SYNC])
packets = st.builds(Packet, commands, words, words, st.binary(max_size=600))


@settings(max_examples=500)
@given(packets, st.booleans())
def test_a_packet_survives_the_wire(packet: Packet, with_checksum: bool) -> None:
    data = pack(packet, with_checksum=with_checksum)
    header = unpack_header(data[:HEADER_SIZE], limit=600)
    assert Packet(header.command, header.arg0, header.arg1, data[HEADER_SIZE:]) == packet
    assert header.length == len(packet.payload)
    assert header.checksum == (checksum(packet.payload) if with_checksum else 0)


@settings(max_examples=1000)
@given(st.binary(min_size=HEADER_SIZE, max_size=HEADER_SIZE), words)
def test_random_bytes_are_refused_or_consistent(data: bytes, limit: int) -> None:
    try:
        header = unpack_header(data, limit=limit)
    except PacketError:
        return
    assert header.length <= limit
    assert pack(Packet(header.command, header.arg0, header.arg1))[:12] == data[:12]


@settings(max_examples=500)
@given(packets, st.integers(0, HEADER_SIZE * 8 - 1))
def test_a_flipped_bit_in_command_or_magic_is_refused(packet: Packet, bit: int) -> None:
    data = bytearray(pack(packet)[:HEADER_SIZE])
    data[bit // 8] ^= 1 << (bit % 8)
    if 4 <= bit // 8 < 20:
        return  # arguments, length and checksum have no redundancy
    with pytest.raises(PacketError):
        unpack_header(bytes(data), limit=600)


def test_a_length_beyond_the_limit_is_refused_before_anything_is_read() -> None:
    header = pack(Packet(WRTE, 1, 2, b"x" * 4097))[:HEADER_SIZE]
    assert unpack_header(header, limit=4097).length == 4097
    with pytest.raises(PacketError, match="4097 bytes of payload, 4096 allowed"):
        unpack_header(header, limit=4096)


def test_the_wire_form_is_adbs_own() -> None:
    assert pack(Packet(CNXN, 0x01000001, 4096, b"host::")) == (
        bytes.fromhex("434e584e 01000001 00100000 06000000 32020000 bcb1a7b1") + b"host::"
    )


def test_checksum_is_the_sum_of_the_bytes() -> None:
    assert checksum(b"\xff\x01") == 256
    assert checksum(b"\xff" * 1000) == 255_000


@given(words, words, words, words)
def test_connect_is_only_ever_lowered(version: int, payload: int, low: int, small: int) -> None:
    packet = Packet(CNXN, version, payload, b"device::")
    lowered = limit_connect(packet, version=low, max_payload=small)
    assert (lowered.arg0, lowered.arg1) == (min(version, low), min(payload, small))
    assert lowered.payload == packet.payload
    assert limit_connect(packet, version=None, max_payload=None) == packet
