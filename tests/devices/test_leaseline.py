"""The line in a lease file: believed only as far as it can be true."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devicelab.devices.leaseline import MAX_SECONDS, Line, boot_clock, new_line

PATH = Path("/run/lock/devicelab/x.lease")


@pytest.fixture
def line() -> Line:
    return new_line("R58M123", "run-round", 30)


def test_a_fresh_line_counts_and_is_ours(line: Line) -> None:
    assert not line.void()
    info = line.info(PATH)
    assert info.mine
    assert (info.identity, info.pid, info.host, info.purpose) == (
        "R58M123",
        os.getpid(),
        socket.gethostname(),
        "run-round",
    )
    assert info.words.startswith(
        f"leased by {info.user} on {info.host} (process {os.getpid()}, run-round) until "
    )
    assert str(PATH) in info.advice


def test_it_is_read_back(line: Line) -> None:
    assert Line.decode(line.encode(), "R58M123") == line
    assert Line.decode(line.encode() + b'rest of a longer line"}\n', "R58M123") == line


def test_an_end_that_has_passed(line: Line) -> None:
    assert replace(line, end=boot_clock() - 0.001).void()
    assert line.renewed(60).end > line.end


def test_an_end_that_is_too_good(line: Line) -> None:
    assert replace(line, end=boot_clock() + 2 * MAX_SECONDS).void()


def test_the_time_of_day_does_not_matter_on_this_host(line: Line) -> None:
    assert not replace(line, expires=0.0, acquired=1e9).void()
    assert not replace(line, expires=1e11).void()


def test_a_holder_that_is_gone(line: Line) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait(60)
    assert replace(line, pid=child.pid).void()
    assert line.started is not None
    assert replace(line, started=line.started + 1).void(), "a reused process id is somebody else"


def test_a_holder_in_another_container_cannot_be_looked_for(line: Line) -> None:
    assert not replace(line, pid=2**31 - 1, namespace="pid:[1]").void()


def test_a_host_that_has_been_restarted(line: Line) -> None:
    assert replace(line, boot="another boot").void()
    elsewhere = replace(line, boot="another boot", host="elsewhere")
    assert not elsewhere.void()
    assert replace(elsewhere, expires=time.time() - 1).void()
    assert replace(elsewhere, expires=time.time() + 2 * MAX_SECONDS).void()


def test_another_processs_line_is_not_ours(line: Line) -> None:
    assert not replace(line, pid=os.getppid()).info(PATH).mine


def test_what_others_wrote_is_safe_to_print(line: Line) -> None:
    info = replace(line, user="\x1b[2Jeve", purpose="a\nb\x07" + "x" * 900, expires=1e11, acquired=-1e11).info(
        PATH
    )
    assert "leased by eve on" in info.words
    assert "\n" not in info.words
    assert len(info.words) < 300
    assert info.expires.timestamp() <= time.time() + MAX_SECONDS + 1


def _changed(line: Line, **changes: Any) -> bytes:
    return json.dumps({"version": 1, **asdict(line), **changes}).encode() + b"\n"


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"identity": "other"},
        {"token": "short"},
        {"pid": 0},
        {"pid": True},
        {"pid": 2**40},
        {"pid": "1"},
        {"started": 1.5},
        {"end": float("inf")},
        {"end": None},
        {"end": 1e300},
        {"end": 10**400},
        {"expires": float("nan")},
        {"acquired": False},
        {"user": 7},
        {"purpose": "x" * 5000},
        {"extra": 1},
    ],
)
def test_a_line_that_is_none(line: Line, changes: dict[str, Any]) -> None:
    assert Line.decode(_changed(line), "R58M123") == line
    with pytest.raises(ValueError, match=r"."):
        Line.decode(_changed(line, **changes), "R58M123")


def test_half_a_line_is_none(line: Line) -> None:
    for length in range(len(line.encode())):
        with pytest.raises(ValueError, match=r"."):
            Line.decode(line.encode()[:length], "R58M123")
    with pytest.raises(ValueError, match="nested too deeply"):
        Line.decode(b"[" * 60_000 + b"\n", "R58M123")


@given(st.binary(max_size=200))
def test_any_bytes_are_survived(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Line.decode(data + b"\n", "R58M123")
