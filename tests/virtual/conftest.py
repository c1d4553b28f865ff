"""The real adb client with a server of each test's own, so that no test meets another's phones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import ADB, run_server
from tests.virtual.adbclient import Adb

__all__ = ["Adb", "adb"]


@pytest.fixture
def adb(tmp_path: Path) -> Iterator[Adb]:
    home = tmp_path / "adb"
    home.mkdir()
    with run_server(ADB, home) as server:
        yield Adb(server)
