"""The shared directory: what other users may have put there does no harm."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from devicelab.deadline import Deadline
from devicelab.devices import leasefile
from devicelab.devices.leasefile import lease_directory, lease_name, opened, prepared, read_all, rewrite
from devicelab.errors import ConfigError

NAME = lease_name("R58M123")


def _deadline() -> Deadline:
    return Deadline("lock", 60)


def _write(directory: Path, data: bytes) -> None:
    with opened(directory, NAME, _deadline(), write=True) as fd:
        assert fd is not None
        rewrite(fd, data)


def _read(directory: Path) -> bytes | None:
    with opened(directory, NAME, _deadline(), write=False) as fd:
        return None if fd is None else read_all(fd)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "leases"


def test_names_are_safe_whatever_the_identity() -> None:
    names = {lease_name(identity) for identity in ("A", "a", "../../x", "", "\0", "\udcff", "x" * 5000)}
    assert len(names) == 7
    assert all(name.removesuffix(".lease").isalnum() for name in names)


def test_the_directory_is_made_for_everybody(directory: Path) -> None:
    previous = os.umask(0o077)
    try:
        _write(directory, b"x\n")
    finally:
        os.umask(previous)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o1777
    assert stat.S_IMODE((directory / NAME).stat().st_mode) == 0o666
    assert _read(directory) == b"x\n"


def test_contents_get_shorter_and_empty(directory: Path) -> None:
    for data in (b"a long line\n", b"short\n", b""):
        _write(directory, data)
        assert _read(directory) == data


def test_reading_makes_nothing(directory: Path) -> None:
    assert _read(directory) is None
    assert not directory.exists()
    os.close(prepared(directory))
    assert _read(directory) is None
    assert list(directory.iterdir()) == []


def test_a_directory_that_is_a_link(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    directory.symlink_to(tmp_path / "victim")
    with pytest.raises(ConfigError, match="symbolic link") as caught:
        _write(directory, b"x")
    assert "DEVICELAB_LEASES" in str(caught.value.hint)
    assert list((tmp_path / "victim").iterdir()) == []


def test_a_directory_in_which_anybody_may_replace_files(directory: Path) -> None:
    directory.mkdir()
    directory.chmod(0o777)
    with pytest.raises(ConfigError, match="anybody may replace") as caught:
        _write(directory, b"x")
    assert f"chmod +t {directory}" in str(caught.value.hint)
    directory.chmod(0o700)
    _write(directory, b"x")


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "leases", tmp_path / "missing" / "leases"):
        with pytest.raises(ConfigError, match="cannot keep leases in"):
            _write(path, b"x")


def test_a_link_where_a_lease_file_belongs(directory: Path, tmp_path: Path) -> None:
    os.close(prepared(directory))
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (directory / NAME).symlink_to(victim)
    for write in (True, False):
        with (
            pytest.raises(ConfigError, match="cannot use the lease file") as caught,
            opened(directory, NAME, _deadline(), write=write),
        ):
            pass
        assert f"rm {directory / NAME}" in str(caught.value.hint)
    (directory / NAME).unlink()
    os.link(victim, directory / NAME)
    with pytest.raises(ConfigError, match="not a plain file of its own"):
        _write(directory, b"x")
    assert victim.read_text() == "precious"


def test_a_dangling_link_makes_nothing(directory: Path, tmp_path: Path) -> None:
    os.close(prepared(directory))
    (directory / NAME).symlink_to(tmp_path / "new")
    with pytest.raises(ConfigError):
        _write(directory, b"x")
    assert not (tmp_path / "new").exists()


def test_a_fifo_does_not_hold_us_up(directory: Path) -> None:
    os.close(prepared(directory))
    os.mkfifo(directory / NAME)
    for write in (True, False):
        with pytest.raises(ConfigError), opened(directory, NAME, _deadline(), write=write):
            pass


def test_a_huge_file_is_not_read(directory: Path) -> None:
    os.close(prepared(directory))
    with (directory / NAME).open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ConfigError, match="not a plain file"):
        _read(directory)


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEVICELAB_LEASES", str(tmp_path / "chosen"))
    assert lease_directory() == tmp_path / "chosen"
    monkeypatch.delenv("DEVICELAB_LEASES")
    lock = tmp_path / "lock"
    monkeypatch.setattr(leasefile, "_RUN_LOCK", lock)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    assert lease_directory() == tmp_path / "temp" / "devicelab-leases"
    lock.mkdir(mode=0o755)
    assert lease_directory() == tmp_path / "temp" / "devicelab-leases"
    lock.chmod(0o1777)
    assert lease_directory() == lock / "devicelab"
    lock.chmod(0o755)
    (lock / "devicelab").mkdir()
    assert lease_directory() == lock / "devicelab"
