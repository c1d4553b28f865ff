r"""The two ways in which adbd runs a command, as pure codecs: shell v2 (frames) and v1 (a bare terminal).

**v2** (Android 7 and newer, feature ``shell_v2``): the service ``shell,v2,raw:COMMAND`` carries frames
``<id u8> <length u32 LE> <bytes>``. Source: ``shell_protocol.h`` in AOSP's adb.

**v1**: the service ``shell:COMMAND`` is the bare output of a terminal: both channels in one, no exit code, and
before Android 7 every ``\n`` turned into ``\r\n``. So the command is put between two lines with a random
marker; the first tells the process id and whether newlines are translated (which can then be undone exactly, as
a terminal translates *every* newline), the second the exit code.

Either way the command runs under a shell that first prints its process id. That shell leads a process group of
its own, which is what must be ended when we give up: adbd itself hangs up nothing but the shell.
"""

from __future__ import annotations

import re
import shlex
import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Protocol

from devicelab.adb.malformed import MalformedError

__all__ = [
    "Channel",
    "Output",
    "ShellDecoder",
    "V1Decoder",
    "V2Decoder",
    "close_stdin_frame",
    "end_group_command",
    "parse_command",
    "stdin_frames",
    "v1_command",
    "v2_command",
]

FRAME_LIMIT = 16 << 20  # adbd sends at most 1 MiB at a time; what comes is passed on in pieces, never gathered
_STDIN_FRAME = 32 << 10  # adbd before Android 9 has buffers of this size
_PREFACE_LIMIT = 4 << 10  # bytes that an old phone's linker may say about the shell itself, before the marker
_PID_LIMIT = 12  # characters of the line with the process id
_HEADER = struct.Struct("<BI")
_PID = re.compile(rb"[1-9][0-9]{0,9}")
_CODE = re.compile(rb"[0-9]{1,3}")
_V2_SERVICE = re.compile(r"shell,v2,raw:echo \$\$;(exec </dev/null;)?(?P<command>.+)", re.DOTALL)
_V1_SERVICE = re.compile(
    r"shell:echo (?P<first>\w+)''(?P<second>\w+)\$\$;\((?P<command>.+)\) </dev/null;"
    r"echo (?P=first)''(?P=second)\$\?",
    re.DOTALL,
)


class Channel(IntEnum):
    """Where a piece of output was written to."""

    STDOUT = 1
    STDERR = 2


# Frame ids; plain numbers, as a phone can send a hundred thousand frames a second.
_STDIN, _STDOUT, _STDERR, _EXIT, _CLOSE_STDIN = range(5)

Output = tuple[Channel, bytes]


class ShellDecoder(Protocol):
    """Turns what adbd sends into output.

    Attributes:
        pid: Process id of the shell on the phone, once it is known.
        code: Exit code, once the command has ended; what follows it is ignored.
    """

    pid: int | None
    code: int | None

    def feed(self, data: bytes) -> list[Output]:
        """Decode more bytes into what can be passed on now.

        Raises:
            MalformedError: The bytes are not what a shell service sends; the text says why.
        """
        ...


class V2Decoder:
    """Frames of shell v2. Holds at most one frame header and the line with the process id."""

    def __init__(self) -> None:
        self.pid: int | None = None
        self.code: int | None = None
        self._buffer = bytearray()  # an incomplete header
        self._id = 0
        self._left = 0  # bytes of the current frame still to come
        self._first_line: bytearray | None = bytearray()

    def feed(self, data: bytes) -> list[Output]:
        """See :meth:`ShellDecoder.feed`."""
        output: list[Output] = []
        if self._buffer:
            data = bytes(self._buffer) + data
            self._buffer.clear()
        position, end = 0, len(data)
        while position < end and self.code is None:
            if self._left == 0:
                if end - position < _HEADER.size:
                    self._buffer += data[position:]
                    break
                self._begin_frame(*_HEADER.unpack_from(data, position))
                position += _HEADER.size
            piece = data[position : position + self._left]
            position += len(piece)
            self._left -= len(piece)
            self._take(piece, output)
        return output

    def _begin_frame(self, number: int, length: int) -> None:
        if number not in (_STDOUT, _STDERR, _EXIT):
            raise MalformedError(f"a shell frame with the unknown id {number}")
        if length > FRAME_LIMIT or (number == _EXIT and length != 1):
            raise MalformedError(f"a shell frame (id {number}) of {length} bytes")
        self._id, self._left = number, length

    def _take(self, piece: bytes, output: list[Output]) -> None:
        if not piece:
            return
        if self._id == _EXIT:
            self.code = piece[0]
            return
        if self._first_line is not None and self._id == _STDOUT:
            piece = self._without_pid(piece)
            if not piece:
                return
        output.append((Channel.STDOUT if self._id == _STDOUT else Channel.STDERR, piece))

    def _without_pid(self, piece: bytes) -> bytes:
        line = self._first_line
        assert line is not None
        line += piece
        end = line.find(b"\n", 0, _PID_LIMIT + 1)
        if end < 0:
            if len(line) > _PID_LIMIT:
                raise MalformedError(f"the shell began with {bytes(line[:40])!r} and not with its process id")
            return b""
        self.pid = _parse(_PID, bytes(line[:end]), "process id")
        self._first_line = None
        return bytes(line[end + 1 :])


class V1Decoder:
    """Output of a v1 shell between two markers. Holds at most a few hundred bytes.

    Args:
        marker: The marker that was given to :func:`v1_command`.
    """

    def __init__(self, marker: str) -> None:
        self.pid: int | None = None
        self.code: int | None = None
        self._marker = marker.encode("ascii")
        self._buffer = bytearray()
        self._newline = b"\n"

    def feed(self, data: bytes) -> list[Output]:
        """See :meth:`ShellDecoder.feed`."""
        if self.code is not None:
            return []
        self._buffer += data
        if self.pid is None and not self._begin():
            return []
        at = self._buffer.find(self._marker)
        if at < 0:
            return self._pass_on(len(self._buffer) - self._possible_marker())
        line = self._line(at)
        if line is None:
            return self._pass_on(at)
        self.code = _parse(_CODE, line, "exit code")
        output = self._pass_on(at, to_the_end=True)
        self._buffer.clear()
        return output

    def _begin(self) -> bool:
        """Drop everything up to the first line with the marker, which tells the pid; whether it has come."""
        at = self._buffer.find(self._marker)
        line = self._line(at) if at >= 0 else None
        if line is None:
            if len(self._buffer) > _PREFACE_LIMIT:
                raise MalformedError(
                    f"the shell began with {bytes(self._buffer[:40])!r} and not with its marker"
                )
            return False
        self.pid = _parse(_PID, line, "process id")
        end = self._buffer.index(b"\n", at)
        if self._buffer[end - 1] == 0x0D:
            self._newline = b"\r\n"
        del self._buffer[: end + 1]
        return True

    def _line(self, at: int) -> bytes | None:
        """What stands between the marker at ``at`` and the end of its line, if that has come."""
        start = at + len(self._marker)
        end = self._buffer.find(b"\n", start, start + _PID_LIMIT + 2)
        if end >= 0:
            return bytes(self._buffer[start:end]).removesuffix(b"\r")
        if len(self._buffer) > start + _PID_LIMIT:
            raise MalformedError(
                f"after its marker the shell printed {bytes(self._buffer[start : start + 40])!r}"
            )
        return None

    def _possible_marker(self) -> int:
        """How many of the last bytes may be the beginning of the marker."""
        longest = min(len(self._marker) - 1, len(self._buffer))
        return next((n for n in range(longest, 0, -1) if self._buffer.endswith(self._marker[:n])), 0)

    def _pass_on(self, count: int, *, to_the_end: bool = False) -> list[Output]:
        if not to_the_end and count and self._buffer[count - 1] == 0x0D:
            count -= 1  # perhaps the first half of a translated newline
        piece = bytes(self._buffer[:count])
        del self._buffer[:count]
        if self._newline == b"\r\n":
            piece = piece.replace(b"\r\n", b"\n")
        return [(Channel.STDOUT, piece)] if piece else []


def v2_command(argv: Sequence[str], *, stdin: bool) -> str:
    """The service that runs ``argv`` under shell v2.

    A script (``sh -c …``) is run by the shell that tells its process id: starting another one costs more than
    a round trip. It is handed over by ``eval``, so that an error in its syntax does not take the process id
    along.

    Args:
        argv: The command and its arguments, quoted here.
        stdin: Whether something will be written to it; else its input is empty, at no extra message.

    Raises:
        ValueError: ``argv`` is empty or holds a NUL character.
    """
    no_input = "" if stdin else "exec </dev/null;"
    return f"shell,v2,raw:echo $$;{no_input}{_in_place(argv) or _quoted(argv)}"


def v1_command(argv: Sequence[str], marker: str) -> str:
    """The service that runs ``argv`` under shell v1, between two lines that begin with ``marker``.

    Its input is empty: a terminal's input is edited, echoed and cut into lines of at most 4,095 bytes, so that
    nothing can safely be sent through it.

    Raises:
        ValueError: ``argv`` is empty or holds a NUL character.
    """
    # In a shell of its own, so that `exit` in it does not skip the second marker. The marker is written in two
    # parts, so that it stands nowhere in a command line which a phone may print along with an error.
    first, second = marker[:4], marker[4:]
    return f"shell:echo {first}''{second}$$;({_quoted(argv)}) </dev/null;echo {first}''{second}$?"


def parse_command(service: str) -> tuple[list[str], str | None]:
    """The inverse of :func:`v2_command` and :func:`v1_command`, for doubles of a phone.

    Returns:
        The command, and the marker of a v1 service.

    Raises:
        ValueError: Neither of the two made this service.
    """
    if found := _V2_SERVICE.fullmatch(service):
        match words := shlex.split(found["command"]):
            case ["set", "--", *arguments, ";", "eval", script]:
                return ["sh", "-c", script, *(["sh", *arguments] if arguments else [])], None
        return words, None
    if found := _V1_SERVICE.fullmatch(service):
        return shlex.split(found["command"]), found["first"] + found["second"]
    raise ValueError(f"no command of ours: {service[:100]!r}")


def end_group_command(pid: int) -> list[str]:
    """A command that ends a process group: SIGTERM, a second of grace, SIGKILL.

    It goes on when its own stream is closed, which adbd reports as SIGHUP. (Toolbox's ``sleep``, on Android 5
    and older, takes 0.1 for 0: no grace there.)
    """
    script = (
        f"trap '' HUP;kill -TERM -{pid};i=0;"
        f"while kill -0 -{pid}&&[ $i -lt 10 ];do i=$((i+1));sleep 0.1;done;"
        f"kill -KILL -{pid}"
    )
    return ["sh", "-c", f"exec 2>/dev/null;{script}"]


def stdin_frames(data: bytes | memoryview) -> bytes:
    """The frames that write ``data`` to a v2 command's standard input."""
    parts: list[bytes | memoryview] = []
    view = memoryview(data)
    for start in range(0, len(view), _STDIN_FRAME):
        piece = view[start : start + _STDIN_FRAME]
        parts += (_HEADER.pack(_STDIN, len(piece)), piece)
    return b"".join(parts)


def close_stdin_frame() -> bytes:
    """The frame that closes a v2 command's standard input."""
    return _HEADER.pack(_CLOSE_STDIN, 0)


def _in_place(argv: Sequence[str]) -> str:
    """The line that has the shell itself run a script; "" for what a shell of its own would run differently."""
    match list(argv):
        case ["sh", "-c", script] if not script.startswith("-"):
            words: list[str] = []
        case ["sh", "-c", script, "sh", *words] if words and not script.startswith("-"):
            pass
        case _:
            return ""
    return f"{_quoted(['set', '--', *words])} ; {_quoted(['eval', script])}"


def _quoted(argv: Sequence[str]) -> str:
    if not argv:
        raise ValueError("an empty command")
    if any("\0" in word for word in argv):
        raise ValueError("a NUL character in a command")
    return shlex.join(argv)


def _parse(pattern: re.Pattern[bytes], text: bytes, what: str) -> int:
    if not pattern.fullmatch(text):
        raise MalformedError(f"{text[:40]!r} is no {what}")
    return int(text)
