"""Leases: exactly one holder, whoever crashes, sleeps or scribbles."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from devicelab.deadline import Deadline
from devicelab.devices import leaseline
from devicelab.devices.leasefile import lease_name, opened, rewrite
from devicelab.devices.leases import Leases
from devicelab.errors import ConfigError, DeviceBusyError
from tests.measures import threads_end

PHONE = "R58M123"

# Takes the phone, says so and keeps it until its input ends.
HOLDER = """
import sys
from pathlib import Path
from devicelab.devices.leases import Leases

with Leases(Path(sys.argv[1]), seconds=float(sys.argv[2])) as leases, leases.acquire("R58M123", "a test"):
    print("held", flush=True)
    sys.stdin.read()
"""

# Waits for the start, tries once, says how it went and lives on until its input ends.
RACER = """
import sys
from pathlib import Path
from devicelab.devices.leases import Leases
from devicelab.errors import DeviceBusyError

leases = Leases(Path(sys.argv[1]))
print("here", flush=True)
sys.stdin.readline()
try:
    leases.acquire("R58M123", "a race")
    print("won", flush=True)
except DeviceBusyError:
    print("lost", flush=True)
sys.stdin.read()
leases.close()
"""


# The same under another user's id, if we may take it on.
OTHER_USER = """
import os, sys
from pathlib import Path
from devicelab.devices.leaseline import Line, new_line
from devicelab.devices.leases import Leases

Line.decode(new_line("x", "x", 1).encode(), "x")  # loads what the other user may not be able to read
os.umask(0o077)
if os.getuid() == 0:
    os.setgid(int(sys.argv[2]))
    os.setuid(int(sys.argv[2]))
leases = Leases(Path(sys.argv[1]))
lease = leases.acquire("R58M123", "a test")
print(leases.holder("R58M123").mine, flush=True)
sys.stdin.read()
"""


@contextmanager
def _process(script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _eventually(condition: Callable[[], bool], seconds: float = 60) -> bool:
    give_up = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "leases"


@pytest.fixture
def leases(directory: Path) -> Iterator[Leases]:
    with Leases(directory) as leases:
        yield leases


def _scribble(directory: Path, data: bytes, identity: str = PHONE) -> None:
    with opened(directory, lease_name(identity), Deadline("lock", 60), write=True) as fd:
        assert fd is not None
        rewrite(fd, data)


def test_one_holder_at_a_time(leases: Leases, directory: Path) -> None:
    assert leases.holder(PHONE) is None
    with leases.acquire(PHONE, "run-round") as lease:
        lease.check()
        holder = leases.holder(PHONE)
        assert holder is not None
        assert (holder.mine, holder.purpose, holder.pid) == (True, "run-round", os.getpid())
        with pytest.raises(DeviceBusyError) as caught:
            Leases(directory).acquire(PHONE, "another", device="127.0.0.1:7001")
        assert caught.value.device == "127.0.0.1:7001"
        assert f"leased by {holder.user} on {holder.host} (process {os.getpid()}, run-round) until" in str(
            caught.value
        )
        assert "--device" in str(caught.value.hint)
        leases.acquire("another phone", "x").release()
    assert leases.holder(PHONE) is None
    leases.acquire(PHONE, "again")


def test_a_released_lease_is_over(leases: Leases) -> None:
    lease = leases.acquire(PHONE, "x")
    lease.release()
    lease.release()
    with pytest.raises(DeviceBusyError, match="has been released"):
        lease.check()
    lease.renew()
    assert leases.holder(PHONE) is None


def test_releasing_late_takes_nothing_from_the_next(leases: Leases, directory: Path) -> None:
    first = leases.acquire(PHONE, "first")
    _scribble(directory, b"")
    second = leases.acquire(PHONE, "second")
    first.release()
    second.check()
    assert leases.holder(PHONE) is not None


def test_closing_gives_back_and_ends_the_thread(directory: Path) -> None:
    leases = Leases(directory)
    with threads_end():
        before = threading.active_count()
        for number in range(3):
            leases.acquire(f"phone {number}", "x")
        assert any(thread.name == "lease-keepalive" for thread in threading.enumerate())
        assert threading.active_count() <= before + 1
        leases.close()
        leases.close()
    assert all(leases.holder(f"phone {number}") is None for number in range(3))
    with leases.acquire("phone 0", "after closing"):
        pass
    leases.close()


def test_waiting_for_it(leases: Leases, directory: Path) -> None:
    lease = leases.acquire(PHONE, "first")
    timer = threading.Timer(0.3, lease.release)
    timer.start()
    with Leases(directory) as others:
        others.acquire(PHONE, "second", wait=Deadline("wait", 60)).check()
    timer.join()


def test_waiting_in_vain_ends(leases: Leases, directory: Path) -> None:
    leases.acquire(PHONE, "first")
    with pytest.raises(DeviceBusyError, match="first"):
        Leases(directory).acquire(PHONE, "second", wait=Deadline("wait", 0.3))


def test_the_keepalive_pushes_the_end_forward(directory: Path) -> None:
    with Leases(directory, seconds=1.0) as leases, leases.acquire(PHONE, "long") as lease:
        holder = leases.holder(PHONE)
        assert holder is not None

        def renewed() -> bool:
            now = leases.holder(PHONE)
            return now is not None and now.expires > holder.expires

        assert _eventually(renewed)
        lease.check()


def test_of_eight_processes_exactly_one_wins(directory: Path) -> None:
    with Leases(directory) as leases:
        stack = [_process(RACER, str(directory)) for _ in range(8)]
        racers = [entered.__enter__() for entered in stack]
        try:
            assert [_line(racer) for racer in racers] == ["here"] * 8
            for racer in racers:
                assert racer.stdin is not None
                racer.stdin.write("go\n")
                racer.stdin.flush()
            assert sorted(_line(racer) for racer in racers) == ["lost"] * 7 + ["won"]
            assert leases.holder(PHONE) is not None
        finally:
            for entered in stack:
                entered.__exit__(None, None, None)
        assert leases.holder(PHONE) is None, "all eight are dead"


def test_a_crashed_holder_is_succeeded_at_once(leases: Leases, directory: Path) -> None:
    with _process(HOLDER, str(directory), "3000") as holder:
        assert _line(holder) == "held"
        with pytest.raises(DeviceBusyError, match=f"process {holder.pid}, a test"):
            leases.acquire(PHONE, "mine")
        holder.kill()
        holder.wait(60)
        with leases.acquire(PHONE, "mine") as lease:
            lease.check()


def test_a_dead_users_file_is_taken_over_in_a_sticky_directory() -> None:
    """Not under tmp_path, which only its owner may enter. All users see the same directory and file."""
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        directory = Path(parent) / "leases"
        with Leases(directory) as leases:
            leases.acquire("makes the directory", "x").release()
            for user in ("43210", "54321"):
                with _process(OTHER_USER, str(directory), user) as holder:
                    assert _line(holder) == "True"
                    with pytest.raises(DeviceBusyError, match=f"process {holder.pid}, a test"):
                        leases.acquire(PHONE, "mine")
            leases.acquire(PHONE, "mine").check()


def test_a_holder_that_leaves_gives_it_back(leases: Leases, directory: Path) -> None:
    with _process(HOLDER, str(directory), "3000") as holder:
        assert _line(holder) == "held"
        holder.communicate("", timeout=60)
        assert holder.returncode == 0
        assert (directory / lease_name(PHONE)).read_bytes() == b""


def test_a_stopped_holder_is_succeeded_when_its_lease_has_run_out(leases: Leases, directory: Path) -> None:
    with _process(HOLDER, str(directory), "1.5") as holder:
        assert _line(holder) == "held"
        os.kill(holder.pid, signal.SIGSTOP)
        with pytest.raises(DeviceBusyError):
            leases.acquire(PHONE, "mine")
        with leases.acquire(PHONE, "mine", wait=Deadline("wait", 60)) as lease:
            os.kill(holder.pid, signal.SIGCONT)
            lease.renew()
            lease.check()


def test_whoever_lost_it_is_told(leases: Leases, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = leases.acquire(PHONE, "slow")
    with monkeypatch.context() as later:
        clock = leaseline.boot_clock
        later.setattr(leaseline, "boot_clock", lambda: clock() + 100)
        with Leases(directory) as others:
            others.acquire(PHONE, "quick")
            lease.renew()
            with pytest.raises(DeviceBusyError, match=r"ran out, and now it is leased by .* quick"):
                lease.check()
            lease.release()
            assert others.holder(PHONE) is not None


def test_a_lease_that_ran_out_and_that_nobody_took_goes_on(
    leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = leases.acquire(PHONE, "slow")
    clock = leaseline.boot_clock
    monkeypatch.setattr(leaseline, "boot_clock", lambda: clock() + 100)
    monkeypatch.setattr("devicelab.devices.leases.boot_clock", lambda: clock() + 100)
    assert leases.holder(PHONE) is None
    lease.check()
    assert leases.holder(PHONE) is not None


def test_a_file_that_was_removed_ends_the_lease(leases: Leases, directory: Path) -> None:
    lease = leases.acquire(PHONE, "x")
    (directory / lease_name(PHONE)).unlink()
    lease.renew()
    with pytest.raises(DeviceBusyError, match="emptied or removed"):
        lease.check()


def test_a_corrupt_file_counts_for_a_minute(
    leases: Leases, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _scribble(directory, b"{half a li")
    with pytest.raises(DeviceBusyError, match="cannot be read") as caught:
        leases.acquire(PHONE, "x")
    assert f"rm {directory / lease_name(PHONE)}" in str(caught.value.hint)
    holder = leases.holder(PHONE)
    assert holder is not None
    assert (holder.user, holder.mine) == (None, False)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 61)
    leases.acquire(PHONE, "x").check()


def test_a_living_holder_mends_its_file(leases: Leases, directory: Path) -> None:
    lease = leases.acquire(PHONE, "x")
    _scribble(directory, b"\x00\x01")
    lease.renew()
    lease.check()
    holder = leases.holder(PHONE)
    assert holder is not None
    assert holder.mine


def test_a_full_disk_is_explained(leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    lease = leases.acquire("another phone", "x")
    with monkeypatch.context() as patched:
        patched.setattr("devicelab.devices.leases.rewrite", full)
        with pytest.raises(ConfigError, match="No space left on device"):
            leases.acquire(PHONE, "x")
        with pytest.raises(ConfigError, match="No space left on device"):
            lease.renew()
        with pytest.raises(ConfigError, match="No space left on device"):
            leases.close()


def test_another_users_file_that_cannot_be_written(
    leases: Leases, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an ordinary user sees a 0644 file of somebody else's (root may write to everything)."""
    with Leases(directory) as others:
        others.acquire(PHONE, "theirs")
        real_open = os.open

        def refusing(path: str | Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            if str(path).endswith(".lease") and flags & os.O_RDWR:
                raise PermissionError(13, "Permission denied")
            return real_open(path, flags, mode, dir_fd=dir_fd)

        with monkeypatch.context() as patched:
            patched.setattr(os, "open", refusing)
            with pytest.raises(DeviceBusyError, match="theirs"):
                leases.acquire(PHONE, "mine")
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refusing)
        with pytest.raises(ConfigError, match="belongs to another user") as caught:
            leases.acquire(PHONE, "mine")
        assert "chmod 666" in str(caught.value.hint)
        with pytest.raises(ConfigError, match="Permission denied"):
            leases.acquire("no file yet", "mine")


@pytest.mark.parametrize("seconds", [0.0, -1.0, 1e9, float("nan")])
def test_a_length_that_makes_no_sense(directory: Path, seconds: float) -> None:
    with pytest.raises(ValueError, match="cannot last"):
        Leases(directory, seconds=seconds)
