"""Leases: two people on one host do not take the same phone.

A lease is a JSON line (:mod:`devicelab.devices.leaseline`) in a file per device, in a directory that all users
of the host share (:mod:`devicelab.devices.leasefile`). The file's lock only guards reading and writing it for a
moment; what makes somebody the holder is the line: an owner, a random token and an end that a keepalive thread
pushes forward. Once the line is void the next one may write his own over it.

Use::

    with Leases() as leases, leases.acquire("R58M123", "run-round") as lease:
        ...
        lease.check()  # before anything that would disturb whoever has it otherwise
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from devicelab.closing import Closing
from devicelab.deadline import Deadline
from devicelab.devices.leasefile import lease_directory, lease_name, opened, rewrite
from devicelab.devices.leaseline import (
    MAX_SECONDS,
    Corrupt,
    LeaseInfo,
    Line,
    boot_clock,
    new_line,
    read_line,
)
from devicelab.errors import ConfigError, DeviceBusyError, DevicelabError

__all__ = ["Lease", "LeaseInfo", "Leases"]

_log = logging.getLogger(__name__)

_LOCK_SECONDS = 5.0  # somebody holds a file's lock for less than a millisecond, unless he is stopped in it
_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class _Slot:
    """One device's lease file; every method is one short transaction under its lock.

    All raise ConfigError where the directory or the file is not what it should be or cannot be written, and
    DeadlineError where somebody holds the lock for seconds.
    """

    directory: Path
    identity: str
    device: str

    @property
    def path(self) -> Path:
        return self.directory / lease_name(self.identity)

    def look(self) -> LeaseInfo | None:
        """Who has the device."""
        with self._opened(write=False) as fd:
            return None if fd is None else self._taken(read_line(fd, self.identity))

    def take(self, purpose: str, seconds: float) -> Line | LeaseInfo:
        """Write our line, unless somebody has the device."""
        with self._opened(write=True) as fd:
            if fd is not None:
                if taken := self._taken(read_line(fd, self.identity)):
                    return taken
                line = new_line(self.identity, purpose, seconds)
                self._write(fd, line.encode())
                return line
        if taken := self.look():
            return taken
        raise ConfigError(
            f"cannot write the lease file {self.path}: it belongs to another user",
            hint=f"have it opened to everybody (chmod 666 {self.path}) or removed",
        )

    def renew(self, line: Line, seconds: float) -> Line | str:
        """Push the end of our line forward; words if the device is not ours any more.

        An end that has passed does not matter as long as nobody else has written: the device was not used.
        """
        with self._opened(write=True) as fd:
            found = None if fd is None else read_line(fd, self.identity)
            if fd is None or found is None:
                return "its lease was ended from outside: the lease file has been emptied or removed"
            if isinstance(found, Line) and found.token != line.token:
                return f"its lease ran out, and now it is {found.info(self.path).words}"
            renewed = line.renewed(seconds)
            self._write(fd, renewed.encode())
            return renewed

    def give_back(self, line: Line) -> None:
        """Empty the file if our line is in it."""
        with self._opened(write=True) as fd:
            found = None if fd is None else read_line(fd, self.identity)
            if fd is not None and isinstance(found, Line) and found.token == line.token:
                self._write(fd, b"")

    def _opened(self, *, write: bool) -> AbstractContextManager[int | None]:
        deadline = Deadline("lock of its lease file", _LOCK_SECONDS, self.device)
        return opened(self.directory, lease_name(self.identity), deadline, write=write)

    def _taken(self, found: Line | Corrupt | None) -> LeaseInfo | None:
        if found is None or (isinstance(found, Line) and found.void()):
            return None
        return found.info(self.path)

    def _write(self, fd: int, data: bytes) -> None:
        try:
            rewrite(fd, data)
        except OSError as error:
            raise ConfigError(
                f"cannot write the lease file {self.path}: {error.strerror}",
                hint="free some space there, or point $DEVICELAB_LEASES to another directory",
            ) from error


class Leases(Closing):
    """One process's leases and the thread that keeps them alive, which :meth:`close` ends.

    Args:
        directory: Where the files are; :func:`~devicelab.devices.leasefile.lease_directory` by default.
        seconds: How long a lease lasts without renewal; it is renewed three times as often.

    Raises:
        ValueError: ``seconds`` is not within 0.1 to 3600.
    """

    def __init__(self, directory: Path | None = None, *, seconds: float = 30.0) -> None:
        if not 0.1 <= seconds <= MAX_SECONDS:
            raise ValueError(f"a lease cannot last {seconds:g} s")
        self.directory = directory or lease_directory()
        self.seconds = seconds
        self._held: dict[str, Lease] = {}  # by token
        self._guard = threading.Lock()  # over what is above and below
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def holder(self, identity: str) -> LeaseInfo | None:
        """Who has a device now; None if nobody. Changes nothing.

        Raises:
            ConfigError: The directory or the file is not what it should be.
            DeadlineError: Somebody held the file's lock for seconds.
        """
        return _Slot(self.directory, identity, identity).look()

    def acquire(
        self, identity: str, purpose: str, *, device: str | None = None, wait: Deadline | None = None
    ) -> Lease:
        """Take a device.

        Args:
            identity: Which one.
            purpose: What for, in a word or two, shown to others: "run-round".
            device: How errors call it; the identity by default.
            wait: How long to wait for it if somebody has it; not at all by default.

        Raises:
            DeviceBusyError: Somebody has it (at the end of the wait, still); says who and until when.
            ConfigError: The directory or the file is not what it should be, or cannot be written.
            DeadlineError: Somebody held the file's lock for seconds.
        """
        slot = _Slot(self.directory, identity, device or identity)
        while isinstance(taken := slot.take(purpose, self.seconds), LeaseInfo):
            if wait is None or wait.expired:
                raise DeviceBusyError(taken.words, device=slot.device, hint=taken.advice)
            time.sleep(min(_POLL_SECONDS, wait.seconds / 20))
        lease = Lease(slot, taken, self.seconds, self._forget)
        with self._guard:
            self._held[taken.token] = lease
            if self._thread is None:
                self._stop.clear()
                self._thread = threading.Thread(target=self._keepalive, name="lease-keepalive", daemon=True)
                self._thread.start()
        return lease

    def close(self) -> None:
        """Give back what is still held and end the keepalive thread; may be called twice.

        Raises:
            DevicelabError: A lease could not be given back (the first such error) and runs out by itself.
        """
        with self._guard:
            thread, self._thread = self._thread, None
            held = list(self._held.values())
        self._stop.set()
        if thread is not None:
            thread.join()
        failures: list[DevicelabError] = []
        for lease in held:
            try:
                lease.release()
            except DevicelabError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def _forget(self, token: str) -> None:
        with self._guard:
            self._held.pop(token, None)

    def _keepalive(self) -> None:
        while not self._stop.wait(self.seconds / 3):
            with self._guard:
                held = list(self._held.values())
            for lease in held:
                try:
                    lease.renew()
                except DevicelabError as error:
                    # Not the end yet: there is time for another try, and check() tells the holder.
                    _log.warning("%s: cannot renew the lease: %s", lease.device, error.message)


class Lease:
    """A device that this process holds; made by :meth:`Leases.acquire`."""

    def __init__(self, slot: _Slot, line: Line, seconds: float, forget: Callable[[str], None]) -> None:
        self._slot = slot
        self._line = line
        self._seconds = seconds
        self._forget = forget
        self._guard = threading.Lock()  # renewing and releasing exclude each other
        self._lost: str | None = None
        self._released = False

    @property
    def identity(self) -> str:
        """Which device."""
        return self._slot.identity

    @property
    def device(self) -> str:
        """How errors call the device."""
        return self._slot.device

    @property
    def token(self) -> str:
        """Random, unique to this lease."""
        return self._line.token

    def check(self) -> None:
        """Make sure that the device is still ours.

        Raises:
            DeviceBusyError: It is not: this process was stopped for longer than the lease lasts and somebody
                else took it, or somebody removed the file, or it has been released.
            ConfigError: The file cannot be written.
            DeadlineError: Somebody held the file's lock for seconds.
        """
        if boot_clock() >= self._line.end:
            self.renew()
        lost = "its lease has been released" if self._released else self._lost
        if lost is not None:
            raise DeviceBusyError(lost, device=self.device, hint="take it again, or choose another device")

    def renew(self) -> None:
        """Push the end forward; done by the keepalive thread. What was lost stays lost.

        Raises:
            ConfigError: The file cannot be written.
            DeadlineError: Somebody held the file's lock for seconds.
        """
        with self._guard:
            if self._released or self._lost is not None:
                return
            renewed = self._slot.renew(self._line, self._seconds)
            if isinstance(renewed, Line):
                self._line = renewed
            else:
                self._lost = renewed

    def release(self) -> None:
        """Give the device back; may be called twice. Never takes it from somebody who has it by now.

        Raises:
            ConfigError: The file cannot be written; the lease runs out by itself.
            DeadlineError: Somebody held the file's lock for seconds; the same.
        """
        with self._guard:
            if self._released:
                return
            self._released = True
            self._forget(self.token)
            if self._lost is None:
                self._slot.give_back(self._line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.release()
