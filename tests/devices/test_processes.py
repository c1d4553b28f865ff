"""Is a process that left its name behind still there?"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from devicelab.devices.processes import host_boot, pid_namespace, process_alive, start_time


def test_this_process_is_alive() -> None:
    assert process_alive(os.getpid(), start_time(os.getpid()))
    assert process_alive(os.getpid(), None)


def test_a_reused_number_is_another_process() -> None:
    started = start_time(os.getpid())
    assert started is not None
    assert not process_alive(os.getpid(), started - 1)


def test_a_child_is_alive_until_it_is_dead() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    started = start_time(child.pid)
    assert process_alive(child.pid, started)
    child.kill()
    give_up = time.monotonic() + 60
    while process_alive(child.pid, started) and time.monotonic() < give_up:
        time.sleep(0.01)
    assert not process_alive(child.pid, started), "a zombie is gone"
    child.communicate()
    assert not process_alive(child.pid, started)
    assert start_time(child.pid) != started


def test_numbers_that_no_process_has() -> None:
    assert not process_alive(2**31 - 1, None)
    assert not process_alive(10**30, None)


def test_names_of_this_host() -> None:
    assert host_boot() == host_boot()
    assert len(host_boot()) == 36
    assert pid_namespace().startswith("pid:[")
