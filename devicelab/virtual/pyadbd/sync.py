"""adbd's ``sync:`` service, v1 and v2: stat, list, send, receive.

Requests are ``<id 4 bytes> <length u32 LE> <path>``; v2's send and receive are followed by a second message
with their flags. Formats and order of events are AOSP's ``file_sync_protocol.h`` and ``file_sync_service.cpp``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

from devicelab.virtual.pyadbd.session import Stream, StreamEndedError
from devicelab.virtual.pyadbd.tree import Tree

__all__ = ["SyncService", "pack_entry_v1", "pack_entry_v2", "pack_stat_v1", "pack_stat_v2", "parse_send_path"]

PATH_LIMIT = 1024
DATA_LIMIT = 64 << 10
_OUTGOING = 512 << 10  # bytes gathered before they are sent
_SHELL = 2000  # Android's AID_SHELL, who owns everything here
_WORD = 0xFFFFFFFF

_REQUEST = struct.Struct("<4sI")
_STAT_V1 = struct.Struct("<4s3I")  # id, mode, size, mtime
_ENTRY_V1 = struct.Struct("<4s4I")  # …, length of the name
_STAT_V2 = struct.Struct(
    "<4sIQQIIIIQqqq"
)  # id, error, dev, ino, mode, nlink, uid, gid, size, atime, mtime, ctime
_ENTRY_V2 = struct.Struct("<4sIQQIIIIQqqqI")
_SEND_V2 = struct.Struct("<4sII")  # id, mode, flags
_RECEIVE_V2 = struct.Struct("<4sI")


class _RefusedError(Exception):
    """The request fails: the host is told why, and the service ends, as adbd's does.

    Args:
        message: Why.
        rest: What the host still sends, whatever it is told.
    """

    def __init__(self, message: str, *, rest: _Incoming | None = None) -> None:
        super().__init__(message)
        self.rest = rest


def pack_stat_v1(found: os.stat_result | None) -> bytes:
    """Answer to STAT: mode, size and time modulo 2**32, all zero for what is not there."""
    if found is None:
        return _STAT_V1.pack(b"STAT", 0, 0, 0)
    return _STAT_V1.pack(b"STAT", found.st_mode, found.st_size & _WORD, int(found.st_mtime) & _WORD)


def pack_stat_v2(number: bytes, found: os.stat_result | OSError) -> bytes:
    """Answer to STA2 and LST2: an errno, or everything."""
    if isinstance(found, OSError):
        return _STAT_V2.pack(number, found.errno or errno.EIO, *[0] * 10)
    return _STAT_V2.pack(number, 0, *_all(found))


def pack_entry_v1(name: bytes, found: os.stat_result) -> bytes:
    """One entry of a LIST."""
    mtime = int(found.st_mtime) & _WORD
    return _ENTRY_V1.pack(b"DENT", found.st_mode, found.st_size & _WORD, mtime, len(name)) + name


def pack_entry_v2(name: bytes, found: os.stat_result | OSError) -> bytes:
    """One entry of a LIS2."""
    if isinstance(found, OSError):
        return _ENTRY_V2.pack(b"DNT2", found.errno or errno.EIO, *[0] * 10, len(name)) + name
    return _ENTRY_V2.pack(b"DNT2", 0, *_all(found), len(name)) + name


def _all(found: os.stat_result) -> tuple[int, ...]:
    times = (int(found.st_atime), int(found.st_mtime), int(found.st_ctime))
    return (
        *(found.st_dev, found.st_ino, found.st_mode, found.st_nlink, _SHELL, _SHELL, found.st_size),
        *times,
    )


def parse_send_path(argument: str) -> tuple[str, int]:
    """Take ``path,mode`` of a SEND apart; the path may hold commas, the mode is decimal.

    Raises:
        ValueError: There is no mode.
    """
    path, comma, mode = argument.rpartition(",")
    if not comma or not mode.isascii() or not mode.isdecimal() or len(mode) > 10:
        raise ValueError(argument)
    return path, int(mode)


class SyncService:
    """Serves one stream.

    What belongs together is sent together, as adbd's own buffers do it: one WRTE for each small answer would
    cost adb 40 ms, as its server and client talk over TCP without TCP_NODELAY.

    Args:
        stream: The host.
        tree: The phone's files.
    """

    def __init__(self, stream: Stream, tree: Tree) -> None:
        self.stream = stream
        self.tree = tree
        self._outgoing = bytearray()

    def run(self) -> None:
        """Answer requests until QUIT, a failure or the stream's end."""
        handlers: dict[bytes, Callable[[str], None]] = {
            b"STAT": self._stat_v1,
            b"STA2": lambda path: self._stat_v2(b"STA2", path, os.stat),
            b"LST2": lambda path: self._stat_v2(b"LST2", path, os.lstat),
            b"LIST": self._list_v1,
            b"LIS2": self._list_v2,
            b"SEND": self._send_v1,
            b"SND2": self._send_v2,
            b"RECV": self._receive,
            b"RCV2": self._receive_v2,
        }
        try:
            while True:
                number, length = _REQUEST.unpack(self.stream.read_exactly(_REQUEST.size))
                if length > PATH_LIMIT:
                    raise _RefusedError("path too long")
                argument = self.stream.read_exactly(length).decode("utf-8", "surrogateescape")
                if number == b"QUIT":
                    return
                if number not in handlers:
                    raise _RefusedError(f"unknown command {int.from_bytes(number, 'little'):08x}")
                if "\0" in argument:
                    raise _RefusedError("path holds a NUL")
                handlers[number](argument)
                self._flush()
        except _RefusedError as error:
            message = str(error).encode("utf-8", "surrogateescape")
            self._put(_REQUEST.pack(b"FAIL", len(message)) + message)
            self._flush()
            if error.rest is not None:
                error.rest.drain()

    def _put(self, data: bytes) -> None:
        self._outgoing += data
        if len(self._outgoing) >= _OUTGOING:
            self._flush()

    def _flush(self) -> None:
        data = bytes(self._outgoing)
        self._outgoing.clear()
        self.stream.write(data)

    # -- stat and list ---------------------------------------------------------------------------------------

    def _stat_v1(self, path: str) -> None:
        found = _try(os.lstat, self.tree.locate(path))
        self._put(pack_stat_v1(None if isinstance(found, OSError) else found))

    def _stat_v2(self, number: bytes, path: str, look: Callable[[Path], os.stat_result]) -> None:
        self._put(pack_stat_v2(number, _try(look, self.tree.locate(path))))

    def _list_v1(self, path: str) -> None:
        for name, found in self._entries(path):
            if not isinstance(found, OSError):
                self._put(pack_entry_v1(name, found))
        self._put(_ENTRY_V1.pack(b"DONE", 0, 0, 0, 0))

    def _list_v2(self, path: str) -> None:
        for name, found in self._entries(path):
            self._put(pack_entry_v2(name, found))
        self._put(_ENTRY_V2.pack(b"DONE", *[0] * 12))

    def _entries(self, path: str) -> Iterator[tuple[bytes, os.stat_result | OSError]]:
        """A directory's entries; none where it cannot be read, which is all that LIST can say."""
        folder = self.tree.locate(path)
        try:
            names = [".", "..", *sorted(os.listdir(folder))]  # noqa: PTH208 (names, not paths, go over the wire)
        except OSError:
            return
        for name in names:
            yield os.fsencode(name), _try(os.lstat, folder / name)

    # -- send and receive ------------------------------------------------------------------------------------

    def _send_v1(self, argument: str) -> None:
        try:
            path, mode = parse_send_path(argument)
        except ValueError:
            raise _RefusedError("missing , in ID_SEND_V1", rest=_Incoming(self.stream)) from None
        self._send(path, mode)

    def _send_v2(self, path: str) -> None:
        number, mode, flags = _SEND_V2.unpack(self.stream.read_exactly(_SEND_V2.size))
        if number != b"SND2" or flags:
            raise _RefusedError(f"send with flags {flags:#x} is not supported", rest=_Incoming(self.stream))
        self._send(path, mode)

    def _send(self, path: str, mode: int) -> None:
        """Take a file or a symbolic link."""
        target = self.tree.locate(path)
        incoming = _Incoming(self.stream)
        created = False
        try:
            if stat.S_ISLNK(mode) or target.is_symlink():
                target.unlink(missing_ok=True)
            if stat.S_ISLNK(mode):
                text = os.fsdecode(b"".join(incoming).rstrip(b"\0"))
                _with_parents(target, lambda: target.symlink_to(text))
            else:
                with _with_parents(target, lambda: target.open("wb", buffering=0)) as file:
                    created = True
                    self._fill(file, incoming)
                    os.fchmod(file.fileno(), mode & 0o777)
                    os.utime(file.fileno(), (incoming.mtime, incoming.mtime))
        except (StreamEndedError, _RefusedError):
            target.unlink(missing_ok=True)
            raise
        except (OSError, ValueError) as error:  # ValueError: a NUL in a link's text
            if created:
                target.unlink(missing_ok=True)
            step = "write failed" if created else "couldn't create file"
            why = error.strerror if isinstance(error, OSError) else error
            raise _RefusedError(f"{step}: {why}", rest=incoming) from error
        self._put(_REQUEST.pack(b"OKAY", 0))

    def _fill(self, file: BinaryIO, incoming: _Incoming) -> None:
        """Write what comes, as far as the phone has room for it."""
        room = self.tree.room()
        for data in incoming:
            if room is not None and file.tell() + len(data) > room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            file.write(data)

    def _receive_v2(self, path: str) -> None:
        number, flags = _RECEIVE_V2.unpack(self.stream.read_exactly(_RECEIVE_V2.size))
        if number != b"RCV2" or flags:
            raise _RefusedError(f"receive with flags {flags:#x} is not supported")
        self._receive(path)

    def _receive(self, path: str) -> None:
        step = "open failed"
        try:
            with self.tree.locate(path).open("rb", buffering=0) as file:
                step = "read failed"
                while data := file.read(DATA_LIMIT):
                    self._put(_REQUEST.pack(b"DATA", len(data)) + data)
        except StreamEndedError:
            raise
        except OSError as error:
            raise _RefusedError(f"{step}: {error.strerror}") from error
        self._put(_REQUEST.pack(b"DONE", 0))


class _Incoming:
    """The data of one SEND; iterating ends at its DONE.

    Attributes:
        mtime: The file's time, in seconds since 1970; 0 until DONE has come.
    """

    def __init__(self, stream: Stream) -> None:
        self.mtime = 0
        self._stream = stream
        self._done = False

    def __iter__(self) -> Iterator[bytes]:
        while not self._done:
            number, value = _REQUEST.unpack(self._stream.read_exactly(_REQUEST.size))
            if number == b"DONE":
                self.mtime, self._done = value, True
            elif number != b"DATA":
                raise _RefusedError("invalid data message")
            elif value > DATA_LIMIT:
                raise _RefusedError("oversize data message")
            else:
                yield self._stream.read_exactly(value)

    def drain(self) -> None:
        """Read what is left and forget it: old hosts look for a failure only once they have sent all."""
        with contextlib.suppress(_RefusedError):
            for _ in self:
                pass


_T = TypeVar("_T")


def _with_parents(target: Path, make: Callable[[], _T]) -> _T:
    """Make something; where its directory is missing, make that first."""
    try:
        return make()
    except FileNotFoundError:
        target.parent.mkdir(parents=True, exist_ok=True)
        return make()


def _try(look: Callable[[Path], os.stat_result], path: Path) -> os.stat_result | OSError:
    try:
        return look(path)
    except OSError as error:
        return error
