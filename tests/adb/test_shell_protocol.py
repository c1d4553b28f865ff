"""Both shell protocols as codecs, and their command lines under a real shell."""

from __future__ import annotations

import contextlib
import os
import pty
import struct
import subprocess
import time
import tty
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from devicelab.adb.malformed import MalformedError
from devicelab.adb.shell_protocol import (
    Channel,
    Output,
    ShellDecoder,
    V1Decoder,
    V2Decoder,
    close_stdin_frame,
    end_group_command,
    parse_command,
    stdin_frames,
    v1_command,
    v2_command,
)
from tests.adb.scripted import cut

MARKER = "0123456789abcdef01234567"
WORDS = st.lists(
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20), min_size=1, max_size=5
)
CUTS = st.lists(st.integers(1, 30), min_size=1, max_size=6)


def frame(number: int, data: bytes) -> bytes:
    return struct.pack("<BI", number, len(data)) + data


def decode(decoder: ShellDecoder, pieces: list[bytes]) -> dict[Channel, bytes]:
    output: list[Output] = []
    for piece in pieces:
        output += decoder.feed(piece)
    return {channel: b"".join(data for where, data in output if where is channel) for channel in Channel}


# --- v2 ---


@given(
    st.integers(1, 9_999_999_999),
    st.lists(st.tuples(st.sampled_from(Channel), st.binary(max_size=200))),
    st.integers(0, 255),
    CUTS,
)
@settings(max_examples=500)
def test_v2_frames_come_out_as_they_went_in(pid: int, said: list[Output], code: int, cuts: list[int]) -> None:
    wire = (
        frame(1, b"%d\n" % pid)
        + b"".join(frame(channel, data) for channel, data in said)
        + frame(3, bytes([code]))
    )
    decoder = V2Decoder()
    got = decode(decoder, cut(wire, cuts))
    assert (decoder.pid, decoder.code) == (pid, code)
    assert got == {ch: b"".join(data for where, data in said if where is ch) for ch in Channel}


@given(st.lists(st.binary(min_size=1, max_size=80)))
@example([frame(1, b"12"), frame(1, b"34\nhello")])
@settings(max_examples=500)
def test_v2_garbage_is_decoded_or_refused(pieces: list[bytes]) -> None:
    decoder = V2Decoder()
    with contextlib.suppress(MalformedError):
        for piece in pieces:
            for channel, data in decoder.feed(piece):
                assert channel in (1, 2)
                assert data


@pytest.mark.parametrize(
    ("wire", "words"),
    [
        (frame(0, b"x"), "unknown id 0"),
        (frame(9, b""), "unknown id 9"),
        (struct.pack("<BI", 1, 0xFFFFFFFF), "of 4294967295 bytes"),
        (frame(3, b"\0\0"), r"\(id 3\) of 2 bytes"),
        (frame(3, b""), r"\(id 3\) of 0 bytes"),
        (frame(1, b"sh: hello\n"), "'sh: hello' is no process id"),
        (frame(1, b"0\n"), "'0' is no process id"),
        (frame(1, b"-4\n"), "no process id"),
        (frame(1, b"1" * 13), "not with its process id"),
    ],
)
def test_v2_says_what_is_wrong(wire: bytes, words: str) -> None:
    with pytest.raises(MalformedError, match=words):
        V2Decoder().feed(wire)


def test_v2_passes_a_large_frame_on_without_gathering_it() -> None:
    decoder = V2Decoder()
    decoder.feed(frame(1, b"7\n") + struct.pack("<BI", 1, 16 << 20))
    for _ in range(256):
        assert decoder.feed(bytes(65536)) == [(Channel.STDOUT, bytes(65536))]
    assert decoder.feed(frame(3, b"\0")) == []
    assert decoder.code == 0


def test_v2_says_nothing_after_the_exit_code() -> None:
    decoder = V2Decoder()
    assert decoder.feed(frame(1, b"7\n") + frame(3, b"\5") + frame(1, b"more") + b"\xff\xff") == []
    assert decoder.feed(b"garbage") == []
    assert decoder.code == 5


def test_standard_input_goes_out_in_frames_that_old_phones_can_hold() -> None:
    data = os.urandom(70_000)
    wire = stdin_frames(data)
    assert wire == frame(0, data[:32768]) + frame(0, data[32768:65536]) + frame(0, data[65536:])
    assert stdin_frames(b"") == b""
    assert close_stdin_frame() == b"\4\0\0\0\0"


# --- v1 ---


def v1_wire(pid: int, output: bytes, code: int, newline: bytes) -> bytes:
    plain = f"{MARKER}{pid}\n".encode() + output + f"{MARKER}{code}\n".encode()
    return plain.replace(b"\n", newline)


@given(
    st.integers(1, 9_999_999_999),
    st.binary(max_size=300)
    | st.lists(st.sampled_from([b"\r", b"\n", b"0", MARKER[:3].encode()])).map(b"".join),
    st.integers(0, 255),
    st.sampled_from([b"\n", b"\r\n"]),
    CUTS,
)
@settings(max_examples=500)
def test_v1_any_bytes_survive_a_terminal(
    pid: int, output: bytes, code: int, newline: bytes, cuts: list[int]
) -> None:
    assume(MARKER.encode() not in output)
    decoder = V1Decoder(MARKER)
    got = decode(decoder, cut(v1_wire(pid, output, code, newline), cuts))
    assert (decoder.pid, decoder.code) == (pid, code)
    assert got == {Channel.STDOUT: output, Channel.STDERR: b""}


@given(st.lists(st.binary(min_size=1, max_size=80) | st.just(MARKER.encode())))
@settings(max_examples=400)
def test_v1_garbage_is_decoded_or_refused_and_not_gathered(pieces: list[bytes]) -> None:
    decoder = V1Decoder(MARKER)
    with contextlib.suppress(MalformedError):
        for piece in pieces:
            decoder.feed(piece)
            assert len(decoder._buffer) <= 4096 + 200


def test_v1_what_the_linker_says_of_the_shell_is_passed_over() -> None:
    decoder = V1Decoder(MARKER)
    assert decoder.feed(b"WARNING: linker: libfoo.so has text relocations\r\n") == []
    assert decoder.feed(v1_wire(7, b"hi", 0, b"\r\n")) == [(Channel.STDOUT, b"hi")]


def test_v1_endless_talk_before_the_marker_is_refused() -> None:
    decoder = V1Decoder(MARKER)
    for _ in range(4096):
        decoder.feed(b"x")
    with pytest.raises(MalformedError, match="not with its marker"):
        decoder.feed(b"x")


def test_v1_output_without_newlines_is_passed_on_as_it_comes() -> None:
    decoder = V1Decoder(MARKER)
    decoder.feed(f"{MARKER}7\n".encode())
    for _ in range(100):
        assert decoder.feed(b"y" * 10_000) == [(Channel.STDOUT, b"y" * 10_000)]
    assert not decoder._buffer


@pytest.mark.parametrize(
    ("wire", "words"),
    [
        (f"{MARKER}x\n", "'x' is no process id"),
        (f"{MARKER}7\n{MARKER}x\n", "'x' is no exit code"),
        (f"{MARKER}7\n{MARKER}1000\n", "'1000' is no exit code"),
        (f"{MARKER}7\n{MARKER}{'1' * 40}", "after its marker the shell printed"),
    ],
)
def test_v1_says_what_is_wrong(wire: str, words: str) -> None:
    with pytest.raises(MalformedError, match=words):
        V1Decoder(MARKER).feed(wire.encode())


# --- command lines ---


@given(WORDS | WORDS.map(lambda words: ["sh", "-c", *words]), st.booleans())
@example(["sh", "-c", "-x", "sh", "-y"], False)
@settings(max_examples=300)
def test_a_command_comes_back_out_of_its_service(argv: list[str], stdin: bool) -> None:
    assert parse_command(v2_command(argv, stdin=stdin)) == (argv, None)
    assert parse_command(v1_command(argv, MARKER)) == (argv, MARKER)


@pytest.mark.parametrize(
    "service", ["shell,v2,raw:ls", "shell:ls", "sync:", "shell:echo ab''cd$$;(x) </dev/null;"]
)
def test_other_services_are_not_taken_for_commands(service: str) -> None:
    with pytest.raises(ValueError, match="no command of ours"):
        parse_command(service)


@pytest.mark.parametrize(("argv", "words"), [([], "an empty command"), (["a", "b\0c"], "a NUL character")])
def test_what_no_command_can_be(argv: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        v2_command(argv, stdin=False)
    with pytest.raises(ValueError, match=words):
        v1_command(argv, MARKER)


@given(WORDS)
@settings(max_examples=60)
def test_a_real_shell_hands_every_word_on_unchanged(words: list[str]) -> None:
    command = v2_command(["printf", r"%s\n", *words], stdin=False).removeprefix("shell,v2,raw:")
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=True)
    first, rest = done.stdout.split(b"\n", 1)
    assert first.isdigit()
    assert rest == "".join(f"{word}\n" for word in words).encode()


@pytest.mark.parametrize(
    ("argv", "in_place"),
    [
        (["sh", "-c", "echo $$ $# $2 out; exit 7", "sh", "a b", ";"], True),
        (["sh", "-c", "echo $$ $# $2 out; exit 7"], True),
        (["sh", "-c", "echo $$ $# $2 out; exit 7", "sh"], False),
        (["sh", "-c", "echo $$ $# $2 out; exit 7", "zero", "a b", ";"], False),
    ],
)
def test_a_script_is_run_by_the_shell_that_tells_its_process_id(argv: list[str], in_place: bool) -> None:
    service = v2_command(argv, stdin=False)
    assert parse_command(service) == (argv, None)
    plain = subprocess.run(argv, capture_output=True, check=False)
    done = subprocess.run(["sh", "-c", service.removeprefix("shell,v2,raw:")], capture_output=True, check=False)
    first, second, *rest = done.stdout.split()
    assert (first == second) == in_place
    assert rest == plain.stdout.split()[1:]
    assert done.returncode == plain.returncode == 7


def test_a_script_with_an_error_in_its_syntax_still_has_a_process_id() -> None:
    command = v2_command(["sh", "-c", "echo never; if"], stdin=False).removeprefix("shell,v2,raw:")
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=False)
    assert done.stdout.split()[0].isdigit()
    assert done.stderr
    assert done.returncode != 0


@pytest.mark.parametrize(
    ("argv", "output", "code"),
    [
        (["echo", "hello"], b"hello\n", 0),
        (["printf", r"a\r\nb"], b"a\r\nb", 0),
        (["exit", "7"], b"", 7),
        (["sh", "-c", "echo out; echo err >&2; kill -9 $$"], b"out\nerr\n", 137),
        (["cat"], b"", 0),
    ],
)
def test_v1_under_a_real_shell_on_a_real_terminal(argv: list[str], output: bytes, code: int) -> None:
    command = v1_command(argv, MARKER).removeprefix("shell:")
    ours, theirs = pty.openpty()
    tty.setcbreak(theirs)  # as adbd before Android 7 has it: newlines are translated
    process = subprocess.Popen(["sh", "-c", command], stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    decoder = V1Decoder(MARKER)
    got = b""
    try:
        while decoder.code is None:
            got += b"".join(data for _, data in decoder.feed(os.read(ours, 1000)))
    finally:
        os.close(ours)
        process.wait()
    assert decoder.pid == process.pid
    assert decoder.code == code
    assert got.replace(b"Killed\n", b"") == output  # which some shells say


def test_a_group_is_ended_with_all_its_children() -> None:
    script = "trap '' TERM; sleep 60 & echo $!; wait; while :; do sleep 60; done"
    group = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True)
    assert group.stdout is not None
    with group.stdout:
        child = int(group.stdout.readline())
    subprocess.run(end_group_command(group.pid), check=False, timeout=30)
    assert group.wait(timeout=30) == -9
    assert _gone(child)


def _gone(pid: int) -> bool:
    """Whether a process has ended, or does so now; whoever adopted it may not have taken note of that yet."""
    stat = Path(f"/proc/{pid}/stat")
    for _ in range(200):
        try:
            if stat.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False
