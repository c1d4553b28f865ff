from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from devicelab.virtual import probe
from devicelab.virtual.desk import VirtualDesk
from devicelab.virtual.probe import choose_body, namespaces_problem, proot_problem
from tests.virtual.wire import shell

ASK = "from devicelab.virtual.probe import namespaces_problem; print(namespaces_problem())"


def ask(before: str) -> str:
    """What the probe says in a user namespace of the test's own, after a shell command in it."""
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", f'{before} && exec "$@"', "sh"]
    done = subprocess.run(
        [*command, sys.executable, "-c", ASK], capture_output=True, text=True, timeout=100, check=True
    )
    return done.stdout.strip()


def test_phones_can_be_made_here() -> None:
    assert namespaces_problem() is None


def test_they_can_by_a_root_who_is_none_outside() -> None:
    assert ask("true") == "None"


def test_a_limit_is_named_with_what_to_do() -> None:
    said = ask("echo 0 >/proc/sys/user/max_user_namespaces")
    assert said.startswith("unshare: ")
    assert "user.max_user_namespaces is 0: `sudo sysctl -w user.max_user_namespaces=15000`" in said


def test_trying_leaves_no_mount() -> None:
    before = Path("/proc/self/mounts").read_text(encoding="utf-8")
    assert namespaces_problem() is None
    assert Path("/proc/self/mounts").read_text(encoding="utf-8") == before


def test_without_apt_and_image_there_is_python(
    desk: VirtualDesk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: {"ID": "fedora", "PRETTY_NAME": "Fedora 42"})
    assert choose_body() == "namespaces"  # the image is in the cache
    monkeypatch.setenv("DEVICELAB_CACHE", str(tmp_path / "empty"))
    assert choose_body() == "python"
    assert "Fedora 42 is neither Debian nor Ubuntu" in str(proot_problem())

    phone = desk.up(["pixel"])[0]

    assert phone.body == "python"
    assert shell(phone.port, "getprop ro.serialno") == f"{phone.serial}\n"


def test_a_try_that_never_ends_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\nexec sleep 100\n", encoding="utf-8")
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))
    monkeypatch.setattr(probe, "_SECONDS", 0.3)
    assert "took more than 0.3 s" in str(namespaces_problem())
