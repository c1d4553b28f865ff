"""The phone's side of the shell and file services, as far as a fake phone needs it."""

from __future__ import annotations

import contextlib
import hashlib
import re
import select
import socket
import stat
import struct
import threading

from devicelab.adb.compression import METHODS, Compression, compressor, decompressor, flag
from devicelab.adb.fake_phone import FakePhone, FakeResult
from devicelab.adb.shell_protocol import end_group_command, parse_command
from devicelab.adb.sync_protocol import (
    DATA_LIMIT,
    HEADER,
    NAME_LENGTH,
    SETUP_RECEIVE,
    SETUP_SEND,
    STAT_V1,
    STAT_V2,
)
from devicelab.adb.transfer import DAMAGED, FINISH_SCRIPT, IS_DIRECTORY

__all__ = ["Line", "LineClosedError", "knows", "serve"]

_LOOK_UP = 0.02  # seconds between two looks at what else may have happened
_FRAME = struct.Struct("<BI")  # of shell v2: id, length
_STDIN, _STDOUT, _STDERR, _EXIT, _CLOSE_STDIN = range(5)
_KILLED = 128 + 15  # SIGTERM
_COMPRESSION: dict[int, Compression] = {flag(method): method for method in ("none", *METHODS)}


class LineClosedError(Exception):
    """The other side of a fake stream is gone."""


class Line:
    """The phone's end of one stream: it takes and gives bytes unless the phone is frozen or the line cut.

    Args:
        sock: Its end of a socket pair; owned from now on.
        phone: Which phone.
    """

    def __init__(self, sock: socket.socket, phone: FakePhone) -> None:
        self._sock = sock
        self._phone = phone
        self._cut = threading.Event()

    def cut(self) -> None:
        """Wake whoever waits here, for good."""
        self._cut.set()
        with contextlib.suppress(OSError):  # the other side was first
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give up the socket; only for the thread that serves it."""
        self._sock.close()

    def read(self, limit: int) -> bytes:
        """The next bytes."""
        self._wait_awake()
        try:
            data = self._sock.recv(limit)
        except OSError as error:
            raise LineClosedError from error
        if not data:
            raise LineClosedError
        return data

    def exactly(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        data = b""
        while len(data) < size:
            data += self.read(size - len(data))
        return data

    def write(self, data: bytes) -> None:
        """Send all of it."""
        self._wait_awake()
        try:
            self._sock.sendall(data)
        except OSError as error:
            raise LineClosedError from error

    def wait(self, event: threading.Event) -> None:
        """Wait for an event while the host says nothing."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        while not event.wait(_LOOK_UP):
            if self._cut.is_set() or poll.poll(0):
                raise LineClosedError

    def _wait_awake(self) -> None:
        while not self._phone.wait_awake(_LOOK_UP):
            if self._cut.is_set():
                raise LineClosedError


def knows(phone: FakePhone, service: str) -> bool:
    """Whether a phone's adbd opens a service."""
    if service == "sync:":
        return True
    return service.startswith("shell,v2," if "shell_v2" in phone.features else "shell:")


def serve(phone: FakePhone, service: str, line: Line) -> None:
    """Serve one stream to its end."""
    try:
        if service == "sync:":
            _Sync(phone, line).serve()
        else:
            _serve_shell(phone, service, line)
    except LineClosedError:
        pass
    finally:
        line.cut()
        line.close()


# --- shell ---


def _serve_shell(phone: FakePhone, service: str, line: Line) -> None:
    argv, marker = parse_command(service)
    wants_input = marker is None and "exec </dev/null" not in service
    with phone.process() as (pid, killed):
        if marker is None:
            line.write(_frame(_STDOUT, f"{pid}\n".encode()))
        else:
            line.write(f"{marker}{pid}\r\n".encode())
        result = _run(phone, argv, _read_stdin(line) if wants_input else b"")
        if marker is None:
            line.write(_frame(_STDOUT, result.stdout) + _frame(_STDERR, result.stderr))
        else:
            line.write((result.stdout + result.stderr).replace(b"\n", b"\r\n"))
        code = result.code
        if result.hangs:
            line.wait(killed)
            code = _KILLED
            if marker is not None:
                return  # the shell that would tell the code is killed with the command
    line.write(_frame(_EXIT, bytes([code])) if marker is None else f"{marker}{code}\r\n".encode())


def _frame(number: int, data: bytes) -> bytes:
    return _FRAME.pack(number, len(data)) + data if data else b""


def _read_stdin(line: Line) -> bytes:
    data = b""
    while True:
        number, length = _FRAME.unpack(line.exactly(_FRAME.size))
        if number == _CLOSE_STDIN:
            return data
        data += line.exactly(length)


def _run(phone: FakePhone, argv: list[str], stdin: bytes) -> FakeResult:
    """What the room itself asks of a phone works on the fake's files and processes; the rest is the fake's."""
    match argv:
        case ["sh", "-c", script, "sh", part, name, mode, expected] if script == FINISH_SCRIPT:
            return _finish(phone, part, name, int(mode, 8), expected)
        case ["sh", "-c", script] if group := _end_group(script):
            phone.kill(group)
            return FakeResult()
        case ["rm", "-f" | "-rf" as option, *paths]:
            for path in paths:
                phone.delete(path, recursive=option == "-rf")
            return FakeResult()
    return phone.answer(argv, stdin)


def _end_group(script: str) -> int:
    """The process group that a script of end_group_command() ends; 0 if it is none of those."""
    found = re.search(r"kill -KILL -(\d+)$", script)
    return int(found[1]) if found and end_group_command(int(found[1]))[2] == script else 0


def _finish(phone: FakePhone, part: str, name: str, mode: int, expected: str) -> FakeResult:
    if part not in phone.files:
        return FakeResult(1, stderr=f"mv: bad '{part}': No such file or directory\n".encode())
    found = hashlib.sha256(phone.files[part]).hexdigest()
    if expected and found != expected:
        return FakeResult(DAMAGED, stdout=found.encode())
    if phone.is_directory(name):
        return FakeResult(IS_DIRECTORY)
    phone.rename(part, name, mode)
    return FakeResult(stdout=(found if expected else "none").encode() + b"\n")


# --- sync ---


class _Sync:
    """One session of the file service."""

    def __init__(self, phone: FakePhone, line: Line) -> None:
        self._phone = phone
        self._line = line

    def serve(self) -> None:
        """Answer requests until the host hangs up."""
        handlers = {
            b"STAT": self._stat,
            b"LST2": self._stat_v2,
            b"STA2": self._stat_v2,
            b"LIST": self._list,
            b"LIS2": self._list,
            b"SEND": self._send,
            b"SND2": self._send,
            b"RECV": self._receive,
            b"RCV2": self._receive,
        }
        while True:
            number, length = HEADER.unpack(self._line.exactly(HEADER.size))
            path = self._line.exactly(length).decode("utf-8", "surrogateescape")
            handlers[number](number, path)

    def _look(self, path: str) -> tuple[int, int, int]:
        """Mode, size and time of a file; zeros if there is none."""
        if path in self._phone.files:
            mode = stat.S_IFREG | self._phone.modes.get(path, 0o644)
            return mode, len(self._phone.files[path]), self._phone.mtimes.get(path, 0)
        return (stat.S_IFDIR | 0o771, 4096, 0) if self._phone.is_directory(path) else (0, 0, 0)

    def _body_v1(self, path: str) -> bytes:
        mode, size, mtime = self._look(path)
        return STAT_V1.pack(mode, size & 0xFFFFFFFF, mtime & 0xFFFFFFFF)

    def _body_v2(self, path: str) -> bytes:
        mode, size, mtime = self._look(path)
        return STAT_V2.pack(0 if mode else 2, 1, 1, mode, 1, 2000, 2000, size, mtime, mtime, mtime)

    def _stat(self, number: bytes, path: str) -> None:
        self._line.write(number + self._body_v1(path))

    def _stat_v2(self, number: bytes, path: str) -> None:
        self._line.write(number + self._body_v2(path))

    def _list(self, number: bytes, path: str) -> None:
        answer, body = (b"DENT", self._body_v1) if number == b"LIST" else (b"DNT2", self._body_v2)
        size = (STAT_V1 if number == b"LIST" else STAT_V2).size + NAME_LENGTH.size
        for name in (".", "..", *self._phone.children(path)) if self._phone.is_directory(path) else ():
            raw = name.encode("utf-8", "surrogateescape")
            self._line.write(answer + body(f"{path.rstrip('/')}/{name}") + NAME_LENGTH.pack(len(raw)) + raw)
        self._line.write(b"DONE" + bytes(size))

    def _send(self, number: bytes, path: str) -> None:
        if number == b"SND2":
            _, mode, flags = SETUP_SEND.unpack(self._line.exactly(SETUP_SEND.size))
        else:
            path, _, text = path.rpartition(",")
            mode, flags = int(text), 0
        content = bytearray()
        unpack = content.extend if flags == 0 else decompressor(_COMPRESSION[flags], content.extend).feed
        failed = False
        while True:
            frame, length = HEADER.unpack(self._line.exactly(HEADER.size))
            if frame == b"DONE":
                break
            unpack(self._line.exactly(length))
            if not failed and not self._phone.fits(path, len(content)):
                failed = True  # as adbd does: say so at once, and then take the rest and drop it
                self._phone.delete(path, recursive=False)
                self._fail("write failed: No space left on device")
        if not failed:
            self._phone.store(path, bytes(content), stat.S_IMODE(mode), length)
            self._line.write(HEADER.pack(b"OKAY", 0))

    def _receive(self, number: bytes, path: str) -> None:
        flags = 0
        if number == b"RCV2":
            _, flags = SETUP_RECEIVE.unpack(self._line.exactly(SETUP_RECEIVE.size))
        content = self._phone.files.get(path)
        if content is None:
            self._fail("open failed: No such file or directory")
            return
        if flags:
            packer = compressor(_COMPRESSION[flags])
            content = packer.feed(content) + packer.finish()
        for start in range(0, len(content), DATA_LIMIT):
            piece = content[start : start + DATA_LIMIT]
            self._line.write(HEADER.pack(b"DATA", len(piece)) + piece)
        self._line.write(HEADER.pack(b"DONE", 0))

    def _fail(self, text: str) -> None:
        self._line.write(HEADER.pack(b"FAIL", len(text)) + text.encode())
