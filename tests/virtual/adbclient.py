"""The real adb client, and what its server says of a phone."""

from __future__ import annotations

import re
import subprocess
import time
from dataclasses import dataclass

from tests.servers import AdbServer

__all__ = ["Adb"]


@dataclass(frozen=True)
class Adb:
    """An adb client, and what its server says of a phone."""

    server: AdbServer

    def __call__(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        return self.server.adb(*words, check=check)

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
