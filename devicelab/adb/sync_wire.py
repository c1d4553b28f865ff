"""The reading side of a ``sync:`` stream: exact amounts, expected answers, and what adbd's refusals mean."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from devicelab.adb.connection import Connection
from devicelab.adb.malformed import MalformedError
from devicelab.adb.sync_protocol import HEADER, NAME_LENGTH, TEXT_LIMIT
from devicelab.deadline import Deadline
from devicelab.errors import DeviceFullError, ProtocolError, RemoteFileError

__all__ = ["SyncWire"]

_READ = 256 << 10
_FULL = ("No space left on device", "Disk quota exceeded", "Quota exceeded")  # ENOSPC, EDQUOT in libc's words


class SyncWire:
    """Owns the stream of a session.

    Args:
        connection: The phone.
        deadline: For opening the stream.
    """

    def __init__(self, connection: Connection, deadline: Deadline) -> None:
        self.serial = connection.serial
        self._buffer = b""
        self._stream = connection.open("sync:", deadline)

    def close(self) -> None:
        """End the stream; may be called twice, from any thread."""
        self._stream.close()

    @contextlib.contextmanager
    def talking(self, path: str) -> Iterator[None]:
        """Surrounds a request: whatever interrupts it ends the stream, whose state nobody knows any more.

        Raises:
            ProtocolError: In place of a codec's :class:`MalformedError`.
        """
        try:
            yield
        except MalformedError as error:
            self.close()
            raise ProtocolError(f"{path}: the phone sent {error}", device=self.serial) from error
        except BaseException:
            self.close()
            raise

    def write(self, data: bytes | memoryview, deadline: Deadline) -> None:
        """Send all of it."""
        self._stream.write(data, deadline)

    def read(self, deadline: Deadline) -> bytes:
        """What is there, up to 256 KiB; never nothing.

        Raises:
            MalformedError: The phone has ended the stream.
        """
        if self._buffer:
            data, self._buffer = self._buffer, b""
            return data
        data = self._stream.read(_READ, deadline)
        if not data:
            raise MalformedError("the end of the stream in the middle of an answer")
        return data

    def put_back(self, data: bytes) -> None:
        """Let ``data`` be read again."""
        self._buffer = data + self._buffer

    def exactly(self, size: int, deadline: Deadline) -> bytes:
        """The next ``size`` bytes; the caller has checked that this is little.

        Raises:
            MalformedError: The phone has ended the stream before.
        """
        data = b""
        while len(data) < size:
            data += self.read(deadline)
        self.put_back(data[size:])
        return data[:size]

    def expect(self, number: bytes, path: str, deadline: Deadline, *, or_else: bytes = b"") -> bytes:
        """Take the id of an answer.

        Returns:
            The id, which is ``number`` or ``or_else``.

        Raises:
            RemoteFileError: It was a FAIL.
            MalformedError: It was something else.
        """
        got = self.exactly(4, deadline)
        if got == b"FAIL":
            (length,) = NAME_LENGTH.unpack(self.exactly(NAME_LENGTH.size, deadline))
            raise self.failure(path, self._reason(length, deadline))
        if got not in (number, or_else):
            raise MalformedError(f"{got!r} instead of {number!r}")
        return got

    def okay(self, path: str, deadline: Deadline) -> None:
        """Take the answer to a push.

        Raises:
            RemoteFileError: It was a FAIL.
            MalformedError: It was something else.
        """
        number, length = HEADER.unpack(self.exactly(HEADER.size, deadline))
        if number == b"FAIL":
            raise self.failure(path, self._reason(length, deadline))
        if number != b"OKAY":
            raise MalformedError(f"{number!r} instead of b'OKAY'")

    def failure(self, path: str, text: str) -> RemoteFileError:
        """The error for adbd's own words about a path."""
        if any(words in text for words in _FULL):
            return DeviceFullError(
                f"{path}: {text}", device=self.serial, path=path, hint="remove something under /data/local/tmp"
            )
        return RemoteFileError(f"{path}: {text or 'refused without a reason'}", device=self.serial, path=path)

    def _reason(self, length: int, deadline: Deadline) -> str:
        if length > TEXT_LIMIT:
            raise MalformedError(f"a FAIL of {length} bytes")
        return self.exactly(length, deadline).decode("utf-8", "replace")
