"""The last resort: a Python adbd on the host's own files, where no sandbox for the real one can be had."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from devicelab.files import write_atomically
from devicelab.virtual.body import BodyKind
from devicelab.virtual.familybody import FamilyBody
from devicelab.virtual.ownpython import module_command
from devicelab.virtual.pyadbd import tools
from devicelab.virtual.pyadbd.tree import Tree
from devicelab.virtual.spec import BodySpec

__all__ = ["PythonBody"]


class PythonBody(FamilyBody):
    """A phone that is protocol only; it needs nothing but Python and ``/bin/sh``.

    ::

        body/adbd.sock    where it listens
        body/disk         how many bytes /data may hold
        body/root/        the phone's /: data, sdcard, system/bin, and links to vendor, proc and sys

    Args:
        spec: The phone; image, bin and emulator play no part.
    """

    kind: BodyKind = "python"
    limits = (
        "its adbd is written in Python, not Google's",
        "its shell is the host's, runs as you and sees the host's files;"
        " only phone paths in a command's own text are translated",
        "the disk quota holds for pushed files and in df, not for what commands write",
        "it has the host's commands, whatever its profile leaves out",
        "no terminals and no compression",
    )

    def __init__(self, spec: BodySpec) -> None:
        super().__init__(spec)
        self._root = self._directory / "root"
        self._limit = self._directory / "disk"
        write_atomically(self._limit, b"%d\n" % spec.disk)

    def _prepare(self) -> None:
        root = self._root
        for name in ("data/local/tmp", "data/media/0", "storage", "system/bin", "properties"):
            (root / name).mkdir(parents=True, exist_ok=True)
        links = {
            "sdcard": Path("data/media/0"),
            "disk": self._limit,
            "vendor": self._spec.vendor,
            "proc": self._spec.vendor / "proc",
            "sys": self._spec.vendor / "sys",
            "system/bin/sh": Path("/bin/sh"),
        }
        for name, target in links.items():
            (root / name).unlink(missing_ok=True)
            (root / name).symlink_to(target)
        for old in (root / "properties").iterdir():  # set by the boot before
            old.unlink()
        for name in tools.TOOLS:
            words = shlex.join([sys.executable, "-I", "-S", str(tools.__file__), str(root), name])
            script = root / "system/bin" / name
            script.write_text(f'#!/bin/sh\nexec {words} "$@"\n', encoding="utf-8")
            script.chmod(0o755)

    def _command(self) -> Sequence[str | Path]:
        module = module_command("devicelab.virtual.pyadbd")
        where = ("--root", self._root, "--socket", self.socket_path, "--limit", self._limit)
        return (*module, *where, "--banner", self._spec.banner)

    def set_disk(self, size: int) -> None:
        """Change how many bytes /data may hold, to no less than it does."""
        write_atomically(self._limit, b"%d\n" % max(size, self._tree().used()))

    def disk_usage(self) -> tuple[int, int]:
        """Bytes that /data may hold, and holds."""
        return int(self._limit.read_text(encoding="ascii")), self._tree().used()

    def _tree(self) -> Tree:
        return Tree(self._root, self._limit)
