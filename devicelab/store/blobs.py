"""Files by their content: what is called so and so has that SHA-256, and is whole.

A blob is written under another name, synced, renamed and its directory synced, so that a name that exists means
content that is on the disk. Whoever records a blob in the ledger does so afterwards: what a crash leaves in
between is a blob that nobody knows, which :meth:`Blobs.sweep` removes.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from devicelab.errors import StoreError
from devicelab.files import write_atomically

__all__ = ["Blobs", "Prepared", "flush_directory", "recorded", "sha256_of", "stored"]

_NAME: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A file that is about to become a blob, and its SHA-256."""

    file: Path
    sha256: str


class Blobs:
    """The blobs of one run.

    Args:
        root: Their directory.
        incoming: Where files lie until they become blobs, on the same file system.
    """

    def __init__(self, root: Path, incoming: Path) -> None:
        self.root = root
        self.incoming = incoming

    def path(self, sha256: str) -> Path:
        """Where a blob is or would be.

        Raises:
            ValueError: That is no SHA-256.
        """
        if not _NAME.fullmatch(sha256):
            raise ValueError(f"{sha256!r} is no SHA-256")
        return self.root / sha256[:2] / sha256

    def read(self, sha256: str) -> bytes:
        """A blob's content.

        Raises:
            StoreError: It is missing or damaged.
        """
        return recorded(self.path(sha256), f"the file {self.path(sha256)}", sha256)

    def put(self, content: bytes) -> str:
        """Keep some bytes; durable when it returns. Their SHA-256.

        Raises:
            StoreError: They cannot be written.
        """
        sha256 = hashlib.sha256(content).hexdigest()
        target = self.path(sha256)
        with stored(f"a file of {len(content)} bytes", self.root):
            if not target.exists():
                self._make_directory(target.parent)
                write_atomically(target, content)
        return sha256

    @contextmanager
    def prepared(self, file: Path, sha256: str | None = None) -> Iterator[Prepared]:
        """A file that can become a blob at once: on the right file system, synced, its SHA-256 known.

        A file in :attr:`incoming` is used up, of any other one a copy is. Nothing is left there after the
        block.

        Args:
            file: It must not be written to any more.
            sha256: Its own, if the caller has computed it.

        Raises:
            StoreError: It cannot be read or kept.
        """
        mine = file
        if file.parent != self.incoming:
            mine = self.incoming / f"{os.getpid()}-{threading.get_ident()}-{file.name}"
        with stored(str(file), self.root):
            try:
                if mine is not file:
                    shutil.copyfile(file, mine)
                with mine.open("rb") as opened:
                    sha256 = sha256 or hashlib.file_digest(opened, "sha256").hexdigest()
                    os.fsync(opened.fileno())
                yield Prepared(mine, sha256)
            finally:
                mine.unlink(missing_ok=True)

    def adopt(self, ready: Prepared) -> None:
        """Make it a blob; durable when it returns. Content that is known already is kept once.

        Raises:
            StoreError: It cannot be.
        """
        target = self.path(ready.sha256)
        with stored(str(ready.file), self.root):
            if not target.exists():
                self._make_directory(target.parent)
                ready.file.rename(target)
                flush_directory(target.parent)

    def sweep(self, wanted: Collection[str], *, incoming: bool) -> list[Path]:
        """Remove every blob that is not wanted; what was removed.

        Args:
            wanted: Their SHA-256.
            incoming: Whether to remove everything in :attr:`incoming`, too.

        Raises:
            StoreError: Something cannot be removed.
        """
        with stored("what is not needed any more", self.root, "remove"):
            found = [path for path in self.root.glob("*/*") if path.name not in wanted]
            if incoming and self.incoming.is_dir():
                found += self.incoming.iterdir()
            for path in found:
                path.unlink()
        return found

    def _make_directory(self, directory: Path) -> None:
        if not directory.is_dir():
            directory.mkdir(parents=True, exist_ok=True)
            flush_directory(directory.parent)


def recorded(path: Path, what: str, sha256: str | None = None) -> bytes:
    """The content of a file that was recorded once: what is gone or changed can only come from a copy.

    Args:
        path: The file.
        what: What it is, for the error.
        sha256: Its own, where that is known.

    Raises:
        StoreError: It is missing, cannot be read, or is damaged.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe in its place would never end
            raise StoreError(f"{what} is damaged: it is no regular file", hint="restore it from a copy")
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StoreError(f"{what} is missing", hint="restore it from a copy") from error
    except OSError as error:
        raise StoreError(
            f"cannot read {what}: {error.strerror or error}", hint="see to its permissions and its disk"
        ) from error
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise StoreError(f"{what} is damaged", hint="restore it from a copy")
    return content


def sha256_of(file: Path) -> str:
    """A file's SHA-256.

    Raises:
        OSError: It cannot be read.
    """
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def flush_directory(directory: Path) -> None:
    """Make names in a directory durable (fsync).

    Raises:
        OSError: There is no such directory, …
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def stored(what: str, where: Path, verb: str = "store") -> Iterator[None]:
    """The file system's errors in words.

    Raises:
        StoreError: In place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot {verb} {what} in {where}: {error.strerror or error}",
            hint="free some space there, or see to its permissions; what was recorded before is safe",
        ) from error
