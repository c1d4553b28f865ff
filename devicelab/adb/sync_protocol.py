"""adbd's file service ("sync:") as a pure codec: requests, answers, and the DATA frames of both directions.

Everything is little-endian. A request is ``<id 4 bytes> <length u32> <path>``; what follows depends on the id.
File contents travel as ``DATA <length u32> <bytes>`` of at most 64 KiB, ended by ``DONE``. ``FAIL <length u32>
<text>`` may come instead of any answer. Version 2 of a request exists where adbd announces ``stat_v2``,
``ls_v2`` or ``sendrecv_v2``. Source: ``SYNC.TXT`` and ``file_sync_protocol.h`` in AOSP's adb.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from devicelab.adb.malformed import MalformedError

__all__ = [
    "DATA_LIMIT",
    "PATH_LIMIT",
    "DataDecoder",
    "DataFrames",
    "FileEntry",
    "FileStat",
    "check_name",
    "encode_done",
    "encode_request",
    "parse_entry_v1",
    "parse_entry_v2",
    "parse_stat_v1",
    "parse_stat_v2",
    "wire_error",
]

DATA_LIMIT = 64 << 10  # bytes in one DATA frame, both ways
PATH_LIMIT = 1024  # bytes; adbd takes no longer one
NAME_LIMIT = 255  # bytes; no file system on a phone has longer ones
TEXT_LIMIT = 64 << 10  # bytes of a FAIL's reason

HEADER = struct.Struct("<4sI")  # id and length: of requests, DATA, DONE, FAIL, OKAY
_NO_NAME = re.compile(rb"[/\0\n\r]")
STAT_V1 = struct.Struct("<III")  # mode, size, mtime
STAT_V2 = struct.Struct("<IQQIIIIQqqq")  # error, dev, ino, mode, nlink, uid, gid, size, atime, mtime, ctime
NAME_LENGTH = struct.Struct("<I")
SETUP_SEND = struct.Struct("<4sII")  # SND2, mode, flags
SETUP_RECEIVE = struct.Struct("<4sI")  # RCV2, flags


@dataclass(frozen=True, slots=True)
class FileStat:
    """What the phone says of a file; any of it may be a lie.

    Attributes:
        mode: Type and permission bits, as :mod:`stat` reads them; 0 if adbd could not look at the file.
        size: Bytes; modulo 2**32 from a phone without ``stat_v2``.
        mtime: Seconds since the epoch, by the phone's clock.
    """

    mode: int
    size: int
    mtime: int

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.mode)

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file in a directory on the phone.

    Attributes:
        name: A plain name: no "/", no NUL, no newline; what is no UTF-8 in it stands as surrogates.
        stat: As ``lstat`` has it.
    """

    name: str
    stat: FileStat


def encode_request(number: bytes, path: str, suffix: str = "") -> bytes:
    """A request for ``path`` (with ``suffix``, which does not count as part of it).

    Raises:
        ValueError: The path is empty, too long for adbd, or holds a NUL character.
    """
    name = path.encode("utf-8", "surrogateescape")
    if not name or len(name) > PATH_LIMIT or b"\0" in name:
        raise ValueError(f"{path[:80]!r} ({len(name)} bytes) is no path on a phone")
    name += suffix.encode("ascii")
    return HEADER.pack(number, len(name)) + name


def encode_done(mtime: int) -> bytes:
    """The end of a pushed file."""
    return HEADER.pack(b"DONE", mtime & 0xFFFFFFFF)


def parse_stat_v1(body: bytes) -> FileStat:
    """Read what follows the id ``STAT`` (12 bytes); all zeros if there is no such file."""
    return FileStat(*STAT_V1.unpack(body))


def parse_stat_v2(body: bytes) -> tuple[int, FileStat]:
    """Read what follows ``STA2``, ``LST2`` (68 bytes): Linux's error number, 0 for none, and the file."""
    error, _dev, _inode, mode, _links, _uid, _gid, size, _atime, mtime, _ctime = STAT_V2.unpack(body)
    return error, FileStat(mode, size, mtime)


def parse_entry_v1(body: bytes) -> tuple[FileStat, int]:
    """Read what follows ``DENT`` (16 bytes): the file, and the length of its name."""
    return parse_stat_v1(body[: STAT_V1.size]), NAME_LENGTH.unpack_from(body, STAT_V1.size)[0]


def parse_entry_v2(body: bytes) -> tuple[FileStat, int]:
    """Read what follows ``DNT2`` (72 bytes): the file, and the length of its name."""
    return parse_stat_v2(body[: STAT_V2.size])[1], NAME_LENGTH.unpack_from(body, STAT_V2.size)[0]


def check_name(raw: bytes) -> str:
    """The name of a directory entry as text, if it is one that a directory can hold.

    Raises:
        MalformedError: It is empty, ``.`` or ``..``, too long, or holds a slash, a NUL character or a newline.
    """
    if not raw or raw in (b".", b"..") or len(raw) > NAME_LIMIT or _NO_NAME.search(raw):
        raise MalformedError(f"the file name {raw[:80]!r}")
    return raw.decode("utf-8", "surrogateescape")


def wire_error(number: int) -> str:
    """What an error number from the phone means (Android and Linux have the same ones)."""
    return os.strerror(number) if number in errno.errorcode else f"error {number}"


class DataFrames:
    """A buffer of DATA frames to be sent in one piece, filled in place.

    The room for headers is left between the slots, so that a file is read straight to where it is sent from.

    Args:
        count: How many frames of 64 KiB.
    """

    def __init__(self, count: int = 16) -> None:
        stride = HEADER.size + DATA_LIMIT
        self._buffer = memoryview(bytearray(stride * count))
        self._headers = [n * stride for n in range(count)]
        self.slots: list[memoryview] = [self._buffer[at + HEADER.size : at + stride] for at in self._headers]
        for at in self._headers:
            HEADER.pack_into(self._buffer, at, b"DATA", DATA_LIMIT)

    @property
    def room(self) -> int:
        """How many bytes of content fit."""
        return DATA_LIMIT * len(self.slots)

    def fill(self, content: bytes | memoryview) -> memoryview:
        """Copy content of at most :attr:`room` bytes into the slots; returns what is to be sent."""
        view = memoryview(content)
        for slot, start in zip(self.slots, range(0, len(view), DATA_LIMIT), strict=False):
            piece = view[start : start + DATA_LIMIT]
            slot[: len(piece)] = piece
        return self.framed(len(view))

    def framed(self, size: int) -> memoryview:
        """What is to be sent for the first ``size`` bytes that were put into the slots; empty for none."""
        full, rest = divmod(size, DATA_LIMIT)
        for n in range(full):
            HEADER.pack_into(self._buffer, self._headers[n], b"DATA", DATA_LIMIT)
        end = full * (HEADER.size + DATA_LIMIT)
        if rest:
            HEADER.pack_into(self._buffer, self._headers[full], b"DATA", rest)
            end += HEADER.size + rest
        return self._buffer[:end]

    def content(self, size: int) -> Sequence[memoryview]:
        """The first ``size`` bytes that were put into the slots."""
        full, rest = divmod(size, DATA_LIMIT)
        return [*self.slots[:full], self.slots[full][:rest]] if rest else self.slots[:full]


class DataDecoder:
    """Takes DATA frames apart as they come, without copying and without gathering them.

    Attributes:
        done: Whether DONE has come.
        failure: The text of a FAIL, once all of it has come.
        rest: What came after DONE or FAIL.
    """

    def __init__(self) -> None:
        self.done = False
        self.failure: str | None = None
        self.rest = b""
        self._header = b""  # an incomplete one
        self._left = 0  # bytes of the current DATA or FAIL still to come
        self._reason: bytearray | None = None

    @property
    def ended(self) -> bool:
        """Whether DONE or a whole FAIL has come."""
        return self.done or self.failure is not None

    def feed(self, data: bytes) -> list[memoryview]:
        """Add what was read; returns the content in it, as views of ``data``.

        Raises:
            MalformedError: An id other than DATA, DONE and FAIL, or a length beyond the limit.
        """
        if self._header:
            data = self._header + data
            self._header = b""
        view = memoryview(data)
        content: list[memoryview] = []
        position, end = 0, len(view)
        while position < end and not self.ended:
            if self._left == 0:
                if end - position < HEADER.size:
                    self._header = bytes(view[position:])
                    return content
                self._begin(*HEADER.unpack_from(view, position))
                position += HEADER.size
                continue
            piece = view[position : position + self._left]
            position += len(piece)
            self._left -= len(piece)
            if self._reason is None:
                content.append(piece)
            else:
                self._reason += piece
                self._check_reason()
        self.rest = bytes(view[position:])
        return content

    def _begin(self, number: bytes, length: int) -> None:
        if number == b"DONE":
            self.done = True
        elif number == b"DATA" and length <= DATA_LIMIT:
            self._left = length
        elif number == b"FAIL" and length <= TEXT_LIMIT:
            self._left, self._reason = length, bytearray()
            self._check_reason()
        else:
            raise MalformedError(f"{number!r} with a length of {length} where file contents should be")

    def _check_reason(self) -> None:
        if self._left == 0 and self._reason is not None:
            self.failure = self._reason.decode("utf-8", "replace")
