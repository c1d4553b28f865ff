"""One phone as the rest of the house holds it: who it is, how it does, and its wire."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devicelab.adb import shell, transfer
from devicelab.adb.connection import Connection, Transport, TransportName
from devicelab.adb.shell import ShellResult
from devicelab.adb.sync import SyncSession
from devicelab.adb.sync_protocol import FileEntry
from devicelab.adb.transfer import PullReport, PushReport
from devicelab.closing import Closing
from devicelab.deadline import Deadline
from devicelab.devices.facts import DeviceFacts
from devicelab.devices.identity import identity_of
from devicelab.devices.probe import probe
from devicelab.devices.states import DeviceState, Verdict
from devicelab.errors import ConfigError, DeviceLostError, DeviceNotReadyError, ProtocolError

if TYPE_CHECKING:  # looking at phones does not need it
    import numpy as np

    Array = np.ndarray[Any, Any]

__all__ = ["Deadlines", "Device"]

_RECONNECT_SECONDS = 15.0  # an adb server needs up to ten to notice that a phone is back
_PULL_LIMIT = 1 << 30


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds that things may take on one device where whoever asks for them does not say.

    Attributes:
        command: A short command.
        push: Pushing one file.
        pull: Pulling one file.
    """

    command: float = 30.0
    push: float = 600.0
    pull: float = 600.0


@dataclass(eq=False)
class Device(Closing):
    """One phone. Safe to use from several threads; one that was lost is reconnected to at the next call.

    Attributes:
        serial: The ADB serial by which it is reached.
        identity: Who it is, whatever way it is reached; None if it could not be asked yet.
        verdict: Its state when it was last looked at, and why.
        facts: What was known of it then; all unknown if it could not be asked.
        alternatives: Other ADB serials that lead to the same phone.
        warning: What a person should know about its identity or its sensors, or None.
        name: What a person calls it (the lab file's word), or None.
        labels: That person's words to group devices by.
        hub: The USB hub that it hangs on, if somebody said so.
        deadlines: How long things may take on it.
        executor: How :meth:`run` runs a graph, which is a higher room's business; a Lab sets it.
    """

    serial: str
    identity: str | None
    verdict: Verdict
    facts: DeviceFacts
    transport: Transport
    alternatives: tuple[str, ...] = ()
    warning: str | None = None
    name: str | None = None
    labels: tuple[str, ...] = ()
    hub: str | None = None
    deadlines: Deadlines = Deadlines()
    executor: Callable[..., dict[str, Array]] | None = field(default=None, repr=False)
    _connection: Connection | None = field(default=None, repr=False)
    _wire: threading.RLock = field(default_factory=threading.RLock, repr=False)
    _leftovers: set[str] = field(default_factory=set, repr=False)

    @property
    def state(self) -> DeviceState:
        """One of the eight states."""
        return self.verdict.state

    @property
    def reason(self) -> str:
        """Why it is not ready and what to do about it; empty when ready."""
        return self.verdict.reason

    @property
    def ready(self) -> bool:
        """Whether it may be given work."""
        return self.verdict.ready

    @property
    def transport_name(self) -> TransportName:
        """How it is reached: ``server`` or ``direct``."""
        return self.transport.name

    def require_ready(self) -> None:
        """Refuse to work on a phone that is not ready.

        Raises:
            DeviceNotReadyError: With its state and the reason.
        """
        if not self.ready:
            raise DeviceNotReadyError(f"is {self.state}", device=self.serial, hint=self.reason or None)

    def shell(
        self, *argv: str, seconds: float | None = None, stdin: bytes = b"", check: bool = True
    ) -> ShellResult:
        """Run a command on the phone and wait for its end.

        Args:
            argv: The command word by word, without any shell syntax; for a script: ``"sh", "-c", script``.
            seconds: For connecting, running and reading all of its output; the device's own by default. When
                they are over the command and all that it started in its process group is ended on the phone.
            stdin: What it reads.
            check: Whether an exit code other than 0 is an error.

        Raises:
            RemoteCommandError: It exited with another code than 0 (and ``check``).
            DeviceLostError: The phone went away, or another one answers in its place.
            DeadlineError: It did not end in time.
        """
        limit = self.deadlines.command if seconds is None else seconds
        deadline = Deadline(f"`{' '.join(argv)[:80]}`", limit, self.serial)
        with self._wired(deadline) as connection:
            return shell.run(connection, argv, deadline=deadline, stdin=stdin, check=check)

    def push(
        self,
        source: Path | bytes,
        remote: str,
        *,
        mode: int = 0o644,
        seconds: float | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> PushReport:
        """Put a file on the phone: whole, verified and under its final name, or not at all.

        Args:
            source: A file of this host, or the bytes themselves.
            remote: Its path on the phone; missing directories are made.
            mode: Its permission bits.
            seconds: For all of it, where that is less than the device's own limit.
            progress: Called with the bytes sent so far.

        Raises:
            DeviceFullError: No space left on the phone.
            RemoteFileError: The phone cannot write there; holds its own reason.
            DeviceLostError: The phone went away. What it had of the file goes when it is back.
            DeadlineError: It took too long.
        """
        limit = self.deadlines.push if seconds is None else min(seconds, self.deadlines.push)
        deadline = Deadline(f"push of {remote}", limit, self.serial)
        part = transfer.part_name(remote)
        with self._wired(deadline) as connection:
            try:
                return transfer.push_file(
                    connection, source, remote, mode=mode, progress=progress, part=part, deadline=deadline
                )
            except BaseException:
                self._leftovers.add(part)
                raise

    def pull(
        self,
        remote: str,
        local: Path,
        *,
        max_bytes: int = _PULL_LIMIT,
        seconds: float | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> PullReport:
        """Fetch one file: whole and under its final name, or not at all.

        Args:
            remote: Its path on the phone.
            local: The file to write on this host; its directory must exist.
            max_bytes: What is larger is refused.
            seconds: For all of it, where that is less than the device's own limit.
            progress: Called with the bytes received so far.

        Raises:
            RemoteFileError: There is no such file, or the phone cannot read it, or it is larger than allowed.
            DeviceLostError: The phone went away.
            DeadlineError: It took too long.
        """
        limit = self.deadlines.pull if seconds is None else min(seconds, self.deadlines.pull)
        deadline = Deadline(f"pull of {remote}", limit, self.serial)
        with self._wired(deadline) as connection:
            return transfer.pull_file(
                connection, remote, local, max_bytes=max_bytes, progress=progress, deadline=deadline
            )

    def run(
        self,
        graph: Path | bytes,
        inputs: Mapping[str, Array],
        **options: Any,  # noqa: ANN401 - those of the executor
    ) -> dict[str, Array]:
        """Run an ONNX graph on the phone once; who may not be alone with it holds its lease.

        Args:
            graph: The ONNX file, or its content.
            inputs: A value for every input of the graph, by name.
            options: ``engine``, ``threads``, ``seconds``, ``max_bytes``; see
                :class:`devicelab.runner.remote.RemoteRunner`.

        Returns:
            Every output by name.

        Raises:
            ConfigError: The device comes from nobody who knows how to run something: not from a Lab.
            RunnerError: The runner says no, and why.
            DeviceError, DeadlineError: As everywhere.
        """
        if self.executor is None:
            raise ConfigError("only a device that a Lab has found can run a graph")
        return self.executor(self, graph, inputs, **options)

    def read(self, remote: str, *, max_bytes: int, seconds: float = 60.0) -> bytes:
        """The content of one small file; raises what :meth:`pull` raises.

        Args:
            remote: Its path on the phone.
            max_bytes: What is larger is refused.
            seconds: For all of it.
        """
        deadline = Deadline(f"reading {remote}", seconds, self.serial)
        with self._wired(deadline) as connection:
            return transfer.pull_bytes(connection, remote, max_bytes=max_bytes, deadline=deadline)

    @contextmanager
    def files(self, operation: str, *, seconds: float = 30.0) -> Iterator[tuple[SyncSession, Deadline]]:
        """The phone's file service, for several requests in one conversation, and the deadline for all of them.

        Args:
            operation: What for, as a noun phrase, for the error once the time is over.
            seconds: For all of it.

        Raises:
            DeviceLostError, DeadlineError: As everywhere.
        """
        deadline = Deadline(operation, seconds, self.serial)
        with self._wired(deadline) as connection, SyncSession(connection, deadline) as session:
            yield session, deadline

    def listing(self, directory: str, *, seconds: float = 30.0) -> list[FileEntry]:
        """The files in a directory of the phone, by name; none if there is no such directory.

        Args:
            directory: Its absolute path.
            seconds: For all of it.

        Raises:
            ProtocolError: A name that no directory can hold, or more than 10,000 files.
            DeviceLostError, DeadlineError: As everywhere.
        """
        with self.files(f"listing of {directory}", seconds=seconds) as (session, deadline):
            return session.list(directory, deadline)

    def remove(self, *paths: str, recursive: bool = False, seconds: float = 60.0) -> None:
        """Remove files on the phone; those that are not there are no error.

        Args:
            paths: Absolute paths.
            recursive: Remove directories, too, with all they hold.
            seconds: For all of it.

        Raises:
            RemoteCommandError: Something cannot be removed.
            DeviceLostError, DeadlineError: As everywhere.
        """
        deadline = Deadline("removal of files", seconds, self.serial)
        with self._wired(deadline) as connection:
            transfer.remove(connection, paths, deadline=deadline, recursive=recursive)

    def connection(self, deadline: Deadline) -> Connection:
        """The phone's wire: the one in use, or a new one after a loss.

        After a loss it is made sure that the same phone answers. What a broken push left on it is removed.

        Raises:
            DeviceLostError: Nothing answers, or another phone does.
            DeviceUnauthorizedError: The phone no longer knows this host.
            DeadlineError: It is there, but silent.
        """
        with self._wire:
            if self._connection is not None and not self._connection.alive():
                self.drop(self._connection)  # lost while nobody used it: no reason to fail now
            if self._connection is None:
                self._connection = self._reconnect(deadline.within(deadline.operation, _RECONNECT_SECONDS))
            if self._leftovers:
                transfer.remove(self._connection, sorted(self._leftovers), deadline=deadline)
                self._leftovers.clear()
            return self._connection

    def alive(self) -> bool:
        """Whether its wire is open and, as far as anybody has noticed, the phone at the other end of it."""
        with self._wire:
            return self._connection is not None and self._connection.alive()

    def drop(self, connection: Connection) -> None:
        """Give up a wire on which the phone was lost; the next use makes a new one."""
        with self._wire:
            if self._connection is connection:
                self._connection = None
        connection.close()

    def close(self) -> None:
        """Let go of the wire; may be called twice. The device may still be used: it reconnects."""
        with self._wire:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    @contextmanager
    def _wired(self, deadline: Deadline) -> Iterator[Connection]:
        """The wire for one operation; one that turns out to be dead is not used again."""
        connection = self.connection(deadline)
        try:
            yield connection
        except (DeviceLostError, ProtocolError):
            self.drop(connection)
            raise

    def _reconnect(self, deadline: Deadline) -> Connection:
        connection = self.transport.connect(self.serial, deadline)
        try:
            found = probe(connection, deadline)
            if not found.answered:
                raise DeviceLostError(found.problem or "it does not answer", device=self.serial)
            identity = identity_of(found.facts, self.serial)
            # A cloned serial number carries the ADB serial behind an @ (see identity.merge).
            if self.identity is not None and self.identity.partition("@")[0] != identity:
                raise DeviceLostError(
                    f"{self.identity} is gone: another phone, {identity}, answers there now",
                    device=self.serial,
                    hint="look at the cables, or discover again",
                )
            self.identity = self.identity or identity
            self.facts = found.facts
        except BaseException:
            connection.close()
            raise
        return connection
