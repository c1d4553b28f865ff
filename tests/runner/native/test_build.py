"""The runner's build: only what is stale, wherever it may write, and sources as the formatter wants them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from devicelab.runner.native import build

SOURCES = sorted(Path(build.__file__).parent.glob("*.zig"))


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Targets that have been built, by a compiler that takes no time."""
    done: list[str] = []

    def put(target: str, out: Path) -> Path:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(b"program")
        done.append(target)
        return out

    monkeypatch.setattr(build, "build", put)
    return done


def test_only_what_is_stale_is_built(built: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = build.refresh(tmp_path)
    assert built == list(build.TARGETS)
    assert programs == [tmp_path / target / "devicelab-runner" for target in build.TARGETS]
    assert build.refresh(tmp_path) == programs
    assert built == list(build.TARGETS)
    programs[2].unlink()
    build.refresh(tmp_path)
    assert built[len(programs) :] == [list(build.TARGETS)[2]]
    monkeypatch.setattr(build, "_version", lambda: "9.9.9")  # it is in the program
    build.refresh(tmp_path, ["linux-x86_64"])
    assert built[-1] == "linux-x86_64"
    assert not build.is_fresh(tmp_path, "android-x86")


def test_a_change_in_a_source_is_noticed(
    built: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "native"
    copy.mkdir()
    for source in SOURCES:
        (copy / source.name).write_bytes(source.read_bytes())
    monkeypatch.setattr(build, "_HERE", copy)
    monkeypatch.setattr(build, "_version", lambda: "1")
    build.refresh(tmp_path, ["linux-x86_64"])
    assert build.is_fresh(tmp_path, "linux-x86_64")
    (copy / "ort.zig").write_text("// new")
    assert not build.is_fresh(tmp_path, "linux-x86_64")
    (copy / "ort.zig").unlink()
    assert not build.is_fresh(tmp_path, "linux-x86_64")
    assert len(built) == 1


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stub.zig").write_text("this is no Zig")
    monkeypatch.setattr(build, "_HERE", tmp_path)
    monkeypatch.setattr(build, "_version", lambda: "1")
    with pytest.raises(build.BuildError, match=r"the Zig compiler failed: (.|\n)*stub.zig:1"):
        build.build("linux-x86_64", tmp_path / "out" / "runner")
    assert list((tmp_path / "out").iterdir()) == []


def test_no_compiler_is_an_error_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(build.BuildError, match="cannot be run"):
        build.build("linux-x86_64", tmp_path / "runner")


def test_it_builds_where_no_cache_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DEVICELAB_CACHE", str(tmp_path / "file"))
    seen: list[str] = []

    def run(command: list[str], *, env: dict[str, str], **options: object) -> subprocess.CompletedProcess[str]:
        seen.append(env["ZIG_GLOBAL_CACHE_DIR"])
        return subprocess.CompletedProcess(command, 1, "", "enough")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(build.BuildError, match="enough"):
        build.build("linux-x86_64", tmp_path / "runner")
    assert seen[0].startswith(str(Path(seen[0]).parents[1] / "devicelab-build-"))


def test_the_sources_are_formatted() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "ziglang", "fmt", "--check", *SOURCES],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout) == (0, ""), run.stderr
    for source in SOURCES:
        lines = source.read_text().splitlines()
        assert max(map(len, lines)) <= 120, source.name
        assert len(lines) < 400, source.name
        assert lines[0].startswith("//! "), source.name


def test_the_pinned_compiler_is_the_one_that_builds_the_package() -> None:
    text = (Path(build.__file__).parents[3] / "pyproject.toml").read_text()
    assert text.count('"ziglang==0.17.1"') == 2
