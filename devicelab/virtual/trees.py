"""Remove what a phone leaves on the host's disk, whatever the phone has done to it."""

from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path

__all__ = ["remove_tree"]

_PAUSES = (0.05, 0.2, 1.0)


def remove_tree(path: Path) -> None:
    """Remove a directory, if it is there.

    A phone may have taken its owner's permissions away, and the last of its dying processes may write while we
    delete: then it is tried again.

    Raises:
        OSError: It cannot be removed.
    """
    for pause in _PAUSES:
        try:
            _remove(path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
                raise
            time.sleep(pause)
        else:
            return
    _remove(path)


def _remove(path: Path) -> None:
    for folder, names, _ in os.walk(path):
        for name in names:
            child = Path(folder, name)
            if not child.is_symlink():
                child.chmod(0o700)
    if path.exists():
        shutil.rmtree(path)
