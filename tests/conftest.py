"""What every test gets: a home of its own, and virtual phones on request."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from devicelab.files import cache_dir
from tests.phones import desk, image, module_desk, phone
from tests.servers import adb_server

__all__ = ["adb_server", "desk", "image", "module_desk", "own_home", "phone"]

# A loaded machine is no reason to fail, nor is a checkout that this user may not write to.
settings.register_profile("patient", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# nohup, or a shell that runs the tests in its background, ignores these for itself; what they start must not.
for _number in (signal.SIGHUP, signal.SIGINT):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda *_: None)  # which no program inherits

_CACHE = cache_dir()  # phone images are built once, whatever home a test has


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the keys, leases, state or adb server of whoever runs it."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("DEVICELAB_HOME", str(home / "state"))
    monkeypatch.setenv("DEVICELAB_LEASES", str(home / "leases"))
    monkeypatch.setenv("DEVICELAB_CACHE", str(_CACHE))
    for name in ("ADB", "ADB_SERVER_SOCKET", "ANDROID_ADB_SERVER_ADDRESS", "ADB_VENDOR_KEYS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(
        "ANDROID_ADB_SERVER_PORT", "1"
    )  # nothing answers there: no test finds a server by chance
    return home
