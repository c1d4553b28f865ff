"""Free space, as three generations of ``df`` print it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from devicelab.devices.text import decimal, lines

__all__ = ["DiskSpace", "parse_df"]

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}
_BLOCKS = re.compile(r"\s(1K|1024|512)-blocks\s", re.ASCII)
_PERCENT = re.compile(r"[0-9]{1,3}%|-", re.ASCII)
_MAX_BYTES = float(1 << 60)


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """One file system.

    Attributes:
        free: Bytes that an ordinary user can still write.
        total: Bytes in all.
        mount: Where ``df`` says it is mounted. Phones name odd places: ``df /data`` may answer
            ``/data/user/0``, and toolbox repeats the path that was asked for.
    """

    free: int
    total: int
    mount: str


def parse_df(text: str, path: str) -> DiskSpace | None:
    """Find the file system that holds ``path``.

    Reads toybox and busybox (``Filesystem 1K-blocks Used Available Use% Mounted on``, also ``-h``) and the
    toolbox of Android 5 and older (``Filesystem Size Used Free Blksize``, with the mount point first and sizes
    such as ``905.5M``). Error lines (``/splash2: Permission denied``) are skipped; a device name that fills its
    line is joined with the next one.

    Args:
        text: The output, for one path, several or all.
        path: An absolute path on the phone.

    Returns:
        The row whose mount point is the longest prefix of ``path``; else the only file system listed, whatever
        its mount point is called; else None.
    """
    # One file system may be listed twice with different numbers, when somebody writes to it in between.
    rows = list({(row.mount, row.total): row for row in _rows(text)}.values())
    asked = PurePosixPath(path)
    holding = [row for row in rows if asked.is_relative_to(row.mount)]
    if holding:
        return max(holding, key=lambda row: len(PurePosixPath(row.mount).parts))
    return rows[0] if len(rows) == 1 else None


def _rows(text: str) -> list[DiskSpace]:
    rows: list[DiskSpace] = []
    unit = 0  # bytes a bare number stands for; 0 before the headline
    toolbox = False
    device = ""  # a name that filled its line
    for line in lines(text):
        words = line.split()
        if words[:1] == ["Filesystem"]:
            toolbox = "Blksize" in words
            blocks = _BLOCKS.search(line)
            unit = {"512": 512, "1K": 1024, "1024": 1024}[blocks[1]] if blocks else 1
        elif unit and len(words) == 1 and not line[0].isspace():
            device = words[0]
        elif unit and words:
            row = _toolbox_row(line) if toolbox else _row(f"{device} {line}" if device else line, unit)
            device = ""
            if row is not None:
                rows.append(row)
    return rows


def _row(line: str, unit: int) -> DiskSpace | None:
    """``device total used available use% mount``; the mount point may hold spaces."""
    words = line.split(None, 5)
    if len(words) < 6 or _PERCENT.fullmatch(words[4]) is None:
        return None
    return _space(words[1], words[3], words[5].rstrip(), unit)


def _toolbox_row(line: str) -> DiskSpace | None:
    """``mount size used free blksize``; the mount point may hold spaces."""
    words = line.rsplit(None, 4)
    return _space(words[1], words[3], words[0], 1) if len(words) == 5 else None


def _space(total: str, free: str, mount: str, unit: int) -> DiskSpace | None:
    all_bytes, free_bytes = _size(total, unit), _size(free, unit)
    if all_bytes is None or free_bytes is None or not all_bytes or not mount.startswith("/"):
        return None
    return DiskSpace(free=min(free_bytes, all_bytes), total=all_bytes, mount=mount)


def _size(word: str, unit: int) -> int | None:
    """``27240188`` in units, or ``905.5M``."""
    suffix = word[-1:].upper()
    if suffix.isalpha():
        word, unit = word[:-1], _UNITS.get(suffix, 0)
    number = decimal(word, 0, _MAX_BYTES) if unit else None
    return int(number * unit) if number is not None and number * unit <= _MAX_BYTES else None
