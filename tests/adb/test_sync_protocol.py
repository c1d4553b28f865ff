"""The file service's bytes, apart from any stream."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from devicelab.adb.malformed import MalformedError
from devicelab.adb.sync_protocol import (
    DATA_LIMIT,
    DataDecoder,
    DataFrames,
    FileStat,
    check_name,
    encode_done,
    encode_request,
    parse_entry_v1,
    parse_entry_v2,
    parse_stat_v1,
    parse_stat_v2,
    wire_error,
)
from tests.adb.scripted import cut

DONE = b"DONE\0\0\0\0"


def data(content: bytes) -> bytes:
    return struct.pack("<4sI", b"DATA", len(content)) + content


# --- requests and answers ---


def test_requests() -> None:
    assert encode_request(b"STAT", "/data/ü") == b"STAT\x08\0\0\0/data/\xc3\xbc"
    assert encode_request(b"SEND", "/a", ",33188") == b"SEND\x08\0\0\0/a,33188"
    assert encode_done(1) == b"DONE\1\0\0\0"
    assert encode_done(1 << 32 | 5) == b"DONE\5\0\0\0"
    assert encode_request(b"STAT", "/" + "x" * 1023)[8:] == b"/" + b"x" * 1023


@pytest.mark.parametrize("path", ["", "/a\0b", "/" + "x" * 1024, "/" + "ü" * 512])
def test_what_is_no_path(path: str) -> None:
    with pytest.raises(ValueError, match="is no path on a phone"):
        encode_request(b"STAT", path)


def test_stat_v1() -> None:
    assert parse_stat_v1(struct.pack("<III", 0o100644, 7, 9)) == FileStat(0o100644, 7, 9)
    assert FileStat(0o100644, 7, 9).is_file
    assert FileStat(0o040771, 7, 9).is_directory
    assert not FileStat(0o120777, 7, 9).is_file
    assert parse_entry_v1(struct.pack("<IIII", 0o100600, 7, 9, 3)) == (FileStat(0o100600, 7, 9), 3)


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(-(2**63), 2**63 - 1),
)
@settings(max_examples=300)
def test_stat_v2(error: int, mode: int, size: int, mtime: int) -> None:
    body = struct.pack("<IQQIIIIQqqq", error, 1, 2, mode, 3, 4, 5, size, 6, mtime, 7)
    assert parse_stat_v2(body) == (error, FileStat(mode, size, mtime))
    assert parse_entry_v2(body + b"\x05\0\0\0") == (FileStat(mode, size, mtime), 5)


def test_errors_of_the_phone_in_words() -> None:
    assert wire_error(13) == "Permission denied"
    assert wire_error(99999) == "error 99999"


@pytest.mark.parametrize(
    "raw", [b"", b".", b"..", b"../../x", b"/abs", b"a/b", b"a\0b", b"a\nb", b"a\rb", b"x" * 256, b"/"]
)
def test_names_that_no_directory_holds(raw: bytes) -> None:
    with pytest.raises(MalformedError, match="the file name"):
        check_name(raw)


@given(st.binary(max_size=300))
@example(b"...")
@example(b"-rf")
@settings(max_examples=600)
def test_a_name_that_passes_stays_in_its_directory(raw: bytes) -> None:
    with contextlib.suppress(MalformedError):
        name = check_name(raw)
        assert name.encode("utf-8", "surrogateescape") == raw
        assert name not in (".", "..", "")
        assert not set(name) & set("/\0\n\r")


# --- contents ---


@given(
    st.lists(st.integers(0, 300), max_size=8),
    st.lists(st.integers(1, 90), min_size=1, max_size=8),
    st.binary(max_size=20),
)
@settings(max_examples=800)
def test_contents_come_out_as_they_went_in(sizes: list[int], cuts: list[int], rest: bytes) -> None:
    contents = [bytes((n + k) % 251 for k in range(size)) for n, size in enumerate(sizes)]
    decoder = DataDecoder()
    got = bytearray()
    for piece in cut(b"".join(map(data, contents)) + DONE, cuts):
        assert not decoder.ended
        for view in decoder.feed(piece):
            got += view
    assert decoder.done
    assert decoder.failure is None
    assert got == b"".join(contents)
    assert decoder.rest == b""
    assert decoder.feed(rest) == []
    assert decoder.rest == rest


@given(st.text(max_size=50), st.binary(max_size=50), st.lists(st.integers(1, 20), min_size=1, max_size=5))
@settings(max_examples=500)
def test_a_failure_comes_out_with_its_words(reason: str, before: bytes, cuts: list[int]) -> None:
    text = reason.encode("utf-8", "replace")
    decoder = DataDecoder()
    for piece in cut(data(before) + struct.pack("<4sI", b"FAIL", len(text)) + text + b"after", cuts):
        decoder.feed(piece)
    assert decoder.failure == text.decode()
    assert decoder.ended
    assert not decoder.done


@given(
    st.sampled_from([b"", data(b"some"), b"FAIL\2\0\0\0", DONE]),
    st.binary(max_size=120),
    st.lists(st.integers(1, 30), min_size=1, max_size=5),
)
@settings(max_examples=800)
def test_garbage_is_decoded_or_refused_and_not_gathered(begin: bytes, garbage: bytes, cuts: list[int]) -> None:
    decoder = DataDecoder()
    with contextlib.suppress(MalformedError):
        for piece in cut(begin + garbage, cuts):
            assert sum(map(len, decoder.feed(piece))) <= len(piece)
            assert len(decoder._header) < 8


@pytest.mark.parametrize(
    ("wire", "words"),
    [
        (struct.pack("<4sI", b"DATA", DATA_LIMIT + 1), "b'DATA' with a length of 65537"),
        (struct.pack("<4sI", b"DATA", 0xFFFFFFFF), "a length of 4294967295"),
        (struct.pack("<4sI", b"FAIL", 0xFFFFFFFF), "b'FAIL' with a length of 4294967295"),
        (b"OKAY\0\0\0\0", "b'OKAY'"),
    ],
)
def test_limits(wire: bytes, words: str) -> None:
    with pytest.raises(MalformedError, match=words):
        DataDecoder().feed(wire)


@given(st.integers(1, 3), st.integers(0, 3 * DATA_LIMIT), st.integers(0, 3 * DATA_LIMIT))
@settings(max_examples=150)
def test_frames_are_reused_without_a_trace_of_before(count: int, first: int, second: int) -> None:
    frames = DataFrames(count)
    first, second = min(first, frames.room), min(second, frames.room)
    frames.fill(b"\xaa" * first)
    content = (b"0123456789abcdef" * (frames.room // 16))[:second]
    wire = bytes(frames.fill(content))
    expected = [content[start : start + DATA_LIMIT] for start in range(0, second, DATA_LIMIT)]
    assert wire == b"".join(map(data, expected))
    assert b"".join(frames.content(second)) == content
    assert bytes(frames.framed(second)) == wire
