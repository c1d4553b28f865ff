"""adbd's ``shell:``, ``shell,v2:`` and ``exec:``: a command, its three pipes and its exit code over one stream.

Shell v2 sends frames ``<id u8> <length u32 LE> <bytes>`` (AOSP, ``shell_protocol.h``); v1 and exec send stdout
and stderr as they come. There are no terminals: a service that asks for one gets pipes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import signal
import struct
import subprocess
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from devicelab.virtual.packets import MAX_PAYLOAD
from devicelab.virtual.pyadbd.session import Stream, StreamEndedError

__all__ = ["Command", "FrameId", "pack_frame", "parse_command", "read_frame", "run_command"]

_HEADER = struct.Struct("<BI")
_FRAME_LIMIT = 1 << 20  # bytes; adb sends at most 32 KiB of stdin at a time
_CHUNK = 1 << 16


class FrameId(IntEnum):
    """What a frame of shell v2 carries."""

    STDIN = 0
    STDOUT = 1
    STDERR = 2
    EXIT = 3
    CLOSE_STDIN = 4
    WINDOW_SIZE = 5


@dataclass(frozen=True, slots=True)
class Command:
    """What a service name asks for.

    Attributes:
        text: For the shell; empty for one that reads its commands from stdin.
        frames: Whether to speak shell v2.
    """

    text: str
    frames: bool

    def translated(self, translate: Callable[[str], str]) -> Command:
        """The same with another text."""
        return Command(translate(self.text), self.frames)


def parse_command(service: str) -> Command | None:
    """Read ``shell:…``, ``shell,v2,raw:…`` or ``exec:…``; None for any other service."""
    head, colon, text = service.partition(":")
    name, *options = head.split(",")
    if not colon or name not in ("shell", "exec") or (name == "exec" and options):
        return None
    return Command(text, "v2" in options)


def pack_frame(number: FrameId, data: bytes) -> bytes:
    """One frame of shell v2."""
    return _HEADER.pack(number, len(data)) + data


def read_frame(stream: Stream) -> tuple[int, bytes]:
    """The next frame from the host.

    Raises:
        StreamEndedError: There is none, or one that is longer than any real one.
    """
    number, length = _HEADER.unpack(stream.read_exactly(_HEADER.size))
    if length > _FRAME_LIMIT:
        raise StreamEndedError(f"a shell frame of {length} bytes")
    return number, stream.read_exactly(length)


def run_command(stream: Stream, command: Command, *, directory: Path, environment: Mapping[str, str]) -> None:
    """Run a command under ``/bin/sh`` until it has ended and its output is closed, or the host ends the stream.

    When the host does so, its pipes are closed and, with shell v2, the shell is hung up (SIGHUP). What it
    started is left alone. All of this is as adbd does it.

    Args:
        stream: Where its pipes lead.
        command: What to run; its process leads a session of its own.
        directory: Where.
        environment: All of its environment.
    """
    argv = ["/bin/sh", "-c", command.text] if command.text else ["/bin/sh"]
    process = subprocess.Popen(
        argv,
        cwd=directory,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if command.frames else subprocess.STDOUT,
        start_new_session=True,
    )
    with _Running(stream, process, frames=command.frames) as running:
        code = running.pump()
        if command.frames:
            stream.write(pack_frame(FrameId.EXIT, bytes([code])))


class _Running:
    """A command's process between its pipes and its stream."""

    def __init__(self, stream: Stream, process: subprocess.Popen[bytes], *, frames: bool) -> None:
        self._stream = stream
        self._process = process
        self._frames = frames
        self._cut, self._cutter = os.pipe2(os.O_CLOEXEC)  # readable once the stream has ended
        self._feeder = threading.Thread(target=self._feed, name=f"stdin of {process.pid}")

    def __enter__(self) -> _Running:
        self._feeder.start()
        self._stream.on_end(lambda: os.write(self._cutter, b"x"))
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._stream.on_end(None)
        os.write(self._cutter, b"x")
        self._feeder.join()
        if self._process.poll() is None:
            if self._frames:
                self._process.send_signal(signal.SIGHUP)
            threading.Thread(target=self._process.wait, name="reaper", daemon=True).start()
        for pipe in (self._process.stdout, self._process.stderr, self._process.stdin):
            if pipe is not None:
                pipe.close()
        os.close(self._cut)
        os.close(self._cutter)

    def pump(self) -> int:
        """Carry output until the process has ended and every copy of its output pipes is closed.

        Returns:
            The exit code, 128 + n for signal n.

        Raises:
            StreamEndedError: The host ended the stream before.
        """
        process = self._process
        assert process.stdout is not None
        pidfd = os.pidfd_open(process.pid)
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._cut, selectors.EVENT_READ)
                selector.register(pidfd, selectors.EVENT_READ)
                selector.register(process.stdout, selectors.EVENT_READ, FrameId.STDOUT)
                if process.stderr is not None:
                    selector.register(process.stderr, selectors.EVENT_READ, FrameId.STDERR)
                while len(selector.get_map()) > 1:
                    for key, _ in selector.select():
                        if key.fd == self._cut:
                            raise StreamEndedError("hung up")
                        if key.fd == pidfd or not self._carry(key):
                            selector.unregister(key.fileobj)
        finally:
            os.close(pidfd)
        code = process.wait()
        return code & 255 if code >= 0 else 128 - code

    def _carry(self, key: selectors.SelectorKey) -> bool:
        """Pass on what one pipe holds; False at its end."""
        data = os.read(key.fd, _CHUNK)
        if data:
            self._stream.write(pack_frame(key.data, data) if self._frames else data)
        return bool(data)

    def _feed(self) -> None:
        """Pass the host's bytes to the process's stdin until the stream ends."""
        stdin = self._process.stdin
        assert stdin is not None
        os.set_blocking(stdin.fileno(), False)
        with contextlib.suppress(OSError):  # beyond the user's share of pipe memory; then a smaller one will do
            fcntl.fcntl(stdin, fcntl.F_SETPIPE_SZ, MAX_PAYLOAD)
        with contextlib.suppress(StreamEndedError):
            while True:
                number, data = (
                    read_frame(self._stream) if self._frames else (FrameId.STDIN, self._stream.read())
                )
                if not self._frames and not data:
                    return
                if number == FrameId.STDIN and not stdin.closed and self._give(stdin.fileno(), data):
                    continue
                if number in (FrameId.STDIN, FrameId.CLOSE_STDIN):
                    stdin.close()  # what still comes is thrown away

    def _give(self, stdin: int, data: bytes) -> bool:
        """Write all of ``data``, however slowly the process reads; False once it does not read any more.

        Raises:
            StreamEndedError: The stream has ended meanwhile, and the pipe is full.
        """
        view = memoryview(data)
        with selectors.DefaultSelector() as selector:
            selector.register(stdin, selectors.EVENT_WRITE)
            selector.register(self._cut, selectors.EVENT_READ)
            while view:
                try:
                    view = view[os.write(stdin, view) :]
                except BlockingIOError:
                    if any(key.fd == self._cut for key, _ in selector.select()):
                        raise StreamEndedError("hung up") from None
                except BrokenPipeError:
                    return False
        return True
