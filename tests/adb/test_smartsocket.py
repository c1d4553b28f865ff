"""The adb server's text protocol, apart from any server and against servers that lie, stall and hang up."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devicelab.adb.malformed import MalformedError
from devicelab.adb.program import ServerAddress
from devicelab.adb.smartsocket import (
    BlockDecoder,
    RefusedError,
    SmartSocket,
    encode_request,
    parse_length,
    parse_server_status,
    query,
)
from devicelab.deadline import Deadline
from devicelab.errors import AdbUnavailableError, ConfigError, DeadlineError
from tests.adb.scripted import cut
from tests.adb.smartserver import SmartServer, fail, okay, silence


def _soon() -> Deadline:
    return Deadline("test", 20)


def test_a_request_is_its_length_and_its_name() -> None:
    assert encode_request("host:version") == b"000chost:version"
    assert encode_request("sync:ü") == b"0007sync:\xc3\xbc"


def test_a_request_that_does_not_fit_is_ours_to_refuse() -> None:
    assert encode_request("x" * 65535).startswith(b"ffffxx")
    with pytest.raises(ConfigError, match="65536 bytes is too long"):
        encode_request("x" * 65536)


@given(st.binary(max_size=6))
@settings(max_examples=500)
def test_a_length_is_four_hex_digits_or_an_error(digits: bytes) -> None:
    try:
        assert 0 <= parse_length(digits) <= 0xFFFF
    except MalformedError:
        assert len(digits) != 4 or any(byte not in b"0123456789abcdefABCDEF" for byte in digits)
    else:
        assert digits.lower() == b"%04x" % parse_length(digits)


@given(st.lists(st.integers(0, 400), max_size=8), st.lists(st.integers(1, 40), min_size=1, max_size=6))
@settings(max_examples=600)
def test_blocks_come_out_whole_however_they_are_cut(sizes: list[int], cuts: list[int]) -> None:
    blocks = [bytes((n + k) % 251 for k in range(size)) for n, size in enumerate(sizes)]
    wire = b"".join(b"%04x%b" % (len(block), block) for block in blocks)
    decoder = BlockDecoder()
    assert [block for piece in cut(wire, cuts) for block in decoder.feed(piece)] == blocks


@given(st.lists(st.binary(max_size=50)))
@settings(max_examples=500)
def test_garbage_is_held_up_or_refused_but_never_gathered(pieces: list[bytes]) -> None:
    decoder = BlockDecoder()
    try:
        for piece in pieces:
            decoder.feed(piece)
    except MalformedError:
        pass
    else:
        assert len(decoder._buffer) <= 4 + 0xFFFF


def test_the_status_of_a_server_tells_its_release() -> None:
    build = b"\x32\x0813206524"
    assert parse_server_status(b"\x08\x02\x18\x02\x2a\x0636.0.0" + build) == "36.0.0"
    assert parse_server_status(b"\x08\xff\xff\x03\x2a\x0537.01") == "37.01"
    assert parse_server_status(build) == ""
    assert parse_server_status(b"") == ""


@given(st.binary(max_size=200))
@settings(max_examples=600)
def test_a_status_is_never_trusted_to_be_one(message: bytes) -> None:
    assert isinstance(parse_server_status(message), str)


def test_a_query_takes_the_block_and_the_reason() -> None:
    with SmartServer({"host:version": okay("0029"), "host:x": fail("no such thing")}) as server:
        assert query(server.address, "host:version", _soon()) == b"0029"
        with pytest.raises(RefusedError, match=r"^no such thing$"):
            query(server.address, "host:x", _soon())
    assert server.requests == ["host:version", "host:x"]


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "no adb server: b'HTTP' is neither OKAY nor FAIL"),
        (b"OKAYzzzz", "no adb server: b'zzzz' is not a length"),
        (b"FAIL-001x", "no adb server: b'-001' is not a length"),
        (b"OK", "went away during `host:version`: it hung up"),
        (b"OKAY0010short", "went away during `host:version`: it hung up"),
    ],
)
def test_what_is_no_adb_server_is_called_so(reply: bytes, words: str) -> None:
    with (
        SmartServer({"host:version": reply}) as server,
        pytest.raises(AdbUnavailableError, match=words) as caught,
    ):
        query(server.address, "host:version", _soon())
    assert str(server.address) in str(caught.value)


def test_a_silent_server_costs_the_deadline_and_no_more() -> None:
    with SmartServer({"host:version": silence()}) as server:
        begin = time.monotonic()
        with pytest.raises(DeadlineError, match=r"^version: no end within 0\.2 s$"):
            query(server.address, "host:version", Deadline("version", 0.2))
        assert time.monotonic() - begin < 10


def test_nobody_at_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = ServerAddress("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(AdbUnavailableError, match=r"no adb server answers on 127\.0\.0\.1:") as caught:
        query(address, "host:version", _soon())
    assert caught.value.hint == "adb start-server"


def test_a_server_on_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "adb")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(100) == b"000chost:version"
                connection.sendall(okay("0029"))

        thread = threading.Thread(target=serve)
        thread.start()
        assert query(ServerAddress(path=path), "host:version", _soon()) == b"0029"
        thread.join()


def test_a_missing_unix_socket(tmp_path: Path) -> None:
    with pytest.raises(AdbUnavailableError, match="No such file or directory"):
        SmartSocket(ServerAddress(path=str(tmp_path / "adb")), _soon())
