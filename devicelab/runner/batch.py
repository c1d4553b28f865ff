"""Many small files into a device's cache, in few round trips.

A push of one file costs a conversation with adbd and a command that verifies and renames it. Here one
conversation takes all files and one command the rest: it hashes them all, and renames those whose content is
what their names say.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from devicelab.adb.content import open_content
from devicelab.adb.transfer import PART
from devicelab.devices.device import Device
from devicelab.errors import RemoteFileError

__all__ = ["SMALL", "Small", "push_small"]

SMALL: Final = 1 << 20
"""Bytes of the largest file that is worth it: a larger one may travel compressed and tells of its progress."""

_FILES, _BYTES = 200, 8 << 20  # of one conversation
_OLD_FILES: Final = 30  # adbd before Android 7 takes 4 KiB for a command

# $1 the directory, $2 "sha256sum" or nothing; then the files, HASH.….part each. Prints the hashes of those that
# have their names now.
_FINISH: Final = """\
cd "$1" || exit
s=$2
shift 2
chmod 444 "$@"
if [ "$s" ]; then
  sha256sum "$@" | while read h p; do
    [ "$h" = "${p%%.*}" ] && { builtin rename "$p" "$h" 2>/dev/null || mv "$p" "$h"; } && echo "$h"
  done
else
  for p in "$@"; do
    h=${p%%.*}
    { builtin rename "$p" "$h" 2>/dev/null || mv "$p" "$h"; } && echo "$h"
  done
fi
"""


class Small(NamedTuple):
    """A file: what its content's SHA-256 is, which is its name on the device, its size and the content."""

    sha256: str
    size: int
    source: Path | bytes


def push_small(
    device: Device,
    directory: str,
    files: Sequence[Small],
    *,
    seconds: float,
    told: Callable[[Small], object] = lambda _: None,
) -> None:
    """Have files on a device, each whole and verified and read-only under the name of its hash, or not at all.

    Args:
        device: The device.
        directory: Where; made if it is missing. What a failure leaves there ends in ``.part``.
        files: What.
        seconds: For each conversation.
        told: Called after each file has been sent.

    Raises:
        DeviceFullError: No room.
        RemoteFileError: The device cannot store one, or it arrived damaged.
        DeviceLostError, DeadlineError: As everywhere.
    """
    old = not device.facts.sdk or device.facts.sdk < 24
    for batch in _batches(files, _OLD_FILES if old else _FILES):
        names = {each.sha256: f"{each.sha256}.{secrets.token_hex(4)}{PART}" for each in batch}
        with device.files(f"push of {len(batch)} files", seconds=seconds) as (session, deadline):
            for each in batch:
                path = f"{directory}/{names[each.sha256]}"
                with open_content(each.source) as content:
                    session.push(content, path, mode=0o644, mtime=int(time.time()), deadline=deadline)
                if not device.facts.sha256sum:
                    arrived = session.lstat(path, deadline)
                    if arrived is None or arrived.size != each.size:
                        raise _damaged(device, path)
                told(each)
        method = "sha256sum" if device.facts.sha256sum else ""
        script = ["sh", "-c", _FINISH, "sh", directory, method, *names.values()]
        there = set(device.shell(*script, seconds=seconds, check=False).text.split())
        for each in batch:
            if each.sha256 not in there:
                raise _damaged(device, f"{directory}/{each.sha256}")


def _damaged(device: Device, path: str) -> RemoteFileError:
    return RemoteFileError(f"{path}: it arrived damaged, or cannot be renamed", device=device.serial, path=path)


def _batches(files: Iterable[Small], most: int) -> Iterator[list[Small]]:
    batch: list[Small] = []
    for each in files:
        if batch and (len(batch) == most or sum(f.size for f in batch) + each.size > _BYTES):
            yield batch
            batch = []
        batch.append(each)
    if batch:
        yield batch
