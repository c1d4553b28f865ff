"""The adb that Debian 12 ships, years older than the one on PyPI: what stands on most desks' hosts."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from devicelab.deadline import Deadline
from devicelab.devices.locks import flocked
from devicelab.files import cache_dir
from devicelab.virtual.packages import fetch_packages, system_mirror
from tests.servers import AdbServer, run_server

_ROOT = cache_dir() / "tests" / "adb-of-the-distribution"
_LOADERS = ("lib64/ld-linux-x86-64.so.2", "lib/ld-linux-aarch64.so.1")


@pytest.fixture(scope="session")
def old_adb() -> Path:
    """Debian 12's adb 29.0.6 (on Ubuntu: the host's own release's), unpacked beside the host's packages."""
    deadline = Deadline("adb of the distribution", 600)
    _ROOT.mkdir(parents=True, exist_ok=True)
    program = _ROOT / "adb"
    with (_ROOT / ".lock").open("a") as lock, flocked(lock.fileno(), deadline):
        if not program.exists():
            suite = "bookworm" if system_mirror(deadline).distribution == "debian" else None
            fetch_packages(["adb"], _ROOT / "root", suite=suite, deadline=deadline)
            program.write_text(_wrapper(_ROOT / "root"))
            program.chmod(0o755)
    return program


@pytest.fixture(scope="session")
def old_adb_server(old_adb: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdbServer]:
    """A server of that adb for the tests of one worker."""
    with run_server(old_adb, tmp_path_factory.mktemp("old-adb")) as server:
        yield server


def _wrapper(root: Path) -> str:
    """A script that runs adb with its own release's libraries and loader, whatever the host's are."""
    adb = root / "usr/lib/android-sdk/platform-tools/adb"
    loader = next(
        path for name in _LOADERS if (path := root / name).exists() or (path := root / "usr" / name).exists()
    )
    libraries = sorted({str(path.parent) for path in root.glob("usr/lib/*-linux-gnu/**/*.so*")})
    words = [str(loader), "--library-path", ":".join(libraries), str(adb)]
    return f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n'
