"""Commands on a phone: run one and take what it printed, or follow it while it runs.

A command is always a list of words; a script is ``["sh", "-c", script]``. Where the phone has shell v2,
standard output and error come apart and standard input can be written; older phones give both in one and take
no input (why: :mod:`devicelab.adb.shell_protocol`).

When we give up on a command (deadline, limit, exception, close), its whole process group is ended, over a
second stream. A command that ended by itself costs no more than its own stream.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from devicelab.adb.connection import Connection
from devicelab.adb.malformed import MalformedError
from devicelab.adb.shell_protocol import (
    Channel,
    Output,
    ShellDecoder,
    V1Decoder,
    V2Decoder,
    close_stdin_frame,
    end_group_command,
    stdin_frames,
    v1_command,
    v2_command,
)
from devicelab.closing import Closing
from devicelab.deadline import Deadline
from devicelab.errors import (
    DeadlineError,
    DevicelabError,
    DeviceNotReadyError,
    OutputLimitError,
    ProtocolError,
    RemoteCommandError,
)

__all__ = ["OUTPUT_LIMIT", "Channel", "ShellProcess", "ShellResult", "run"]

OUTPUT_LIMIT = 8 << 20  # bytes
_READ = 256 << 10
_TERMINATED = 128 + 15  # the code of what SIGTERM ended
_END_SECONDS = 1.5  # for ending a process group when we give up; the phone may be past answering


@dataclass(frozen=True, slots=True)
class ShellResult:
    """What a command left behind.

    Attributes:
        argv: The command.
        code: Its exit code; 128 + n where signal n ended it (see :func:`devicelab.errors.describe_exit`).
        stdout: What it printed.
        stderr: What it printed to standard error; on phones without shell v2 that is part of ``stdout``.
    """

    argv: tuple[str, ...]
    code: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text, without the newlines at its end; what is no UTF-8 becomes U+FFFD."""
        return self.stdout.decode("utf-8", "replace").rstrip("\r\n")


class ShellProcess(Closing):
    """A command that runs on a phone; use it as a context manager, which ends it.

    One thread reads; another may write to its input meanwhile.

    Args:
        connection: The phone.
        argv: The command and its arguments.
        stdin: Whether something will be written to its input; else that is empty.
        deadline: For starting it.

    Raises:
        DeviceNotReadyError: ``stdin`` is asked for, and the phone has no shell v2.
        ServiceRefusedError: adbd starts no shell.
        ValueError: ``argv`` is empty or holds a NUL character.
    """

    def __init__(
        self, connection: Connection, argv: Sequence[str], *, deadline: Deadline, stdin: bool = False
    ) -> None:
        self.argv = tuple(argv)
        self._connection = connection
        self._decoder: ShellDecoder
        if "shell_v2" in connection.features:
            self._decoder = V2Decoder()
            service = v2_command(argv, stdin=stdin)
        elif stdin:
            raise DeviceNotReadyError(
                f"nothing can be written to the input of `{argv[0]}`: this Android has no shell v2",
                device=connection.serial,
                hint="push a file, and let the command read that",
            )
        else:
            marker = secrets.token_hex(12)
            self._decoder = V1Decoder(marker)
            service = v1_command(argv, marker)
        self._pending: deque[Output] = deque()
        self._readable = True  # a stream on which reading failed once is only good for close()
        self._closed = False
        self._killed = False
        self._stream = connection.open(service, deadline)

    @property
    def pid(self) -> int | None:
        """Process id, on the phone, of the shell around the command and of its group; None until known."""
        return self._decoder.pid

    @property
    def code(self) -> int | None:
        """Exit code, once the command has ended and all its output was read."""
        return None if self._pending else self._decoder.code

    def read(self, deadline: Deadline) -> Output | None:
        """The next piece of output, of any size up to 256 KiB, as soon as there is one; None at the end.

        Raises:
            ProtocolError: The phone broke the shell protocol, or ended the stream without an exit code.
            DeadlineError: Nothing came.
            DeviceLostError: The phone is gone.
        """
        while not self._pending:
            if self._decoder.code is not None:
                return None
            self._receive(deadline)
        return self._pending.popleft()

    def output(self, deadline: Deadline) -> Iterator[Output]:
        """All output until the end, piece by piece; raises what :meth:`read` raises."""
        while (piece := self.read(deadline)) is not None:
            yield piece

    def gather(self, into: bytearray, deadline: Deadline, *, limit: int = OUTPUT_LIMIT) -> bool:
        """Add standard output to what was gathered before, to its end or until the deadline.

        Returns:
            Whether the command has ended. If not, nothing is lost: it may be waited for again.

        Raises:
            OutputLimitError: There are more than ``limit`` bytes.
        """
        try:
            while (piece := self.read(deadline)) is not None:
                if piece[0] is Channel.STDOUT:
                    into += piece[1]
                if len(into) > limit:
                    raise OutputLimitError(
                        f"`{self.argv[0]}` printed more than {limit} bytes", device=self._connection.serial
                    )
        except DeadlineError:
            self._readable = True
            return False
        return True

    def wait(self, deadline: Deadline) -> int:
        """Wait for the end; output that was not read is dropped.

        Returns:
            The exit code.
        """
        for _ in self.output(deadline):
            pass
        assert self._decoder.code is not None
        return self._decoder.code

    def write_stdin(self, data: bytes | memoryview, deadline: Deadline) -> None:
        """Write to the command's standard input.

        Raises:
            StreamClosedError: The command has ended.
        """
        self._stream.write(stdin_frames(data), deadline)

    def close_stdin(self, deadline: Deadline) -> None:
        """Let the command see the end of its input."""
        self._stream.write(close_stdin_frame(), deadline)

    def kill(self, deadline: Deadline) -> None:
        """End the process group on the phone: SIGTERM, SIGKILL a second later. Its output can still be read.

        The exit code is that of the shell around the command; 143 (SIGTERM) on phones without shell v2.

        Raises:
            ProtocolError: The phone did not tell the process id.
        """
        while self._decoder.pid is None and self._decoder.code is None:
            self._receive(deadline)
        if self._decoder.code is not None or self._decoder.pid is None:
            return
        killer = ShellProcess(self._connection, end_group_command(self._decoder.pid), deadline=deadline)
        self._killed = True
        try:
            killer.wait(deadline)
        finally:
            killer._stream.close()  # and not killer.close(), which would want to end it by another one

    def leave(self) -> None:
        """Let go of the stream, and leave the command to itself: it is hung up, which ends most."""
        self._closed = True
        self._stream.close()

    def close(self) -> None:
        """End the command if it still runs, as far as the phone allows, and let go of the stream.

        Takes at most a second and a half, or no time if the command has ended. May be called twice.
        """
        closed, self._closed = self._closed, True
        try:
            running = self._decoder.code is None and (self._readable or self._decoder.pid is not None)
            if running and not closed:
                # Best effort: a phone that is lost or frozen cannot be told, and whoever closes has, or will
                # get, a better error than this one.
                with contextlib.suppress(DevicelabError):
                    self.kill(Deadline("end of the command", _END_SECONDS, self._connection.serial))
        finally:
            self._stream.close()

    def _receive(self, deadline: Deadline) -> None:
        serial = self._connection.serial
        self._readable, readable = False, self._readable
        if not readable:
            raise ProtocolError(f"the output of `{self.argv[0]}` was cut off before", device=serial)
        data = self._stream.read(_READ, deadline)
        try:
            self._pending += self._decoder.feed(data)
        except MalformedError as error:
            raise ProtocolError(f"`{self.argv[0]}`: {error}", device=serial) from error
        if not data and self._killed:
            self._decoder.code = (
                _TERMINATED  # v1: the shell that would have told the code was in the group, too
            )
        elif not data and self._decoder.code is None:
            raise ProtocolError(f"the shell of `{self.argv[0]}` ended without an exit code", device=serial)
        self._readable = True


def run(
    connection: Connection,
    argv: Sequence[str],
    *,
    deadline: Deadline,
    stdin: bytes = b"",
    limit: int = OUTPUT_LIMIT,
    check: bool = True,
) -> ShellResult:
    """Run a command to its end.

    Args:
        connection: The phone.
        argv: The command and its arguments; for scripts ``["sh", "-c", script]``.
        deadline: For all of it. Where it is missed, the command is ended.
        stdin: What the command reads; only on phones with shell v2.
        limit: How many bytes it may print in all.
        check: Raise if it fails.

    Raises:
        RemoteCommandError: Its exit code is not 0 (with ``check``).
        OutputLimitError: It printed more than ``limit`` bytes; it was ended.
        DeadlineError: It did not end in time; it was ended.
        DeviceLostError: The phone is gone.
        ProtocolError: The phone broke the shell protocol.
        DeviceNotReadyError: ``stdin`` on a phone without shell v2.
    """
    printed = {Channel.STDOUT: bytearray(), Channel.STDERR: bytearray()}  # pieces may be one byte long
    with contextlib.ExitStack() as stack:
        process = ShellProcess(connection, argv, deadline=deadline, stdin=bool(stdin))
        if stdin:
            stack.enter_context(_feeding(process, stdin, deadline))
        stack.enter_context(process)  # closed first, which ends the feeding, too
        for channel, piece in process.output(deadline):
            printed[channel] += piece
            if sum(map(len, printed.values())) > limit:
                raise OutputLimitError(
                    f"`{' '.join(argv)[:200]}` printed more than {limit} bytes", device=connection.serial
                )
        code = process.wait(deadline)
    stdout, stderr = bytes(printed[Channel.STDOUT]), bytes(printed[Channel.STDERR])
    if check and code != 0:
        raise RemoteCommandError(argv, device=connection.serial, code=code, stdout=stdout, stderr=stderr)
    return ShellResult(tuple(argv), code, stdout, stderr)


@contextlib.contextmanager
def _feeding(process: ShellProcess, data: bytes, deadline: Deadline) -> Iterator[None]:
    """Write to a process from a thread of its own, as both sides may be full of what the other should read."""

    def feed() -> None:
        # Whatever goes wrong here shows in what is read, too; that a command does not want all of its input
        # is no error at all.
        with contextlib.suppress(DevicelabError):
            process.write_stdin(data, deadline)
            process.close_stdin(deadline)

    thread = threading.Thread(target=feed, name="adb-stdin")
    thread.start()
    try:
        yield
    finally:
        thread.join()
