"""The sending half of a push: content into DATA frames, hashed meanwhile, with an ear for an early refusal."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from devicelab.adb.compression import Compression, compressor
from devicelab.adb.content import Content
from devicelab.adb.sync_protocol import DataFrames
from devicelab.adb.sync_wire import SyncWire
from devicelab.deadline import Deadline
from devicelab.errors import DevicelabError, ProtocolError

__all__ = ["Progress", "push_content"]

_LAST_WORDS = 1.0  # seconds in which the reason of a broken push may still arrive

Progress = Callable[[int], object]
"""Called with the number of content bytes transferred so far."""


def push_content(
    wire: SyncWire,
    content: Content,
    path: str,
    end: bytes,
    *,
    compression: Compression,
    digest: hashlib._Hash | None,
    progress: Progress | None,
    deadline: Deadline,
) -> int:
    """Send what follows a SEND request, and take its answer.

    Args:
        wire: On which the request was sent.
        content: What to send.
        path: Where it goes, for errors.
        end: The DONE frame.
        compression: How to send it.
        digest: Fed with the content.
        progress: Told of every mebibyte.
        deadline: For all of it.

    Returns:
        How many bytes of content were sent.

    Raises:
        RemoteFileError: adbd refused; its reason is read as soon as it comes, and not only after all was sent.
    """
    with _Answer(wire, path, deadline) as answer:
        try:
            with _Hashing(digest) as hashing:
                framing = _Framing(wire, compression, deadline)
                sent = 0
                while size := content.fill(framing.slots):
                    answer.check()
                    hashing.begin(framing.content(size))
                    framing.send(size)
                    hashing.wait()
                    sent += size
                    if progress is not None:
                        progress(sent)
                framing.finish()
            answer.check()
            wire.write(end, deadline)
        except DevicelabError:
            answer.check(_LAST_WORDS)  # where adbd has said why, that is the error
            raise
        answer.wait()
    return sent


class _Framing:
    """Where content is put to be sent, and how it gets onto the wire: as it is, or compressed."""

    def __init__(self, wire: SyncWire, compression: Compression, deadline: Deadline) -> None:
        self._wire = wire
        self._deadline = deadline
        self._frames = DataFrames()
        self._packer = compressor(compression) if compression != "none" else None
        self._packed = DataFrames() if compression != "none" else self._frames
        self.slots = self._frames.slots
        self.content = self._frames.content

    def send(self, size: int) -> None:
        """Send the first ``size`` bytes in the slots."""
        if self._packer is None:
            self._wire.write(self._frames.framed(size), self._deadline)
            return
        for view in self.content(size):
            self._send_packed(self._packer.feed(view))

    def finish(self) -> None:
        """Send what the compressor holds back."""
        if self._packer is not None:
            self._send_packed(self._packer.finish())

    def _send_packed(self, data: bytes) -> None:
        view, room = memoryview(data), self._packed.room
        for start in range(0, len(view), room):
            self._wire.write(self._packed.fill(view[start : start + room]), self._deadline)


class _Answer:
    """Waits, in a thread of its own, for adbd's answer, which comes early if adbd refuses."""

    def __init__(self, wire: SyncWire, path: str, deadline: Deadline) -> None:
        self._wire = wire
        self._path = path
        self._deadline = deadline
        self._error: Exception | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read, name="adb-push-answer")

    def check(self, patience: float = 0.0) -> None:
        """Raise what has come too early, or comes within ``patience`` seconds: a refusal, as a rule.

        Raises:
            RemoteFileError: adbd refused.
            ProtocolError: It said OKAY to a file of which it has not seen the end.
        """
        if not self._ended.wait(patience):
            return
        if self._error is not None:
            raise self._error
        raise ProtocolError(
            f"{self._path}: the phone says it has all of it too early", device=self._wire.serial
        )

    def wait(self) -> None:
        """Wait for the answer to a whole push."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._ended.is_set():
            self._wire.close()  # wakes the thread
        self._thread.join()

    def _read(self) -> None:
        try:
            with self._wire.talking(self._path):
                self._wire.okay(self._path, self._deadline)
        except Exception as error:  # noqa: BLE001 - carried to the thread that waits
            self._error = error
        finally:
            self._ended.set()


class _Hashing(contextlib.AbstractContextManager["_Hashing"]):
    """Feeds a digest on another core while the same bytes are being sent."""

    def __init__(self, digest: hashlib._Hash | None) -> None:
        self._digest = digest
        self._pool = ThreadPoolExecutor(1, "adb-push-hash") if digest is not None else None
        self._pending: Future[None] | None = None

    def begin(self, views: Sequence[memoryview]) -> None:
        """Start with some bytes; :meth:`wait` must come before they change."""
        if self._pool is not None:
            self._pending = self._pool.submit(self._update, views)

    def wait(self) -> None:
        """Wait until what was begun is done."""
        if self._pending is not None:
            self._pending.result()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def _update(self, views: Sequence[memoryview]) -> None:
        assert self._digest is not None
        for view in views:
            self._digest.update(view)
