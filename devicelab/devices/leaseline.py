"""The line in a lease file: who has the device, and until when that is to be believed.

The line is void, and the device free, when its end has passed, when its holder's process is gone (same process
id *and* start time, so that a reused number does not count) or when the host has been restarted since.

Ends are kept on the boot clock, which counts through suspend and does not jump when somebody sets the time; the
time of day is there for people. A line that cannot be read counts as held for a minute after it was last
changed: a living holder has mended it by then. Everything in it may have been written by another user, so it is
checked like anything else from outside, and no end is believed that is further ahead than :data:`MAX_SECONDS`.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import secrets
import socket
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from devicelab.devices.leasefile import read_all
from devicelab.devices.processes import host_boot, pid_namespace, process_alive, start_time
from devicelab.devices.text import clean

__all__ = ["MAX_SECONDS", "Corrupt", "LeaseInfo", "Line", "boot_clock", "new_line", "read_line"]

MAX_SECONDS = 3600.0
_CORRUPT_SECONDS = 60.0
_VERSION = 1
_TOKEN = re.compile(r"[0-9a-f]{32}", re.ASCII)
_ADVICE = "wait until it is free, or choose another device with --device"


@dataclass(frozen=True, slots=True)
class LeaseInfo:
    """Who has a device, for people and programs.

    Attributes:
        identity: Which device.
        words: A clause: ``leased by anna on desk (process 4711, run-round) until 14:03:05 unless renewed``.
        advice: What can be done about it.
        expires: When it is free if nobody renews the lease.
        user: The holder's user name, None if the file cannot be read.
        host: His host (another container on this machine counts as one).
        pid: His process.
        purpose: What for.
        acquired: Since when.
        mine: Whether it is this very process.
    """

    identity: str
    words: str
    advice: str
    expires: datetime
    user: str | None = None
    host: str | None = None
    pid: int | None = None
    purpose: str | None = None
    acquired: datetime | None = None
    mine: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """One lease as it is written down.

    Attributes:
        identity: Which device; the file's name is only its hash.
        token: 32 random hexadecimal digits, unique to this lease.
        user: Who.
        host: Where from.
        pid: Which process.
        started: When that process started, in ticks since boot, or None.
        boot: The host's boot id.
        namespace: The process id namespace in which ``pid`` counts.
        purpose: What for.
        acquired: Time of day, in seconds since 1970.
        expires: The same for the end.
        end: The end on the boot clock, in seconds.
    """

    identity: str
    token: str
    user: str
    host: str
    pid: int
    started: int | None
    boot: str
    namespace: str
    purpose: str
    acquired: float
    expires: float
    end: float

    def encode(self) -> bytes:
        """As bytes, with the newline that ends it."""
        return json.dumps({"version": _VERSION, **asdict(self)}).encode("ascii") + b"\n"

    @classmethod
    def decode(cls, data: bytes, identity: str) -> Self:
        """Read the first line.

        Raises:
            ValueError: It is not a lease of this device; says why.
        """
        first, newline, _ = data.partition(b"\n")
        try:
            value = json.loads(first.decode("ascii"))
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error
        if not newline or not isinstance(value, dict) or value.pop("version", None) != _VERSION:
            raise ValueError(f"it is not a lease of version {_VERSION}")
        texts = ("identity", "token", "user", "host", "boot", "namespace", "purpose")
        numbers = ("acquired", "expires", "end")
        if set(value) != {*texts, *numbers, "pid", "started"}:
            raise ValueError("it has other fields than a lease has")
        if not all(isinstance(value[name], str) and len(value[name]) <= 1024 for name in texts):
            raise ValueError("a text field holds something else")
        if not all(_is_number(value[name]) for name in numbers):
            raise ValueError("a time is not a time")
        if not _is_pid(value["pid"]) or not (value["started"] is None or type(value["started"]) is int):
            raise ValueError("the process is not a process")
        line = cls(**value)
        if line.identity != identity or _TOKEN.fullmatch(line.token) is None:
            raise ValueError("it is the lease of another device")
        return line

    def renewed(self, seconds: float) -> Line:
        """The same lease with an end ``seconds`` from now."""
        return replace(self, expires=time.time() + seconds, end=boot_clock() + seconds)

    def void(self) -> bool:
        """Whether it no longer counts."""
        if self.boot != host_boot():
            # Either this host has been restarted, or the file came from elsewhere with its directory.
            return self.host == socket.gethostname() or not 0 < self.expires - time.time() <= MAX_SECONDS
        if not 0 < self.end - boot_clock() <= MAX_SECONDS:
            return True
        return self.namespace == pid_namespace() and not process_alive(self.pid, self.started)

    def info(self, path: Path) -> LeaseInfo:
        """For people; ``path`` is the file."""
        expires = datetime.fromtimestamp(min(self.expires, time.time() + MAX_SECONDS), tz=UTC)
        user, host, purpose = clean(self.user, 40), clean(self.host, 60), clean(self.purpose, 60)
        who = f"process {self.pid}, {purpose}" if purpose else f"process {self.pid}"
        return LeaseInfo(
            identity=self.identity,
            words=f"leased by {user} on {host} ({who}) until {expires.astimezone():%H:%M:%S} unless renewed",
            advice=f"{_ADVICE}; the lease is in {path}",
            expires=expires,
            user=user,
            host=host,
            pid=self.pid,
            purpose=purpose,
            acquired=datetime.fromtimestamp(max(0.0, min(self.acquired, time.time())), tz=UTC),
            mine=(self.pid, self.started, self.boot, self.namespace)
            == (os.getpid(), start_time(os.getpid()), host_boot(), pid_namespace()),
        )


@dataclass(frozen=True, slots=True)
class Corrupt:
    """A lease file that says nothing readable and was changed not long ago.

    Attributes:
        identity: Which device.
        why: What is wrong with it.
        until: When it stops counting, in seconds since 1970.
    """

    identity: str
    why: str
    until: float

    def info(self, path: Path) -> LeaseInfo:
        """For people; ``path`` is the file."""
        until = datetime.fromtimestamp(self.until, tz=UTC)
        return LeaseInfo(
            identity=self.identity,
            words=f"its lease file cannot be read ({self.why}); "
            f"it counts as taken until {until.astimezone():%H:%M:%S}",
            advice=f"wait, or remove the file if nobody uses the phone: rm {path}",
            expires=until,
        )


def boot_clock() -> float:
    """Seconds since the host's boot, time in suspend included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def new_line(identity: str, purpose: str, seconds: float) -> Line:
    """A fresh lease for this process."""
    now = time.time()
    return Line(
        identity=identity,
        token=secrets.token_hex(16),
        user=_user_name(),
        host=socket.gethostname(),
        pid=os.getpid(),
        started=start_time(os.getpid()),
        boot=host_boot(),
        namespace=pid_namespace(),
        purpose=clean(purpose, 60),
        acquired=now,
        expires=now + seconds,
        end=boot_clock() + seconds,
    )


def read_line(fd: int, identity: str) -> Line | Corrupt | None:
    """What an open and locked lease file says, void or not.

    Returns:
        None for an empty file, and for an unreadable one that nobody has changed for a minute.
    """
    data = read_all(fd)
    if not data:
        return None
    try:
        return Line.decode(data, identity)
    except ValueError as error:
        # The change time, unlike the modification time, cannot be set by hand.
        changed = os.fstat(fd).st_ctime
        if 0 <= time.time() - changed < _CORRUPT_SECONDS:
            return Corrupt(identity, clean(str(error), 80), changed + _CORRUPT_SECONDS)
        return None


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"user {os.getuid()}"


def _is_number(value: object) -> bool:
    """A plausible one: NaN compares as false, and no bound is too large to compare an integer with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e12 < value < 1e12


def _is_pid(value: object) -> bool:
    return type(value) is int and 0 < value < 1 << 31
