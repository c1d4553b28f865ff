"""Where things live on the host, and how a file is written so that a crash never leaves half of one."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

import platformdirs

from devicelab.errors import ConfigError

__all__ = [
    "NO_SPACE_HINT",
    "cache_dir",
    "host_error",
    "replacing",
    "require_directory",
    "require_regular",
    "state_dir",
    "write_atomically",
]

NO_SPACE_HINT = "free some space, or choose other places: --state-dir, $DEVICELAB_CACHE, $TMPDIR"
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


def host_error(doing: str, error: OSError) -> ConfigError:
    """This host's own trouble (a full disk, no permission, a file in a directory's place) in words.

    Args:
        doing: What failed: "cannot build the phone image".
        error: Why.
    """
    where = f" ({error.filename})" if error.filename and str(error.filename) not in doing else ""
    reason = error.strerror or str(error)
    if isinstance(error, shutil.Error) and isinstance(error.args[0], list):  # one entry a file: from, to, why
        reason = str(error.args[0][0][-1])
    full = error.errno in _NO_SPACE or os.strerror(errno.ENOSPC) in reason
    hint = NO_SPACE_HINT if full else "devicelab doctor looks at the directories that are used"
    return ConfigError(f"{doing}: {reason}{where}", hint=hint)


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


def require_directory(path: Path) -> None:
    """See that files can be written into a directory, or that it can be made; nothing is touched.

    Raises:
        ConfigError: It is no directory, or this user may not write there.
    """
    nearest = path.absolute()
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise ConfigError(f"{nearest} is no directory, so nothing can be written to {path}")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ConfigError(f"nothing can be written to {path}: {nearest} does not permit it")


def require_regular(path: Path, key: str = "") -> None:
    """See that a file can be read to an end: no pipe and no device, at which reading waits or never stops.

    Args:
        path: The file; whether it is there at all is found out when it is opened.
        key: The setting that names it, for the error.

    Raises:
        ConfigError: It is something else, or that can be no path.
    """
    where = f"{key}: " if key else ""
    if "\0" in str(path):
        raise ConfigError(f"{where}{str(path)!r} is no path: it holds a zero byte")
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if not stat.S_ISREG(mode):
        raise ConfigError(f"{where}{path} is no regular file")


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
