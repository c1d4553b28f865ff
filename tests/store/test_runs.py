"""All runs of a state directory."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from devicelab.errors import ConfigError
from devicelab.store.records import RoundState
from devicelab.store.run import LEDGER
from devicelab.store.runs import find_run, list_runs, new_run_path, newest_run, runs_directory, sweep_runs
from tests.store.making import begin, make_run, model


def test_ids_are_readable_and_sort_by_age(tmp_path: Path) -> None:
    moment = 1795702353.0  # 2026-11-26 14:12:33 UTC
    names = [new_run_path(tmp_path, "Digits (mine)", now=moment + n).name for n in range(3)]
    assert re.fullmatch(r"digits-mine-20261126-141233-[0-9a-f]{4}", names[0])
    assert names == sorted(names)
    assert new_run_path(tmp_path, "digits").parent == runs_directory(tmp_path) == tmp_path / "runs"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["", "../../etc", "ü", ".", "x" * 500, "-", "a/b", "\n"])
def test_whatever_an_experiment_is_called_its_run_stays_in_its_directory(tmp_path: Path, name: str) -> None:
    path = new_run_path(tmp_path, name)
    assert path.parent == tmp_path / "runs"
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,40}-\d{8}-\d{6}-[0-9a-f]{4}", path.name)


def test_no_two_runs_have_one_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = iter(["ab12", "ab12", "cd34"])
    monkeypatch.setattr("secrets.token_hex", lambda _size: next(tokens))
    first = new_run_path(tmp_path, "digits", now=0)
    first.mkdir(parents=True)
    assert new_run_path(tmp_path, "digits", now=0).name == "digits-19700101-000000-cd34"


def test_runs_are_listed_found_and_the_newest_is_known(tmp_path: Path) -> None:
    assert list_runs(tmp_path) == []
    assert newest_run(tmp_path) is None
    with pytest.raises(ConfigError, match="begins with 'digits'") as caught:
        find_run(tmp_path, "digits")
    assert "none yet" in str(caught.value.hint)
    paths = [
        runs_directory(tmp_path) / name
        for name in ("zoo-20260101-000000-aaaa", "digits-20260102-000000-bbbb", "digits-20260103-000000-cccc")
    ]
    for path in reversed(paths):
        with make_run(path) as run:
            begin(run)
            if path == paths[1]:
                run.save_checkpoint(1, model(1.0))
                begin(run, 2)
    (runs_directory(tmp_path) / "notes").mkdir()
    (runs_directory(tmp_path) / "file").touch()
    damaged = runs_directory(tmp_path) / "digits-20260104-000000-dddd"
    damaged.mkdir()
    (damaged / LEDGER).write_bytes(b"garbage" * 1000)

    listed = list_runs(tmp_path)
    assert [each.path for each in listed] == [*paths, damaged]
    assert [each.rounds for each in listed] == [0, 1, 0, 0]
    assert [each.last and each.last.number for each in listed] == [1, 2, 1, None]
    assert listed[1].last is not None
    assert listed[1].last.state is RoundState.SELECTING
    assert "damaged" in listed[3].problem
    assert listed[3].run is None

    assert newest_run(tmp_path) == damaged
    assert newest_run(tmp_path, "digits") == paths[2]
    assert newest_run(tmp_path, "movielens") is None
    assert find_run(tmp_path, "zoo") == paths[0]
    assert find_run(tmp_path, paths[1].name) == paths[1]
    with pytest.raises(ConfigError, match="3 runs begin with 'digits'") as caught:
        find_run(tmp_path, "digits")
    assert paths[2].name in str(caught.value.hint)
    for nothing in ("", "..", "digits-2027"):
        with pytest.raises(ConfigError, match="begins with"):
            find_run(tmp_path, nothing)


def test_an_exact_id_is_found_though_another_one_begins_with_it(tmp_path: Path) -> None:
    for name in ("mine", "mine-too"):
        make_run(runs_directory(tmp_path) / name).close()
    assert find_run(tmp_path, "mine").name == "mine"


def test_what_was_never_finished_being_made_is_swept_once_it_is_old(tmp_path: Path) -> None:
    runs_directory(tmp_path).mkdir()
    old, new = (runs_directory(tmp_path) / f".new-{name}" for name in ("old", "new"))
    for path in (old, new):
        (path / "plan").mkdir(parents=True)
    past = time.time() - 7200
    os.utime(old, (past, past))
    assert sweep_runs(tmp_path) == [old]
    assert [path.name for path in runs_directory(tmp_path).iterdir()] == [".new-new"]
    assert sweep_runs(tmp_path / "nowhere") == []
    assert list_runs(tmp_path) == []
