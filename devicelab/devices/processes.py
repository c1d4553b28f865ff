"""Whether a process that left its name behind is still there."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["host_boot", "pid_namespace", "process_alive", "start_time"]


def host_boot() -> str:
    """This host's boot id; empty where the kernel does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def pid_namespace() -> str:
    """The name of the process id namespace that we count in (``pid:[4026531836]``), empty if unknown.

    Process ids of two containers cannot be compared with each other.
    """
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def start_time(pid: int) -> int | None:
    """When a process started, in ticks since the host's boot (field 22 of proc(5)'s stat); None if unknown."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        # The second field is the program's name in parentheses and may itself hold spaces and parentheses.
        return int(text.rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def process_alive(pid: int, started: int | None) -> bool:
    """Whether a process of our own namespace still runs and is not another one under a reused number.

    A zombie counts as gone. Where ``/proc`` hides other users' processes, the number alone decides.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it exists and is somebody else's
    except OverflowError:
        return False
    now = start_time(pid)
    if now is None or started is None:
        return True
    return now == started and not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[:1] == ["Z"]
