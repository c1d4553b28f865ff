"""Where things live on the host, and how a file is written so that a crash never leaves half of one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

import platformdirs

__all__ = ["cache_dir", "replacing", "state_dir", "write_atomically"]


def state_dir(explicit: Path | None = None) -> Path:
    """The lab's state directory: ``explicit``, else ``$DEVICELAB_HOME``, else the platform's data directory.

    It is not created here.
    """
    if explicit is not None:
        return explicit.expanduser().absolute()
    if home := os.environ.get("DEVICELAB_HOME"):
        return Path(home).expanduser().absolute()
    return Path(platformdirs.user_data_dir("devicelab", appauthor=False))


def cache_dir() -> Path:
    """Where what can be made again lives (phone images, engines): ``$DEVICELAB_CACHE``, else the platform's."""
    if cache := os.environ.get("DEVICELAB_CACHE"):
        return Path(cache).expanduser().absolute()
    return Path(platformdirs.user_cache_dir("devicelab", appauthor=False))


@contextmanager
def replacing(path: Path, *, mode: int = 0o644, durable: bool = True) -> Iterator[FileIO]:
    """A file to write to that takes its name only once it is whole and on the disk.

    Temporary name in the same directory, fsync, rename, fsync. If the block ends with an exception, nothing is
    left and ``path`` is as it was before.

    Args:
        path: The final name; its directory must exist.
        mode: Permission bits of the file, exactly (the umask does not apply).
        durable: Whether to wait for the disk. Without, a power cut may leave the name with wrong bytes behind
            it: only for what is checked by its hash whenever it is read.

    Raises:
        OSError: The disk is full, the directory is missing, …
    """
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    temporary = Path(name)
    try:
        with FileIO(fd, "wb") as file:
            os.fchmod(fd, mode)
            yield file
            if durable:
                os.fsync(fd)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if not durable:
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_atomically(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a file whole or not at all; see :func:`replacing`.

    Args:
        path: The final name; its directory must exist.
        data: The content.
        mode: Permission bits of the file, exactly (the umask does not apply).

    Raises:
        OSError: The disk is full, the directory is missing, …; ``path`` is as it was before.
    """
    with replacing(path, mode=mode) as file:
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]
