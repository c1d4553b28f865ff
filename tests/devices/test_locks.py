"""flock with a deadline."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from devicelab.deadline import Deadline
from devicelab.devices.locks import flocked
from devicelab.errors import DeadlineError

HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def test_two_openings_exclude_each_other_and_two_readers_do_not(tmp_path: Path) -> None:
    first, second = _open(tmp_path / "lock"), _open(tmp_path / "lock")
    try:
        with (
            flocked(first, Deadline("a", 60)),
            pytest.raises(DeadlineError, match="b: no end"),
            flocked(second, Deadline("b", 0.1)),
        ):
            pass
        with flocked(first, Deadline("a", 60), shared=True), flocked(second, Deadline("b", 60), shared=True):
            pass
        with flocked(second, Deadline("b", 60)):
            pass
    finally:
        os.close(first)
        os.close(second)


def test_the_lock_is_let_go_after_an_error(tmp_path: Path) -> None:
    first, second = _open(tmp_path / "lock"), _open(tmp_path / "lock")
    try:
        with pytest.raises(KeyError), flocked(first, Deadline("a", 60)):
            raise KeyError
        with flocked(second, Deadline("b", 60)):
            pass
    finally:
        os.close(first)
        os.close(second)


def test_a_dead_holder_holds_nothing(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    fd = _open(tmp_path / "lock")
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(DeadlineError), flocked(fd, Deadline("a", 0.1)):
            pass
        holder.kill()
        with flocked(fd, Deadline("a", 60)):
            pass
    finally:
        os.close(fd)
        holder.kill()
        holder.communicate()
