from __future__ import annotations

import fcntl
import multiprocessing
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from devicelab.deadline import Deadline
from devicelab.errors import ConfigError, DeadlineError, VirtualPhoneError
from devicelab.fetching import Progress
from devicelab.virtual import image as module
from devicelab.virtual.image import COMMANDS, PROGRAMS, TRIPLETS, build_image, hold_image
from devicelab.virtual.packages import host_arch


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEVICELAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/images"


class FakeApt:
    """fetch_packages without a network: takes apart an image that was really built."""

    def __init__(self, image: Path, seconds: float = 0) -> None:
        self.image = image
        self.seconds = seconds

    def __call__(
        self, names: Sequence[str], dest: Path, *, arch: str, deadline: Deadline, progress: Progress | None
    ) -> list[str]:
        assert "adbd" in names
        if progress is not None:
            progress("fetching")
        for source, target in PROGRAMS.items():
            (dest / source).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.image / target, dest / source)
        shutil.copytree(self.image / "usr/lib", dest / "usr/lib", dirs_exist_ok=True)
        shutil.copytree(self.image / "usr/lib64", dest / "usr/lib64")
        time.sleep(self.seconds)
        with (dest.parent.parent / "builds").open("a") as log:
            log.write("x")
        return [f"{name}_1_{arch}" for name in names]


@pytest.fixture
def fake_apt(image: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> FakeApt:
    apt = FakeApt(image)
    monkeypatch.setattr(module, "fetch_packages", apt)
    return apt


def test_the_image_holds_what_a_phone_needs(image: Path) -> None:
    for name in (
        "sh",
        "adbd",
        "toybox",
        "getprop",
        "setprop",
        "dumpsys",
        "df",
        "getconf",
        "init",
        "sha256sum",
        "dd",
    ):
        assert os.access(image / "system/bin" / name, os.X_OK), name
    assert (image / "system/etc/packages.txt").read_text(encoding="utf-8").count("adbd_") == 1
    assert not [
        path for path in image.rglob("*") if path.is_symlink() and not path.exists() and path.name != "sdcard"
    ]


def test_every_command_is_one_that_its_program_knows(image: Path) -> None:
    libraries = image / "usr/lib" / TRIPLETS[host_arch()]
    loader = [str(next((image / "usr/lib64").glob("ld-linux*"), libraries)), "--library-path", str(libraries)]
    for program, words in (("toybox", []), ("busybox", ["--list"])):
        run = subprocess.run(
            [*loader, str(image / "usr/bin" / program), *words], capture_output=True, text=True, check=True
        )
        wanted = {command for command, owner in COMMANDS.items() if owner == program and command != program}
        assert wanted <= set(run.stdout.split())


def test_it_is_built_once_and_then_only_looked_up(fake_apt: FakeApt, cache: Path) -> None:
    said: list[str] = []
    first = build_image(progress=said.append)
    assert said == ["fetching"]
    assert build_image(progress=said.append) == first
    assert said == ["fetching"]
    assert first.parent == cache
    assert sorted(path.name for path in cache.iterdir()) == [".lock", "builds", first.name]


def _build(arguments: tuple[Path, Path]) -> Path:
    os.environ["DEVICELAB_CACHE"] = str(arguments[1])
    setattr(module, "fetch_packages", FakeApt(arguments[0], seconds=0.5))  # noqa: B010 (a double, for mypy's eyes)
    return build_image()


def test_many_builders_build_once(image: Path, cache: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        found = pool.map(_build, [(image, cache.parent)] * 3)
    assert len(set(found)) == 1
    assert (cache / "builds").read_text() == "x"


def test_waiting_for_another_builder_has_an_end(fake_apt: FakeApt, cache: Path) -> None:
    cache.mkdir(parents=True)
    with (cache / ".lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DeadlineError, match="building the phone image"):
            build_image(deadline=Deadline("building the phone image", 0.3))


def test_what_a_killed_builder_left_goes(fake_apt: FakeApt, cache: Path) -> None:
    (cache / ".part-xyz/root/system").mkdir(parents=True)
    built = build_image()
    assert sorted(path.name for path in cache.iterdir()) == [".lock", "builds", built.name]


def test_a_failed_build_leaves_nothing(fake_apt: FakeApt, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.PROGRAMS, "usr/bin/no-such-program", "usr/bin/x")
    monkeypatch.setattr(FakeApt, "__call__", lambda _self, _names, dest, **_rest: dest.mkdir() or [])
    with pytest.raises(VirtualPhoneError, match=r"the packages hold no .*no-such-program"):
        build_image()
    assert [path.name for path in cache.iterdir()] == [".lock"]


def test_images_of_older_recipes_go_unless_in_use(fake_apt: FakeApt, cache: Path) -> None:
    arch = host_arch()
    for name in (f"phone-{arch}-old", f"phone-{arch}-used", "phone-other-old"):
        (cache / name / "system").mkdir(parents=True)
    holder = hold_image(cache / f"phone-{arch}-used")
    try:
        built = build_image()
    finally:
        os.close(holder)
    names = {path.name for path in cache.iterdir() if path.is_dir()}
    assert names == {built.name, f"phone-{arch}-used", "phone-other-old"}
    with pytest.raises(VirtualPhoneError, match="is gone"):
        hold_image(cache / f"phone-{arch}-old")


def test_another_recipe_is_another_image(fake_apt: FakeApt, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build_image()
    monkeypatch.setitem(module.FILES, "etc/hosts", "127.0.0.1 phone\n")
    second = build_image()
    assert second != first
    assert (second / "etc/hosts").read_text(encoding="utf-8") == "127.0.0.1 phone\n"
    assert not first.exists()


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(VirtualPhoneError, match="no phone image for mips"):
        build_image(arch="mips")


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DEVICELAB_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"cannot build the phone image in .*file/images: Not a directory"):
        build_image()
