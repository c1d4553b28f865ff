"""The phone's ``/``: a directory on the host, with a limit on how much the phone may keep in it.

sync's paths are taken below that directory, ``..`` included. A shell cannot be kept there without the kernel's
help, so phone paths that stand in a command's own text are replaced by where they are on the host, and nothing
else is: a script that was pushed to the phone sees the host.
"""

from __future__ import annotations

import os
import posixpath
import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Tree"]

_BLOCK = 4096  # bytes; what a file takes is rounded up to it
# A path where a word begins, or after an assignment, a redirection, a quote or a colon: not in "$HOME/data".
_PATH = re.compile(r"(?<![\w.~/$)}+@%*?-])(?:/[\w.+@%~-]+)+", re.ASCII)
_PARTIAL = ("proc", "sys")  # of these the tree has some files; the host has the rest, like /proc/$pid/cmdline


@dataclass(frozen=True, slots=True)
class Tree:
    """A phone's files.

    Attributes:
        root: What the phone calls ``/``.
        limit: A file that says how many bytes ``/data`` may hold, read anew each time; None for no limit.
    """

    root: Path
    limit: Path | None = None

    def locate(self, path: str) -> Path:
        """Where a phone's path is on the host; relative ones start at ``/``."""
        return self.root / posixpath.normpath(f"/{path}").lstrip("/")

    def translate(self, command: str, alias: str) -> str:
        """Replace phone paths in a command's text.

        Args:
            command: For a shell.
            alias: Another name for the tree's root, one that needs no quoting.
        """

        def replace(match: re.Match[str]) -> str:
            path = match[0]
            first = path.split("/", 2)[1]
            there = self.locate(path) if first in _PARTIAL else self.root / first
            whole = path.lstrip("/") not in _PARTIAL
            return f"{alias}{path}" if whole and there.exists() else path

        return _PATH.sub(replace, command)

    def used(self) -> int:
        """Bytes that ``/data`` holds."""
        total = 0
        for folder, _, files in os.walk(self.root / "data"):
            for name in files:
                try:
                    size = os.lstat(Path(folder, name)).st_size
                except FileNotFoundError:  # removed meanwhile
                    continue
                total += -(-size // _BLOCK) * _BLOCK
        return total

    def size(self) -> int | None:
        """Bytes that ``/data`` may hold; None for no limit."""
        return None if self.limit is None else int(self.limit.read_text(encoding="ascii"))

    def room(self) -> int | None:
        """Bytes that may still be written to ``/data``; None for no limit."""
        size = self.size()
        return None if size is None else max(0, size - self.used())
