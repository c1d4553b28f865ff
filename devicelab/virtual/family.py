"""A phone's processes without a process namespace: one first process, which everything else descends from.

The first process adopts orphans (PR_SET_CHILD_SUBREAPER), so that ``setsid``, double forks and daemons stay its
descendants; what it started is found by following parents, never by name or group. It ends with its keeper, and
everything with it: the keeper holds the other end of its standard input.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from pathlib import Path

from devicelab.deadline import Deadline

__all__ = ["descendants", "end_all", "signal_all", "tend"]

_STOPPED = frozenset("Tt")
_DEAD = frozenset("ZX")
_PAUSE = 0.005


def descendants(pid: int) -> dict[int, str]:
    """All processes below ``pid`` and their states (the letters of proc(5)), parents before children."""
    children: dict[int, list[int]] = {}
    states: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            stat = (entry / "stat").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, parent = stat[stat.rindex(b")") + 2 :].split(b" ", 2)[:2]  # the name before may hold anything
        states[int(entry.name)] = state.decode()
        children.setdefault(int(parent), []).append(int(entry.name))
    found: dict[int, str] = {}
    queue = children.get(pid, [])
    while queue:
        child = queue.pop(0)
        found[child] = states[child]
        queue.extend(children.get(child, []))
    return found


def signal_all(pid: int, number: signal.Signals, deadline: Deadline) -> None:
    """Send SIGSTOP or SIGCONT to all below ``pid``, and to what they start meanwhile; not to ``pid``.

    A process that its tracer holds (state ``t``) counts as stopped, and only its tracer can continue it: so it
    is under proot, which is stopped itself.

    Raises:
        DeadlineError: There are always new processes that do not stop.
    """
    done = _DEAD | _STOPPED
    quiet = 0
    while quiet < 2:  # a look at all processes is no moment: the first one's state is old when the last is seen
        states = descendants(pid).items()
        if number is signal.SIGSTOP:
            todo = [each for each, state in states if state not in done]
        else:
            todo = [each for each, state in states if state == "T"]
        quiet = 0 if todo else quiet + 1
        for each in todo:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, number)
        time.sleep(deadline.capped(_PAUSE))


def end_all(pid: int) -> None:
    """SIGKILL everything below ``pid`` until nothing but zombies is left, which its wait() buries.

    Stopped first, so that nothing can fork faster than it is killed.
    """
    while living := [each for each, state in descendants(pid).items() if state not in _DEAD]:
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for each in living:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, number)
        time.sleep(_PAUSE)
        _bury()


def tend(child: int) -> int:
    """Be the phone's first process until ``child`` or the keeper ends; then end all the others.

    Called in a process with one thread that has adopted orphans. Standard input is a pipe that the keeper alone
    holds open.

    Returns:
        The child's exit status as :func:`os.waitstatus_to_exitcode` gives it; 0 if the keeper ended first.
    """
    awake, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    poll = select.poll()
    poll.register(0, select.POLLIN)
    poll.register(awake, select.POLLIN)
    code = None
    while code is None:
        code = _bury().get(child)
        if code is None and 0 in {fd for fd, _ in poll.poll()}:
            code = 0  # the keeper has let go
        with contextlib.suppress(BlockingIOError):
            os.read(awake, 4096)
    end_all(os.getpid())
    _bury()
    return code


def _bury() -> dict[int, int]:
    """Reap every child that has ended: process id -> exit code."""
    codes: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return codes
        if pid == 0:
            return codes
        codes[pid] = os.waitstatus_to_exitcode(status)
