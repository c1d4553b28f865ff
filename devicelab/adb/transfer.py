"""Whole transfers: a push that is verified before it takes its name, a pull that trusts nothing the phone says.

A push goes to ``NAME.….part`` and is renamed on the phone once it is verified: who finds NAME finds all of it.
A pull goes to a temporary name on the host, is capped, checked against the announced size, synced and renamed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from devicelab.adb.compression import Compression, available, worth_compressing
from devicelab.adb.connection import Connection
from devicelab.adb.content import Content, Readable, open_content
from devicelab.adb.shell import run
from devicelab.adb.sync import Sink, SyncSession
from devicelab.adb.sync_push import Progress
from devicelab.deadline import Deadline
from devicelab.errors import AdbUnavailableError, DevicelabError, DeviceLostError, RemoteFileError
from devicelab.files import replacing

__all__ = [
    "PART",
    "PullReport",
    "PushReport",
    "Verification",
    "part_name",
    "pull_bytes",
    "pull_file",
    "push_file",
    "remove",
    "sweep_parts",
]

PART = ".part"  # suffix of a file that is not whole yet

Verification = Literal["sha256", "size"]

_CLEAN_SECONDS = 1.0  # for removing the part of a failed push; the phone may be past answering
_COMMAND_BYTES = 2048  # of paths in one `rm`; adbd before Android 7 takes 4 KiB in all
_V1_SIZES = 1 << 32  # without stat_v2, sizes come modulo this

# $1 the part, $2 its name, $3 its mode, $4 the expected sha256 or nothing. Prints what the phone computed, or
# "none". The mode is set here, because adbd gives group and others whatever the owner has. mksh, the shell of
# every Android since 4, renames by itself, for a tenth of what it takes to start another program.
FINISH_SCRIPT = """\
h=none
if [ -n "$4" ] && h=$(sha256sum <"$1" 2>/dev/null); then
  h=${h%% *}
  if [ "$h" != "$4" ]; then echo "$h"; exit 65; fi
else
  h=none
fi
if [ -d "$2" ]; then exit 66; fi
chmod "$3" "$1" && { builtin rename "$1" "$2" 2>/dev/null || mv "$1" "$2"; } && echo "$h"
"""
DAMAGED, IS_DIRECTORY = 65, 66  # its exit codes


@dataclass(frozen=True, slots=True)
class PushReport:
    """A push that succeeded.

    Attributes:
        path: The file on the phone.
        size: Bytes.
        sha256: Of the content, in hex; None where only the size was to be verified.
        verified: What was compared on the phone. "size" although "sha256" was asked for means that the phone
            has no ``sha256sum`` (Android 5 and older).
        compression: How the content travelled.
        seconds: How long it took, verification and renaming included.
    """

    path: str
    size: int
    sha256: str | None
    verified: Verification
    compression: Compression
    seconds: float


@dataclass(frozen=True, slots=True)
class PullReport:
    """A pull that succeeded.

    Attributes:
        path: The file on the host.
        size: Bytes.
        seconds: How long it took.
    """

    path: Path
    size: int
    seconds: float


def part_name(remote: str) -> str:
    """A new name for a file that is not whole yet, beside its final one.

    No two pushes share one: an adbd that was frozen in a push removes its part when it thaws, maybe long after
    the next push of the same file has begun.
    """
    return f"{remote}.{secrets.token_hex(4)}{PART}"


def push_file(
    connection: Connection,
    source: Path | bytes | bytearray | memoryview | Readable,
    remote: str,
    *,
    mode: int = 0o644,
    mtime: int | None = None,
    verify: Verification = "sha256",
    compression: Compression | Literal["auto"] = "auto",
    progress: Progress | None = None,
    part: str | None = None,
    deadline: Deadline,
) -> PushReport:
    """Write a file on the phone, whole or not at all.

    Missing directories are made. What fails is removed again, if the phone still answers; what a phone that was
    lost still holds is found by :func:`sweep_parts`.

    Args:
        connection: The phone.
        source: What to write: a file on the host, bytes, or a binary stream from where it stands.
        remote: The file's absolute path on the phone.
        mode: Permission bits.
        mtime: Its time stamp, in seconds since the epoch; else that of the source file, else now.
        verify: Compare the SHA-256 of what has arrived, computed on the phone, or only its size.
        compression: A method that both sides have, or ``auto``: the best of them if a sample of the content
            shrinks by a tenth, none otherwise.
        progress: Called with the number of bytes sent, every mebibyte.
        part: Its name until it is whole, from :func:`part_name`, for callers who want to remove it later.
        deadline: For all of it.

    Raises:
        RemoteFileError: adbd refused, what arrived is not what was sent, or ``remote`` is a directory.
        DeviceFullError: No space left.
        DeviceLostError, DeadlineError, ProtocolError: As everywhere.
        ValueError: ``remote`` is no absolute path of a file, or ``compression`` is not to be had.
        OSError: ``source`` cannot be read.
    """
    begin = time.monotonic()
    _check_path(remote)
    part = part or part_name(remote)
    digest = hashlib.sha256() if verify == "sha256" else None
    with open_content(source) as content:
        method = _choose(compression, connection.features, content)
        try:
            with SyncSession(connection, deadline) as session:
                size = session.push(
                    content,
                    part,
                    mode=mode,
                    mtime=_mtime(source) if mtime is None else mtime,
                    deadline=deadline,
                    compression=method,
                    digest=digest,
                    progress=progress,
                )
                _check_size(connection, session, part, size, deadline)
            expected = digest.hexdigest() if digest is not None else None
            verified = _finish(connection, part, remote, mode, expected, deadline=deadline)
        except (DeviceLostError, AdbUnavailableError):
            raise
        except BaseException:
            _clean(connection, part)
            raise
    return PushReport(remote, size, expected, verified, method, time.monotonic() - begin)


def pull_file(
    connection: Connection,
    remote: str,
    local: Path,
    *,
    max_bytes: int,
    compression: Compression = "none",
    progress: Progress | None = None,
    deadline: Deadline,
) -> PullReport:
    """Read a regular file from the phone into a file on the host, whole or not at all.

    Args:
        connection: The phone.
        remote: The file's absolute path on the phone.
        local: The file on the host, replaced if it exists; chosen by the caller and never by the phone.
        max_bytes: How large it may be.
        compression: How it travels. There is no ``auto``, as nothing is known of the content beforehand.
        progress: Called with the number of bytes received.
        deadline: For all of it.

    Raises:
        RemoteFileError: There is no such file, it is no regular file, it is larger than ``max_bytes``, or its
            size is not the one announced.
        DeviceLostError, DeadlineError, ProtocolError: As everywhere.
        OSError: ``local`` cannot be written.
    """
    begin = time.monotonic()
    with replacing(local) as file:
        size = _pull(
            connection,
            remote,
            lambda pieces: _write_all(file.fileno(), pieces),
            max_bytes=max_bytes,
            compression=compression,
            progress=progress,
            deadline=deadline,
        )
    return PullReport(local, size, time.monotonic() - begin)


def pull_bytes(connection: Connection, remote: str, *, max_bytes: int, deadline: Deadline) -> bytes:
    """Read a regular file from the phone into memory; raises what :func:`pull_file` raises."""
    parts: list[bytes] = []
    _pull(
        connection,
        remote,
        lambda pieces: parts.append(b"".join(pieces)),
        max_bytes=max_bytes,
        compression="none",
        progress=None,
        deadline=deadline,
    )
    return b"".join(parts)


def remove(
    connection: Connection, paths: Sequence[str], *, deadline: Deadline, recursive: bool = False
) -> None:
    """Remove files on the phone; those that are not there are no error.

    Args:
        connection: The phone.
        paths: Absolute paths.
        deadline: For all of it.
        recursive: Remove directories, too, with all they hold.

    Raises:
        RemoteCommandError: Something cannot be removed.
        ValueError: A path is relative, or is the root.
    """
    for path in paths:
        _check_path(path)
    for batch in _batches(paths):
        argv = ["rm", "-rf" if recursive else "-f", *batch]
        # toybox looks before it removes; what somebody else (an adbd that gives up a push) removes in between
        # fails it, although nothing is left to remove. Then the second look finds nothing and is content.
        if run(connection, argv, deadline=deadline, check=False).code != 0:
            run(connection, argv, deadline=deadline)


def sweep_parts(connection: Connection, directory: str, *, deadline: Deadline) -> list[str]:
    """Remove what interrupted pushes left in a directory (not below it).

    The caller must hold the phone's lease: the part of a push that is under way is removed, too.

    Returns:
        The paths that were removed.
    """
    with SyncSession(connection, deadline) as session:
        entries = session.list(directory, deadline)
    parts = [
        posixpath.join(directory, entry.name)
        for entry in entries
        if entry.name.endswith(PART) and entry.stat.is_file
    ]
    remove(connection, parts, deadline=deadline)
    return parts


def _pull(
    connection: Connection,
    remote: str,
    sink: Sink,
    *,
    max_bytes: int,
    compression: Compression,
    progress: Progress | None,
    deadline: Deadline,
) -> int:
    _check_path(remote)
    exact = "stat_v2" in connection.features
    with SyncSession(connection, deadline) as session:
        announced = session.stat(remote, deadline)
        if announced is None:
            raise _error(connection, remote, "there is no such file")
        if not announced.is_file:
            raise _error(connection, remote, "it is no regular file")
        if announced.size > max_bytes:
            raise _error(connection, remote, f"{announced.size} bytes are more than the {max_bytes} allowed")
        received = session.pull(
            remote,
            sink,
            limit=announced.size if exact else max_bytes,
            deadline=deadline,
            compression=compression,
            progress=progress,
        )
    if (received if exact else received % _V1_SIZES) != announced.size:
        raise _error(connection, remote, f"{announced.size} bytes were announced, but {received} came")
    return received


def _choose(wish: Compression | Literal["auto"], features: frozenset[str], content: Content) -> Compression:
    methods = available(features)
    if wish == "auto":
        if not methods or not (sample := content.sample()):
            return "none"
        return methods[0] if worth_compressing(methods[0], sample) else "none"
    if wish != "none" and wish not in methods:
        raise ValueError(
            f"{wish} is not to be had here; this phone and this host share {methods or 'no method'}"
        )
    return wish


def _check_size(connection: Connection, session: SyncSession, part: str, size: int, deadline: Deadline) -> None:
    found = session.lstat(part, deadline)
    if found is None:
        raise _error(connection, part, "it is not there although the phone took it")
    expected = size if "stat_v2" in connection.features else size % _V1_SIZES
    if found.size != expected:
        raise _error(connection, part, f"{size} bytes were sent, but {found.size} arrived")


def _finish(
    connection: Connection, part: str, remote: str, mode: int, expected: str | None, *, deadline: Deadline
) -> Verification:
    """Verify and rename on the phone, in one command."""
    script = ["sh", "-c", FINISH_SCRIPT, "sh", part, remote, f"{mode:o}", expected or ""]
    result = run(connection, script, deadline=deadline, limit=65536, check=False)
    if result.code == DAMAGED:
        raise _error(connection, part, f"it arrived damaged (sha256 {result.text[:64]}, not {expected})")
    if result.code == IS_DIRECTORY:
        raise _error(connection, remote, "it is a directory")
    if result.code != 0:
        said = (result.stderr or result.stdout).decode("utf-8", "replace").strip()[-200:]
        raise _error(connection, remote, f"the phone cannot rename {part} to it: {said}")
    return "sha256" if expected is not None and result.text == expected else "size"


def _batches(paths: Sequence[str]) -> Iterator[list[str]]:
    """Cut a list of paths into pieces that fit into one command each."""
    batch: list[str] = []
    for path in paths:
        if batch and sum(map(len, batch)) + len(path) > _COMMAND_BYTES:
            yield batch
            batch = []
        batch.append(path)
    if batch:
        yield batch


def _clean(connection: Connection, part: str) -> None:
    # The push has failed with a better error than whatever this may fail with.
    with contextlib.suppress(DevicelabError):
        remove(connection, [part], deadline=Deadline(f"removal of {part}", _CLEAN_SECONDS, connection.serial))


def _mtime(source: Path | bytes | bytearray | memoryview | Readable) -> int:
    return int(source.stat().st_mtime if isinstance(source, Path) else time.time())


def _check_path(path: str) -> None:
    if (
        not path.startswith("/")
        or path.endswith("/")
        or "\0" in path
        or posixpath.basename(path) in (".", "..")
    ):
        raise ValueError(f"{path!r} is no absolute path of a file")


def _error(connection: Connection, path: str, reason: str) -> RemoteFileError:
    return RemoteFileError(f"{path}: {reason}", device=connection.serial, path=path)


def _write_all(fd: int, pieces: Sequence[memoryview]) -> None:
    """Write everything in few calls; the kernel takes 1,024 pieces at most, and may take less than it got."""
    for start in range(0, len(pieces), 512):
        batch = pieces[start : start + 512]
        left = sum(map(len, batch)) - os.writev(fd, batch)
        if left:
            rest = memoryview(b"".join(batch))[-left:]
            while rest:
                rest = rest[os.write(fd, rest) :]
