"""From an experiment to its shards on this host's disk, made once and found again while nothing changes."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from devicelab.config import Experiment
from devicelab.config.data import DigitsData
from devicelab.data.division import divide
from devicelab.data.shards import ShardSet, read_index, write_shards
from devicelab.data.sources import load_source, source_files
from devicelab.errors import ConfigError
from devicelab.files import cache_dir, require_regular

__all__ = ["prepare"]

_LAYOUT: Final = 1  # to be raised whenever the same settings begin to mean other shards
_BLOCK: Final = 1 << 20


def prepare(experiment: Experiment, directory: Path | None = None) -> ShardSet:
    """All shards of an experiment. The same experiment and files give the same shards, byte for byte.

    Args:
        experiment: Its data, partition and seed.
        directory: Where shards are kept; in the cache directory if None. It may be shared and may be deleted.

    Raises:
        ConfigError: A file, column or class is not there.
        DataError: The data cannot be read, or not be divided as asked.
    """
    directory = cache_dir() / "shards" if directory is None else directory
    files = source_files(experiment.data)
    fingerprint = _fingerprint(experiment, files or [])
    if files is not None and (known := read_index(directory, fingerprint)) is not None:
        return known
    dataset = load_source(experiment.data, seed=experiment.seed, directory=experiment.directory)
    return write_shards(divide(dataset, experiment.data, seed=experiment.seed), directory, fingerprint)


def _fingerprint(experiment: Experiment, files: list[Path]) -> str:
    """SHA-256 of all that decides what the shards are."""
    packages = ("numpy", "scikit-learn") if isinstance(experiment.data, DigitsData) else ("numpy",)
    settings = experiment.data.model_dump(mode="json", exclude={"path", "test_path"})
    facts = {
        "layout": _LAYOUT,
        "seed": experiment.seed,
        "data": settings,
        "files": [_digest(path) for path in files],
        "packages": {name: _version(name) for name in packages},
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    require_regular(path, "data.path")
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise ConfigError(f"data.path: {path} cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
