"""Engines inside what package clients fetch: AARs, npm packages, wheels. Sizes are capped, names are ours."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import IO, Final

from devicelab.errors import ConfigError
from devicelab.runner.fitness import ENGINE_LIBRARY
from devicelab.runner.targets import TARGETS

__all__ = ["extract_android_libraries", "extract_wheel_library", "find_aar"]

_LIBRARY_LIMIT: Final = 256 << 20  # bytes; today's have up to 39 million
_AAR_LIMIT: Final = 512 << 20


def extract_android_libraries(aar: Path, directory: Path) -> None:
    """Write the AAR's engines to ``<directory>/<target>/libonnxruntime.so``, those that it has.

    Raises:
        ConfigError: It is no AAR, holds no engine, or is damaged.
    """
    found = 0
    try:
        with zipfile.ZipFile(aar) as archive:
            names = set(archive.namelist())
            for target in TARGETS.values():
                member = f"jni/{target.abi}/{ENGINE_LIBRARY}"
                if target.system == "android" and member in names:
                    _extract(archive, member, directory / target.name / ENGINE_LIBRARY)
                    found += 1
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ConfigError(f"{aar} is a damaged archive: {error}") from error
    if not found:
        raise ConfigError(f"{aar} is no AAR of ONNX Runtime: it holds no jni/*/{ENGINE_LIBRARY}")


def extract_wheel_library(wheel: Path, path: Path) -> None:
    """Write the library of an ``onnxruntime`` wheel for Linux to ``path``.

    Raises:
        ConfigError: It is no such wheel, or is damaged.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            prefix = f"onnxruntime/capi/{ENGINE_LIBRARY}."
            members = [name for name in archive.namelist() if name.startswith(prefix)]
            if len(members) != 1:
                raise ConfigError(f"{wheel} is no wheel of ONNX Runtime for Linux: it has no {prefix}*")
            _extract(archive, members[0], path)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ConfigError(f"{wheel} is a damaged archive: {error}") from error


def find_aar(package: Path) -> Path:
    """Take the AAR out of an npm package, to beside it.

    Raises:
        ConfigError: There is none, or the package is damaged.
    """
    aar = package.with_name("onnxruntime.aar")
    try:
        with tarfile.open(package) as archive:
            for member in archive:
                if member.isfile() and member.name.endswith("/onnxruntime.aar"):
                    content = archive.extractfile(member)
                    assert content is not None  # a regular file has some
                    _copy(content, aar, member.size, _AAR_LIMIT)
                    return aar
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise ConfigError(f"{package} is a damaged archive: {error}") from error
    raise ConfigError(f"{package} holds no onnxruntime.aar")


def _extract(archive: zipfile.ZipFile, member: str, path: Path) -> None:
    with archive.open(member) as content:
        _copy(content, path, archive.getinfo(member).file_size, _LIBRARY_LIMIT)


def _copy(content: IO[bytes], path: Path, size: int, limit: int) -> None:
    if size > limit:
        raise ConfigError(f"{path.name} would have {size} bytes, more than the {limit} allowed")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        shutil.copyfileobj(content, file, 1 << 20)
