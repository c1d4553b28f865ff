"""Host programs out of packages: fetched once, whole or not at all, and they run where they lie."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from devicelab.errors import ConfigError, VirtualPhoneError
from devicelab.virtual import programs
from devicelab.virtual.image import TRIPLETS
from devicelab.virtual.libraries import closure, read_elf
from devicelab.virtual.packages import host_arch
from devicelab.virtual.programs import fetch_program
from devicelab.virtual.proot import fetch_proot


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEVICELAB_CACHE", str(tmp_path / "a cache"))
    return tmp_path / "a cache" / "programs"


class FakeApt:
    """Packages made of this machine's own ``env``, as a package lays it out."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[str] = []

    def __call__(self, names: Sequence[str], dest: Path, **_: object) -> list[str]:
        self.asked += names
        (dest / "usr/bin").mkdir(parents=True)
        source = Path("/usr/bin/env")
        shutil.copy(source, dest / "usr/bin" / self.name)
        libraries = Path("usr/lib", TRIPLETS[host_arch()])
        (dest / libraries).mkdir(parents=True)
        for name, path in closure([source], [Path("/") / libraries]).items():
            shutil.copy(path, dest / libraries / name)
        interpreter = Path(read_elf(source).interpreter)
        linker = dest / "usr" / interpreter.relative_to("/")
        linker.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(interpreter, linker)
        return []


@pytest.fixture
def apt(monkeypatch: pytest.MonkeyPatch) -> FakeApt:
    fake = FakeApt("env")
    monkeypatch.setattr(programs, "fetch_packages", fake)
    return fake


def test_a_program_is_fetched_once_and_runs_with_its_own_libraries(cache: Path, apt: FakeApt) -> None:
    first = fetch_program("env", ("debians", "ubuntus"))
    assert fetch_program("env", ("debians", "ubuntus")) == first
    assert apt.asked in (["debians"], ["ubuntus"])
    assert first.path == cache / f"env-{host_arch()}" / "env"
    done = subprocess.run([*first.command, "-i", "A=1"], capture_output=True, check=True)
    assert done.stdout == b"A=1\n"
    assert first.command[0].startswith(str(cache))


def test_leftovers_of_a_killed_build_are_removed(cache: Path, apt: FakeApt) -> None:
    (cache / ".part-dead/packages").mkdir(parents=True)
    fetch_program("env", ("debians", "ubuntus"))
    assert sorted(path.name for path in cache.iterdir()) == [".lock", f"env-{host_arch()}"]


def test_ubuntus_name_for_a_static_program_will_do(cache: Path, apt: FakeApt) -> None:
    apt.name = "other-static"
    assert fetch_program("other", ("debians", "ubuntus")).path.name == "other"


def test_a_package_without_the_program_leaves_nothing(cache: Path, apt: FakeApt) -> None:
    with pytest.raises(VirtualPhoneError, match="holds no missing"):
        fetch_program("missing", ("debians", "ubuntus"))
    assert [path.name for path in cache.iterdir()] == [".lock"]


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DEVICELAB_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"cannot keep env in .*Not a directory"):
        fetch_program("env", ("debians", "ubuntus"))


def test_proot_runs() -> None:
    done = subprocess.run([*fetch_proot().command, "--version"], capture_output=True, check=False, timeout=60)
    assert b"built-in accelerators" in done.stdout
