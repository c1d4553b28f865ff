"""A conversation with adbd's file service: stat, list, push and pull, over one Stream.

The bytes on the wire are :mod:`devicelab.adb.sync_protocol`'s business; whole transfers with temporary names,
verification and local files are :mod:`devicelab.adb.transfer`'s.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable, Sequence

from devicelab.adb.compression import Compression, decompressor, flag
from devicelab.adb.connection import Connection
from devicelab.adb.content import Content
from devicelab.adb.malformed import MalformedError
from devicelab.adb.sync_protocol import (
    NAME_LENGTH,
    NAME_LIMIT,
    SETUP_RECEIVE,
    SETUP_SEND,
    STAT_V1,
    STAT_V2,
    DataDecoder,
    FileEntry,
    FileStat,
    check_name,
    encode_done,
    encode_request,
    parse_entry_v1,
    parse_entry_v2,
    parse_stat_v1,
    parse_stat_v2,
    wire_error,
)
from devicelab.adb.sync_push import Progress, push_content
from devicelab.adb.sync_wire import SyncWire
from devicelab.closing import Closing
from devicelab.deadline import Deadline
from devicelab.errors import RemoteFileError

__all__ = ["LIST_LIMIT", "Sink", "SyncSession"]

LIST_LIMIT = 10_000  # entries of one directory
_NOT_THERE = {2, 20}  # ENOENT, ENOTDIR

Sink = Callable[[Sequence[memoryview]], object]
"""Takes pulled content; the views are only good during the call."""


class SyncSession(Closing):
    """One ``sync:`` stream; any number of requests, one after the other.

    After an error in the middle of an answer the session is only good for close().

    Every method raises, naming the phone and the path:
        RemoteFileError: adbd says no; its own reason is in the message. DeviceFullError where the disk is full.
        ProtocolError: It sent what it must not.
        DeviceLostError: The phone is gone.
        DeadlineError: No end in time.
        ValueError: The path is empty, longer than 1,024 bytes, or holds a NUL character.

    Args:
        connection: The phone.
        deadline: For opening the stream.
    """

    def __init__(self, connection: Connection, deadline: Deadline) -> None:
        self._features = connection.features
        self._wire = SyncWire(connection, deadline)

    def close(self) -> None:
        """End the session; may be called twice."""
        self._wire.close()

    def lstat(self, path: str, deadline: Deadline) -> FileStat | None:
        """Look at a file; a link is looked at itself. None if there is nothing."""
        if "stat_v2" in self._features:
            return self._stat_v2(b"LST2", path, deadline)
        request = encode_request(b"STAT", path)
        with self._wire.talking(path):
            self._wire.write(request, deadline)
            self._wire.expect(b"STAT", path, deadline)
            found = parse_stat_v1(self._wire.exactly(STAT_V1.size, deadline))
        return found if found.mode else None

    def stat(self, path: str, deadline: Deadline) -> FileStat | None:
        """Look at a file, or what a link points to. Without ``stat_v2`` (before Android 8) as :meth:`lstat`."""
        if "stat_v2" in self._features:
            return self._stat_v2(b"STA2", path, deadline)
        return self.lstat(path, deadline)

    def list(self, path: str, deadline: Deadline, *, limit: int = LIST_LIMIT) -> list[FileEntry]:
        """The files in a directory, by name, without ``.`` and ``..``; none if there is no such directory.

        Raises:
            ProtocolError: Also for a name that no directory can hold, and for more than ``limit`` entries.
        """
        second = "ls_v2" in self._features
        number, answer = (b"LIS2", b"DNT2") if second else (b"LIST", b"DENT")
        parse = parse_entry_v2 if second else parse_entry_v1
        size = (STAT_V2 if second else STAT_V1).size + NAME_LENGTH.size
        request = encode_request(number, path)
        entries: list[FileEntry] = []
        seen = 0
        with self._wire.talking(path):
            self._wire.write(request, deadline)
            while self._wire.expect(answer, path, deadline, or_else=b"DONE") == answer:
                seen += 1
                if seen > limit + 2:
                    raise MalformedError(f"more than {limit} files in one directory")
                found, length = parse(self._wire.exactly(size, deadline))
                if length > NAME_LIMIT:
                    raise MalformedError(f"a file name of {length} bytes")
                name = self._wire.exactly(length, deadline)
                if name not in (b".", b".."):  # which adbd lists, too
                    entries.append(FileEntry(check_name(name), found))
            self._wire.exactly(size, deadline)  # DONE comes with an empty entry
        return sorted(entries, key=lambda entry: entry.name)

    def push(
        self,
        content: Content,
        path: str,
        *,
        mode: int,
        mtime: int,
        deadline: Deadline,
        compression: Compression = "none",
        digest: hashlib._Hash | None = None,
        progress: Progress | None = None,
    ) -> int:
        """Write a file on the phone; missing directories are made, an existing file is replaced.

        Args:
            content: What to write.
            path: Where to.
            mode: Permission bits.
            mtime: Seconds since the epoch.
            deadline: For all of it.
            compression: Other than none only if :func:`devicelab.adb.compression.available` has it.
            digest: Fed with the content, on another core while that is sent.
            progress: Told of every mebibyte.

        Returns:
            How many bytes of content were sent.

        Raises:
            OSError: ``content`` cannot be read.
        """
        mode = stat.S_IFREG | stat.S_IMODE(mode)
        if "sendrecv_v2" in self._features:
            request = encode_request(b"SND2", path) + SETUP_SEND.pack(b"SND2", mode, flag(compression))
        else:
            request = encode_request(b"SEND", path, f",{mode}")
        with self._wire.talking(path):
            self._wire.write(request, deadline)
            return push_content(
                self._wire,
                content,
                path,
                encode_done(mtime),
                compression=compression,
                digest=digest,
                progress=progress,
                deadline=deadline,
            )

    def pull(
        self,
        path: str,
        sink: Sink,
        *,
        limit: int,
        deadline: Deadline,
        compression: Compression = "none",
        progress: Progress | None = None,
    ) -> int:
        """Read a file from the phone.

        Args:
            path: Which.
            sink: Gets the content, in order.
            limit: How many bytes it may get.
            deadline: For all of it.
            compression: Other than none only if :func:`devicelab.adb.compression.available` has it.
            progress: Told after every piece.

        Returns:
            How many bytes of content came.

        Raises:
            RemoteFileError: Also if the phone sends more than ``limit`` bytes; ``sink`` never gets more.
        """
        received = 0

        def take(pieces: Sequence[memoryview]) -> None:
            nonlocal received
            received += sum(map(len, pieces))
            if received > limit:
                raise RemoteFileError(f"{path}: more than {limit} bytes", device=self._wire.serial, path=path)
            sink(pieces)
            if progress is not None:
                progress(received)

        request = encode_request(b"RCV2" if "sendrecv_v2" in self._features else b"RECV", path)
        if "sendrecv_v2" in self._features:
            request += SETUP_RECEIVE.pack(b"RCV2", flag(compression))
        unpack = take if compression == "none" else _unpacking(compression, take)
        with self._wire.talking(path):
            self._wire.write(request, deadline)
            self._receive(path, unpack, deadline)
        return received

    def _receive(self, path: str, take: Sink, deadline: Deadline) -> None:
        decoder = DataDecoder()
        while not decoder.ended:
            pieces = decoder.feed(self._wire.read(deadline))
            if pieces:
                take(pieces)
        self._wire.put_back(decoder.rest)
        if decoder.failure is not None:
            raise self._wire.failure(path, decoder.failure)

    def _stat_v2(self, number: bytes, path: str, deadline: Deadline) -> FileStat | None:
        request = encode_request(number, path)
        with self._wire.talking(path):
            self._wire.write(request, deadline)
            self._wire.expect(number, path, deadline)
            error, found = parse_stat_v2(self._wire.exactly(STAT_V2.size, deadline))
        if error in _NOT_THERE:
            return None
        if error:
            raise self._wire.failure(path, wire_error(error))
        return found


def _unpacking(compression: Compression, take: Sink) -> Sink:
    stream = decompressor(compression, lambda piece: take([memoryview(piece)]))

    def unpack(pieces: Sequence[memoryview]) -> None:
        for piece in pieces:
            stream.feed(piece)

    return unpack
