"""NPZ files of the user: arrays become tensors."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from devicelab.config.data import NaturalPartition, NpzData
from devicelab.data.examples import Array, Dataset
from devicelab.data.sources.conversion import convert
from devicelab.dotted import nearest
from devicelab.errors import ConfigError, DataError
from devicelab.files import require_regular

__all__ = ["load"]


def load(config: NpzData, *, seed: int, directory: Path) -> Dataset:
    """The tensors that the settings describe, and the array of owners if one is named."""
    del seed, directory
    key = config.partition.key if isinstance(config.partition, NaturalPartition) else None
    wanted = {f"data.tensors.{name}.array": spec.array for name, spec in config.tensors.items()}
    arrays = _arrays(config.path, wanted | ({"data.partition.key": key} if key is not None else {}))
    test = None
    if config.test_path is not None:
        test = _tensors(_arrays(config.test_path, wanted), config, config.test_path)
    owners = None
    if key is not None:
        owners = arrays[key]
        if owners.ndim != 1 or owners.dtype.kind not in "iuU":
            raise DataError(
                f"{config.path}, array {key!r}: {owners.dtype}{list(owners.shape)} names no owners; they are "
                "whole numbers or text, one an example"
            )
    return Dataset(_tensors(arrays, config, config.path), owners, None, test)


def _tensors(arrays: Mapping[str, Array], config: NpzData, path: Path) -> dict[str, Array]:
    return {
        name: convert(arrays[spec.array], spec.dtype, f"{path}, array {spec.array!r}")
        if spec.dtype is not None
        else arrays[spec.array]
        for name, spec in config.tensors.items()
    }


def _arrays(path: Path, wanted: Mapping[str, str]) -> dict[str, Array]:
    """Arrays by name; ``wanted`` is their names by the setting that asks for them."""
    require_regular(path, "data.path")
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise DataError(f"{path} is no NPZ file, or a damaged one")
            file.seek(0)
            archive: NpzFile = np.load(file, allow_pickle=False)
            for where, name in wanted.items():
                if name not in archive.files:
                    raise ConfigError(f"{where}: {path} has no array {name!r}{nearest(name, archive.files)}")
            return {name: archive[name] for name in wanted.values()}
    except OSError as error:
        raise ConfigError(f"data.path: {path} cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is no NPZ file, or a damaged one: {error}") from error
