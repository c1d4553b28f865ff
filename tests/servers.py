"""A private adb server for tests: its own port and home, no USB, no mDNS, no look for emulators."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import adbutils
import pytest

__all__ = ["ADB", "AdbServer", "adb_server", "run_server"]

ADB = Path(adbutils.__file__).parent / "binaries" / "adb"
"""Google's current adb, out of the adbutils wheel."""


@dataclass(frozen=True)
class AdbServer:
    """A server that runs, and the client that belongs to it."""

    program: Path
    port: int
    environment: dict[str, str]

    def adb(self, *words: str, timeout: float = 60, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """Run the adb client."""
        return subprocess.run(
            [self.program, *words],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=check,
        )


@contextmanager
def run_server(program: Path, home: Path, libraries: Path | None = None) -> Iterator[AdbServer]:
    """Start a server in the foreground on a free port; it ends with the context."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "ANDROID_ADB_SERVER_PORT": str(port),
        "ADB_LOCAL_TRANSPORT_MAX_PORT": "5553",
        "ADB_MDNS": "0",
        "ADB_USB": "0",
    }
    if libraries is not None:
        environment["LD_LIBRARY_PATH"] = str(libraries)
    server = AdbServer(program, port, environment)
    with (home / "adb.log").open("wb") as log:
        process = subprocess.Popen(
            [program, "-L", f"tcp:localhost:{port}", "server", "nodaemon"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        end = time.monotonic() + 30
        while process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < end, (home / "adb.log").read_text()
                time.sleep(0.02)
        yield server
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def adb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdbServer]:
    """A current adb server for the tests of one worker."""
    with run_server(ADB, tmp_path_factory.mktemp("adb")) as server:
        yield server
