"""Engines that this host keeps: fetched once whoever asks, checked whenever they are used."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from devicelab.deadline import Deadline
from devicelab.devices.locks import flocked
from devicelab.errors import ConfigError
from devicelab.files import cache_dir
from devicelab.runner.fitness import ENGINE_LIBRARY

__all__ = ["Artifact", "artifact", "kept"]

_PART: Final = ".part-"
_MANIFEST: Final = "manifest.json"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file on this host that is meant for devices.

    Attributes:
        path: Where it is.
        sha256: Of its content, in hex.
        size: In bytes.
    """

    path: Path
    sha256: str
    size: int


def artifact(path: Path) -> Artifact:
    """Hash a file; the same file is hashed once a process.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        found = path.stat()
        return Artifact(path, _hash(path, found.st_size, found.st_mtime_ns, found.st_ino), found.st_size)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error


def kept(origin: str, fetch: Callable[[Path], None], deadline: Deadline) -> dict[str, Artifact]:
    """The libraries of one origin by target, fetched first if they are not here whole and unchanged.

    Args:
        origin: Name of the origin with its version, good for a file name.
        fetch: Writes ``<target>/libonnxruntime.so`` for some targets into the directory that it gets; called
            once, whatever the number of processes that wait for it.
        deadline: How long to wait for another process that fetches.

    Raises:
        ConfigError: The cache directory cannot be written, and what ``fetch`` raises.
        DeadlineError: Another process took too long.
    """
    engines = cache_dir() / "engines"
    folder = engines / origin
    if (found := _read(folder)) is not None:
        return found
    try:
        engines.mkdir(parents=True, exist_ok=True)
        with (engines / ".lock").open("a") as lock, flocked(lock.fileno(), deadline):
            if (found := _read(folder)) is None:
                _build(folder, fetch)
                found = _read(folder)
    except OSError as error:
        raise ConfigError(f"cannot keep engines in {engines}: {error.strerror or error}") from error
    assert found is not None  # just written
    return found


def _build(folder: Path, fetch: Callable[[Path], None]) -> None:
    """Fetch beside the final name and rename. The caller holds the lock."""
    for leftover in folder.parent.glob(f"{_PART}*"):
        shutil.rmtree(leftover)
    part = Path(tempfile.mkdtemp(prefix=_PART, dir=folder.parent))
    try:
        fetch(part)
        ready = part / "ready"
        ready.mkdir()
        files = {}
        for path in sorted(part.glob(f"*/{ENGINE_LIBRARY}")):
            path.chmod(0o644)
            found = artifact(path)
            files[path.parent.name] = {"sha256": found.sha256, "size": found.size}
            _flush(path)
            path.parent.rename(ready / path.parent.name)
        (ready / _MANIFEST).write_text(json.dumps(files, indent=1), encoding="utf-8")
        _flush(ready / _MANIFEST)
        if folder.exists():  # damaged
            shutil.rmtree(folder)
        ready.rename(folder)
    finally:
        shutil.rmtree(part)


def _read(folder: Path) -> dict[str, Artifact] | None:
    """What a directory holds; None unless all of it is as its manifest says."""
    try:
        text = (folder / _MANIFEST).read_text(encoding="utf-8")
        manifest: Any = json.loads(text)
        found = {str(name): artifact(folder / name / ENGINE_LIBRARY) for name in manifest}
        same = {name: {"sha256": each.sha256, "size": each.size} for name, each in found.items()} == manifest
    except (OSError, ValueError, AttributeError, ConfigError):
        return None
    return found if same and found else None


def _flush(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@lru_cache(maxsize=256)
def _hash(path: Path, size: int, mtime: int, inode: int) -> str:
    del size, mtime, inode  # they are what makes it another file
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
