"""Compressed streams, cut anywhere, damaged, and far larger than they look."""

from __future__ import annotations

import contextlib
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devicelab.adb import compression
from devicelab.adb.compression import (
    METHODS,
    Compression,
    available,
    compressor,
    decompressor,
    flag,
    worth_compressing,
)
from devicelab.adb.malformed import MalformedError
from tests.measures import bounded

EVERYTHING = frozenset({"sendrecv_v2", *(f"sendrecv_v2_{method}" for method in METHODS)})
methods = pytest.mark.parametrize("method", METHODS)


def _pack(method: Compression, content: bytes, size: int = 100_000) -> bytes:
    stream = compressor(method)
    parts = [stream.feed(content[start : start + size]) for start in range(0, len(content), size)]
    return b"".join(parts) + stream.finish()


def test_the_flags_are_adbs() -> None:
    assert {method: flag(method) for method in ("none", *METHODS)} == {
        "none": 0,
        "brotli": 1,
        "lz4": 2,
        "zstd": 4,
    }


def test_a_method_needs_both_sides() -> None:
    assert available(EVERYTHING) == ["zstd", "lz4", "brotli"]
    assert available(frozenset({"sendrecv_v2", "sendrecv_v2_lz4", "sendrecv_v2_lzma"})) == ["lz4"]
    assert available(EVERYTHING - {"sendrecv_v2"}) == []
    assert available(frozenset({"sendrecv_v2"})) == []


def test_a_method_without_its_package_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    real = compression._module
    monkeypatch.setattr(compression, "_module", lambda method: None if method == "zstd" else real(method))
    assert available(EVERYTHING) == ["lz4", "brotli"]
    with pytest.raises(ValueError, match=r"pip install devicelab\[compression\]"):
        compressor("zstd")


@methods
@given(content=st.binary(max_size=2000), repeat=st.integers(0, 200), cuts=st.integers(1, 3000))
@settings(max_examples=150)
def test_any_content_survives_any_cut(method: Compression, content: bytes, repeat: int, cuts: int) -> None:
    content *= repeat
    packed = _pack(method, content, 777)
    got = bytearray()
    stream = decompressor(method, got.extend)
    for start in range(0, len(packed), cuts):
        stream.feed(memoryview(packed)[start : start + cuts])
    assert got == content


@methods
@given(garbage=st.binary(min_size=1, max_size=500), at=st.integers(0, 300))
@settings(max_examples=150)
def test_damage_is_found_or_decoded_but_raises_nothing_else(
    method: Compression, garbage: bytes, at: int
) -> None:
    good = _pack(method, b"some content " * 100)
    with contextlib.suppress(MalformedError):
        decompressor(method, lambda _piece: None).feed(good[:at] + garbage + good[at + len(garbage) :])


@methods
def test_damage_names_the_method(method: Compression) -> None:
    with pytest.raises(MalformedError, match=f"damaged {method} data"):
        decompressor(method, lambda _piece: None).feed(b"\xff\xfe no such thing at all, in any of the formats")


class CapError(Exception):
    """A sink has enough."""


@methods
def test_a_bomb_comes_in_pieces_and_stops_at_the_cap(method: Compression) -> None:
    stream = compressor(method)
    zeros = bytes(1 << 20)
    bomb = b"".join(stream.feed(zeros) for _ in range(256)) + stream.finish()
    assert len(bomb) < 2 << 20
    sizes: list[int] = []

    def sink(piece: bytes) -> None:
        sizes.append(len(piece))
        if sum(sizes) > 4 << 20:
            raise CapError

    with bounded(64), pytest.raises(CapError):
        decompressor(method, sink).feed(bomb)
    assert max(sizes) <= 4 << 20


def test_a_window_that_would_take_gigabytes_is_refused() -> None:
    # A zstd frame header (RFC 8878, 3.1.1.1): no flags, a window of 2**31 bytes, one empty last block.
    with pytest.raises(MalformedError, match="damaged zstd data"):
        decompressor("zstd", lambda _piece: None).feed(b"\x28\xb5\x2f\xfd\x00" + bytes([21 << 3]) + b"\x01\0\0")


@methods
def test_weights_are_not_worth_it_and_text_is(method: Compression) -> None:
    assert not worth_compressing(method, os.urandom(90_000))
    assert worth_compressing(method, b"userId,movieId,rating,timestamp\n" * 3000)
