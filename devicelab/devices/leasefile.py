"""The directory that all users of a host share, and how its files are opened without trusting any of them.

The directory is world-writable with the sticky bit, like ``/tmp``. So another user may have put a symbolic
link, a hard link, a FIFO or a huge file where a lease file belongs, and the kernel may forbid opening another
user's file in a way that could create it (``fs.protected_regular``). Files are therefore opened relative to the
directory, never through a link, first without and only then with ``O_CREAT|O_EXCL``, and checked after opening.
They are 0666, because whoever comes after a dead holder must be able to write his own name in, and are emptied
rather than removed, because in a sticky directory only their maker could remove them.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devicelab.deadline import Deadline
from devicelab.devices.locks import flocked
from devicelab.errors import ConfigError

__all__ = ["lease_directory", "lease_name", "opened", "prepared", "read_all", "rewrite"]

_RUN_LOCK = Path("/run/lock")
_MAX_SIZE = 64 << 10
_PATIENCE = 20  # tries, for another user's process between making a file and opening it to all
_PAUSE = 0.01  # seconds between them
_CHOOSE = "point $DEVICELAB_LEASES to a directory that all users of this host may write to (chmod 1777)"


def lease_directory() -> Path:
    """``$DEVICELAB_LEASES``, else ``/run/lock/devicelab``, else ``devicelab-leases`` where temporary files go.

    Everybody on a host must come to the same answer, or leases do not keep them apart: ``/run/lock`` is taken
    where everybody may write to it (Debian), or where an administrator has made the directory.
    """
    if chosen := os.environ.get("DEVICELAB_LEASES"):
        return Path(chosen).expanduser().absolute()
    directory = _RUN_LOCK / "devicelab"
    if directory.is_dir() or (_RUN_LOCK.is_dir() and _RUN_LOCK.stat().st_mode & stat.S_IWOTH):
        return directory
    return Path(tempfile.gettempdir()) / "devicelab-leases"


def lease_name(identity: str) -> str:
    """The file name for a device: hashed, since an identity may hold any character."""
    return hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:32] + ".lease"


def prepared(directory: Path) -> int:
    """Open the directory, made first if absent; returns its file descriptor, which the caller closes.

    Raises:
        ConfigError: It cannot be made, or is nothing to keep leases in: a link, a file, or a directory in which
            anybody may replace anybody's files.
    """
    try:
        fd = _made(directory)
    except OSError as error:
        why = "it is a symbolic link" if directory.is_symlink() else error.strerror
        raise ConfigError(f"cannot keep leases in {directory}: {why}", hint=_CHOOSE) from error
    mode = os.fstat(fd).st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        os.close(fd)
        raise ConfigError(
            f"cannot keep leases in {directory}: anybody may replace the files in it",
            hint=f"set its sticky bit (chmod +t {directory}), or {_CHOOSE}",
        )
    return fd


@contextmanager
def opened(directory: Path, name: str, deadline: Deadline, *, write: bool) -> Iterator[int | None]:
    """Open and lock one lease file for the length of a ``with`` block.

    Args:
        directory: From :func:`lease_directory`; made if absent and ``write``.
        name: From :func:`lease_name`.
        deadline: For the lock.
        write: Open for reading and writing under an exclusive lock, and make the file if absent; else for
            reading under a shared one.

    Yields:
        The file descriptor; None if the file does not exist or, for writing, belongs to somebody who does not
        let others write.

    Raises:
        ConfigError: The directory cannot be used, or the file is not a plain lease file.
        DeadlineError: Somebody else held the lock.
    """
    if not write and not directory.is_dir():
        yield None
        return
    directory_fd = prepared(directory)
    try:
        fd = _open(directory, directory_fd, name, deadline, write=write)
    finally:
        os.close(directory_fd)
    if fd is None:
        yield None
        return
    try:
        with flocked(fd, deadline, shared=not write):
            yield fd
    finally:
        os.close(fd)


def read_all(fd: int) -> bytes:
    """The file's content, at most 64 KiB of it."""
    return os.pread(fd, _MAX_SIZE, 0)


def rewrite(fd: int, data: bytes) -> None:
    """Replace the content.

    A reader looks at the first line only, so a crash between the two calls leaves nothing to misread.

    Raises:
        OSError: The disk is full; the file may be corrupt.
    """
    if data:
        os.pwrite(fd, data, 0)
    os.ftruncate(fd, len(data))


def _made(directory: Path) -> int:
    """The directory's file descriptor. The only one who makes it opens it to all, not subject to any umask."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        for _ in range(_PATIENCE):
            try:
                return os.open(directory, flags)
            except PermissionError:
                time.sleep(_PAUSE)  # its maker may be between mkdir and fchmod
        return os.open(directory, flags)
    fd = os.open(directory, flags)
    os.fchmod(fd, 0o1777)
    return fd


def _open(directory: Path, directory_fd: int, name: str, deadline: Deadline, *, write: bool) -> int | None:
    # O_NONBLOCK: a FIFO must not hold us up; it has no effect on plain files.
    flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    refused = 0
    while True:
        try:
            try:
                fd = os.open(name, flags, dir_fd=directory_fd)
            except FileNotFoundError:
                if not write:
                    return None
                fd = os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=directory_fd)
                os.fchmod(fd, 0o666)  # not by the umask, which belongs to the whole process
        except FileExistsError:
            deadline.remaining()  # somebody was quicker
            continue
        except PermissionError:
            # Its maker may be between open and fchmod: try for a moment.
            refused += 1
            if refused > _PATIENCE:
                _must_exist(directory, directory_fd, name)
                return None
            time.sleep(deadline.capped(_PAUSE))
            continue
        except OSError as error:
            raise _bad(directory / name, error.strerror or "it cannot be opened") from error
        state = os.fstat(fd)
        if stat.S_ISREG(state.st_mode) and state.st_nlink == 1 and state.st_size <= _MAX_SIZE:
            return fd
        os.close(fd)
        raise _bad(directory / name, "it is not a plain file of its own")


def _must_exist(directory: Path, directory_fd: int, name: str) -> None:
    """Tell a file that is somebody else's from a directory where we may not even make one."""
    try:
        os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    except FileNotFoundError:
        raise ConfigError(f"cannot keep leases in {directory}: Permission denied", hint=_CHOOSE) from None


def _bad(path: Path, why: str) -> ConfigError:
    return ConfigError(
        f"cannot use the lease file {path}: {why}",
        hint=f"if nobody on this host uses the phone, remove it: rm {path}",
    )
