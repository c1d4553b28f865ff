"""A private adb server: its own port and HOME, no USB, no mDNS, no emulator scan; ended with the test."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import adbutils
import pytest

ADB = Path(adbutils.__file__).parent / "binaries" / "adb"


@dataclass(frozen=True)
class Adb:
    """The real adb client, talking to a server of this test's own."""

    port: int
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "ANDROID_ADB_SERVER_PORT": str(self.port),
            "ADB_LOCAL_TRANSPORT_MAX_PORT": "5553",
            "ADB_MDNS": "0",
            "ADB_USB": "0",
        }

    def __call__(
        self, *words: str, timeout: float = 60, check: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [ADB, *words],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=check,
        )

    def state(self, serial: str) -> str | None:
        """What ``adb devices`` says of a phone; None if it is not listed."""
        listing = self("devices").stdout.decode()
        found = re.search(rf"^{re.escape(serial)}\t(.+)$", listing, re.MULTILINE)
        return found[1] if found else None

    def wait(self, serial: str, state: str | None, seconds: float = 30) -> None:
        """Until ``adb devices`` shows the phone in ``state``."""
        end = time.monotonic() + seconds
        while (now := self.state(serial)) != state:
            assert time.monotonic() < end, f"{serial} is {now}, not {state}"
            time.sleep(0.1)


@pytest.fixture
def adb(tmp_path: Path) -> Iterator[Adb]:
    home = tmp_path / "home"
    home.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        client = Adb(probe.getsockname()[1], home)
    with (tmp_path / "adb.log").open("wb") as log:
        server = subprocess.Popen(
            [ADB, "-L", f"tcp:localhost:{client.port}", "server", "nodaemon"],
            env=client.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        end = time.monotonic() + 30
        while True:
            with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", client.port)):
                break
            assert server.poll() is None, (tmp_path / "adb.log").read_text()
            assert time.monotonic() < end
            time.sleep(0.02)
        yield client
    finally:
        server.kill()
        server.wait()
