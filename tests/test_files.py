"""Files are written whole or not at all, and directories come from where the user said."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path

import pytest

from devicelab import files


def test_state_dir_prefers_the_argument_then_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEVICELAB_HOME", str(tmp_path / "env"))
    assert files.state_dir(tmp_path / "argument") == tmp_path / "argument"
    assert files.state_dir() == tmp_path / "env"
    monkeypatch.delenv("DEVICELAB_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    assert files.state_dir() == tmp_path / "xdg" / "devicelab"


def test_cache_dir_follows_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEVICELAB_CACHE", str(tmp_path / "cache"))
    assert files.cache_dir() == tmp_path / "cache"


def test_write_atomically_replaces_the_whole_file_with_the_exact_mode(tmp_path: Path) -> None:
    target = tmp_path / "key"
    target.write_bytes(b"old and longer")
    files.write_atomically(target, b"new", mode=0o600)
    assert target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [target]


def test_a_failed_write_leaves_the_old_file_and_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "state.json"
    target.write_bytes(b"old")

    def disk_full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space"):
        files.write_atomically(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_that_is_written_bit_by_bit_takes_its_name_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.write_bytes(b"old")
    with files.replacing(target, mode=0o640) as file:
        file.write(b"one ")
        assert target.read_bytes() == b"old"
        os.write(file.fileno(), b"two")
    assert target.read_bytes() == b"one two"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [target]


def test_an_interrupt_in_between_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.write_bytes(b"old")

    def interrupted() -> None:
        with files.replacing(target) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_the_hosts_own_trouble_in_words() -> None:
    full = files.host_error("cannot keep it", OSError(errno.ENOSPC, "No space left on device"))
    assert full.message == "cannot keep it: No space left on device"
    assert "--state-dir" in str(full.hint)
    forbidden = files.host_error("cannot keep it", PermissionError(errno.EACCES, "Permission denied", "/x"))
    assert forbidden.message == "cannot keep it: Permission denied (/x)"
    assert "doctor" in str(forbidden.hint)


def test_of_many_files_that_cannot_be_copied_the_first_is_told(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "from" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "from" / name).touch()

    def full(source: str, target: str) -> str:
        raise OSError(errno.ENOSPC, "No space left on device", target)

    with pytest.raises(shutil.Error) as caught:
        shutil.copytree(tmp_path / "from", tmp_path / "to", copy_function=full)
    told = files.host_error("cannot copy", caught.value)
    assert told.message.count("No space left on device") == 1
    assert "--state-dir" in str(told.hint)
