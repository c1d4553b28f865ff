"""The experiments that come with devicelab, written where somebody can change them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from devicelab.errors import ConfigError
from devicelab.examples import write_examples
from tests.cli.command import devicelab, document

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


def test_they_are_those_of_the_checkout(tmp_path: Path) -> None:
    written = write_examples(tmp_path / "some" / "where")
    assert [each.path.name for each in written] == [path.name for path in CONFIGS]
    assert [each.path.read_bytes() for each in written] == [path.read_bytes() for path in CONFIGS]
    assert all(each.written and each.title for each in written)


def test_those_that_are_there_stay(tmp_path: Path) -> None:
    write_examples(tmp_path)
    before = (tmp_path / "digits.yaml").stat().st_ino
    (tmp_path / "stress.yaml").unlink()
    again = {each.path.name: each.written for each in write_examples(tmp_path)}
    assert again.pop("stress.yaml")
    assert not any(again.values())
    assert (tmp_path / "digits.yaml").stat().st_ino == before


def test_somebody_elses_file_is_not_overwritten_and_nothing_else_written(tmp_path: Path) -> None:
    (tmp_path / "movielens.yaml").write_text("mine")
    with pytest.raises(ConfigError, match=r"movielens\.yaml is there already"):
        write_examples(tmp_path)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_a_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="no directory"):
        write_examples(tmp_path / "file" / "configs")


@pytest.mark.parametrize("what", ["directory", "pipe", "link"])
def test_something_else_is_in_the_way(tmp_path: Path, what: str) -> None:
    path = tmp_path / "digits.yaml"
    if what == "directory":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("nowhere")
    with pytest.raises(ConfigError, match=r"digits\.yaml is there already"):
        write_examples(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_the_command_writes_where_the_readme_looks_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    [first, *others] = document("examples")["examples"]
    assert first == {"path": "configs/digits.yaml", "title": first["title"], "written": True}
    assert "scikit-learn's handwritten digits" in first["title"]
    Path("configs/digits.yaml").unlink()
    lines = devicelab("examples").stdout.splitlines()
    assert lines[1].split()[:2] == ["configs/digits.yaml", "written"]
    assert [line.split()[1] for line in lines[2:-1]] == ["kept"] * len(others)
    assert lines[-1] == f"1 written, {len(others)} kept: they were there already"
    assert "name: digits" in devicelab("run-round", "configs/digits.yaml", "--explain").stdout
