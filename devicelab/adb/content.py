"""What a push sends: a file, bytes in memory or an open binary stream, read to where it is sent from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from devicelab.closing import Closing

__all__ = ["BytesContent", "Content", "FileContent", "Readable", "StreamContent", "open_content"]

_SAMPLE = 32 << 10  # bytes a sample takes from each of three places


class Readable(Protocol):
    """A binary stream, as far as a push needs it: an open file, a pipe, a socket's makefile(), a response."""

    def read(self, size: int, /) -> bytes | None:
        """Up to ``size`` bytes; nothing at the end."""
        ...


class Content(Protocol):
    """Something that is read once, from its beginning to its end; a context manager, closing what it opened."""

    def fill(self, slots: Sequence[memoryview]) -> int:
        """Read into ``slots``, one after the other without gaps.

        Returns:
            How many bytes; 0 at the end.

        Raises:
            OSError: It cannot be read.
        """
        ...

    def sample(self) -> bytes:
        """Some of what is to come, without taking it; empty where that cannot be."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class FileContent(Closing):
    """A file on the host, read by scatter.

    Args:
        path: The file.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)

    def fill(self, slots: Sequence[memoryview]) -> int:
        """See :meth:`Content.fill`."""
        return os.readv(self._file.fileno(), slots)

    def sample(self) -> bytes:
        """Its beginning, middle and end."""
        size = os.fstat(self._file.fileno()).st_size
        return b"".join(os.pread(self._file.fileno(), _SAMPLE, at) for at in _places(size))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class BytesContent(Closing):
    """Bytes in memory.

    Args:
        data: Must not change meanwhile.
    """

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._rest = memoryview(data).cast("B")

    def fill(self, slots: Sequence[memoryview]) -> int:
        """See :meth:`Content.fill`."""
        total = 0
        for slot in slots:
            piece, self._rest = self._rest[: len(slot)], self._rest[len(slot) :]
            slot[: len(piece)] = piece
            total += len(piece)
            if not self._rest:
                break
        return total

    def sample(self) -> bytes:
        """The beginning, the middle and the end."""
        return b"".join(self._rest[at : at + _SAMPLE] for at in _places(len(self._rest)))

    def close(self) -> None:
        """Let go of the bytes."""
        self._rest.release()


class StreamContent(Closing):
    """A binary stream that somebody else opened and will close.

    Args:
        stream: Read from where it stands; buffered, raw, or anything with ``read``.
    """

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._ahead = b""  # read for a sample

    def fill(self, slots: Sequence[memoryview]) -> int:
        """See :meth:`Content.fill`."""
        total = 0
        for slot in slots:
            filled = self._fill(slot)
            total += filled
            if filled < len(slot):
                break
        return total

    def sample(self) -> bytes:
        """The beginning."""
        if not self._ahead:
            self._ahead = self._stream.read(3 * _SAMPLE) or b""
        return self._ahead

    def _fill(self, slot: memoryview) -> int:
        """Fill one slot, with as many reads as it takes: a pipe gives a few bytes at a time."""
        filled = 0
        while filled < len(slot):
            piece = self._ahead or self._stream.read(len(slot) - filled)
            if not piece:
                break
            taken = piece[: len(slot) - filled]
            self._ahead = piece[len(taken) :]
            slot[filled : filled + len(taken)] = taken
            filled += len(taken)
        return filled

    def close(self) -> None:
        """Nothing is held."""


def open_content(source: Path | bytes | bytearray | memoryview | Readable) -> Content:
    """The right kind of content for what a caller has.

    Raises:
        OSError: A file that cannot be opened.
    """
    if isinstance(source, Path):
        return FileContent(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return BytesContent(source)
    return StreamContent(source)


def _places(size: int) -> list[int]:
    """Where to take samples of something of this size from."""
    if size <= 3 * _SAMPLE:
        return list(range(0, size, _SAMPLE))
    return [0, (size - _SAMPLE) // 2, size - _SAMPLE]
