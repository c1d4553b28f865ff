"""The library of the oldest ONNX Runtime that can be had here, as its makers published it for Linux.

The runner takes 1.18 and newer. Wheels carry the library from 1.19 on; what npm has carries that of 1.18, too,
but not every machine has npm.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tarfile
import zipfile
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from devicelab.files import cache_dir

_NPM: Final = shutil.which("npm") is not None
VERSION: Final = "1.18.0" if _NPM else "1.19.2"
_MACHINES: Final = {"x86_64": "x64", "aarch64": "arm64"}


@cache
def oldest_engine() -> Path:
    """Fetched once (55 MB from npm, 13 MB from PyPI), kept in the cache."""
    kept = cache_dir() / "test-engines" / VERSION / platform.machine() / "libonnxruntime.so"
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=kept.parent) as place:
            library = Path(place, "library")
            library.write_bytes(_from_npm(Path(place)) if _NPM else _from_wheel(Path(place)))
            library.rename(kept)
    return kept


def _from_npm(place: Path) -> bytes:
    command = ["npm", "pack", "--silent", f"onnxruntime-node@{VERSION}"]
    subprocess.run(command, cwd=place, check=True, timeout=900)
    [package] = place.glob("*.tgz")
    member = f"package/bin/napi-v3/linux/{_MACHINES[platform.machine()]}/libonnxruntime.so.{VERSION}"
    with tarfile.open(package) as archive:
        content = archive.extractfile(member)
        assert content is not None
        return content.read()


def _from_wheel(place: Path) -> bytes:
    wanted = ["--quiet", "--no-deps", "--only-binary=:all:", "--python-version=3.11", f"onnxruntime=={VERSION}"]
    subprocess.run([sys.executable, "-m", "pip", "download", *wanted], cwd=place, check=True, timeout=900)
    [wheel] = place.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(f"onnxruntime/capi/libonnxruntime.so.{VERSION}")
