"""The library of the oldest ONNX Runtime that the runner takes, as its makers published it for Linux."""

from __future__ import annotations

import platform
import subprocess
import tarfile
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from devicelab.files import cache_dir

VERSION = "1.18.0"
_PACKAGE = f"onnxruntime-node@{VERSION}"  # wheels carry the library from 1.19 on
_MACHINES = {"x86_64": "x64", "aarch64": "arm64"}


@cache
def oldest_engine() -> Path:
    """Fetched once (55 MB), kept in the cache."""
    member = f"package/bin/napi-v3/linux/{_MACHINES[platform.machine()]}/libonnxruntime.so.{VERSION}"
    kept = cache_dir() / "test-engines" / _PACKAGE / platform.machine() / "libonnxruntime.so"
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=kept.parent) as place:
            subprocess.run(["npm", "pack", "--silent", _PACKAGE], cwd=place, check=True, timeout=900)
            [package] = Path(place).glob("*.tgz")
            with tarfile.open(package) as archive:
                content = archive.extractfile(member)
                assert content is not None
                Path(place, "library").write_bytes(content.read())
            Path(place, "library").rename(kept)
    return kept
