"""Processes are found by following parents, whatever they do to hide, and end with their keeper."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devicelab.deadline import Deadline
from devicelab.virtual import family

TENDED = """
import os, sys
from devicelab.virtual import family, kernel
kernel.adopt_orphans()
child = os.fork()
if child == 0:
    os.execv("/bin/sh", ["sh", "-c", sys.argv[1]])
sys.exit(family.tend(child))
"""


def wait_for(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


class Tended:
    """A first process with a shell script as its child."""

    def __init__(self, script: str) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", TENDED, script], stdin=subprocess.PIPE)

    @property
    def family(self) -> dict[int, str]:
        return family.descendants(self.process.pid)

    def let_go(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(30)


@pytest.fixture
def tended() -> Iterator[Callable[[str], Tended]]:
    started: list[Tended] = []

    def start(script: str) -> Tended:
        started.append(Tended(script))
        return started[-1]

    yield start
    for each in started:
        each.let_go()


HIDING = "setsid sh -c '(trap \"\" HUP TERM; sleep 1001) & sleep 1002 &' & sleep 1003"


def test_all_descendants_are_found_and_end_with_the_keeper(tended: Callable[[str], Tended]) -> None:
    phone = tended(HIDING)
    wait_for(lambda: len([pid for pid in phone.family if _is_sleep(pid)]) == 3)
    pids = list(phone.family)
    assert phone.let_go() == 0
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_the_childs_end_ends_all_others(tended: Callable[[str], Tended], tmp_path: Path) -> None:
    phone = tended(f"setsid sleep 1004 & echo $! > {tmp_path}/pid; exit 7")
    assert phone.process.wait(30) == 7
    wait_for(lambda: not Path("/proc", (tmp_path / "pid").read_text().strip()).exists())


def test_stop_and_continue_reach_everyone_but_the_first(tended: Callable[[str], Tended]) -> None:
    phone = tended(HIDING)
    wait_for(lambda: len([pid for pid in phone.family if _is_sleep(pid)]) == 3)
    family.signal_all(phone.process.pid, signal.SIGSTOP, Deadline("stop", 30))
    assert set(phone.family.values()) == {"T"}
    assert phone.process.poll() is None
    family.signal_all(phone.process.pid, signal.SIGCONT, Deadline("continue", 30))
    assert "T" not in phone.family.values()
    family.signal_all(phone.process.pid, signal.SIGSTOP, Deadline("stop", 30))
    assert phone.let_go() == 0  # a stopped family ends, too


def test_orphans_are_buried(tended: Callable[[str], Tended]) -> None:
    phone = tended("for i in 1 2 3; do setsid sh -c 'sleep 0.05 &' & done; wait; sleep 1005")
    wait_for(lambda: _is_sleep(max(phone.family, default=0)) and "Z" not in phone.family.values())
    wait_for(lambda: len(phone.family) <= 2)


def test_a_family_that_keeps_growing_ends(tended: Callable[[str], Tended]) -> None:
    phone = tended("while :; do setsid sleep 2 & sleep 0.005; done")
    wait_for(lambda: len(phone.family) > 10)
    assert phone.let_go() == 0


def test_no_descendants() -> None:
    assert family.descendants(0x7FFFFFFF) == {}
    assert os.getpid() in family.descendants(os.getppid())


def _is_sleep(pid: int) -> bool:
    try:
        return b"sleep\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
