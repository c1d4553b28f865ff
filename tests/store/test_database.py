"""The ledger's file: versions, damage, other people's files, readers beside a writer."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from pathlib import Path

import pytest

from devicelab.errors import StoreError
from devicelab.store import schema
from devicelab.store.database import Database
from devicelab.store.ledger import Ledger
from devicelab.store.reading import LedgerReader
from devicelab.store.records import JobState, RoundState
from devicelab.store.run import LEDGER, Run, RunReader
from tests.store.making import begin, facts, make_run, model

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def ledger_file(tmp_path: Path) -> Path:
    """Of a run with one round."""
    with make_run(tmp_path / "run") as run:
        first, _ = begin(run)
        run.record_update(first, b"one", [facts("A0"), facts("A1")])
    return tmp_path / "run" / LEDGER


def versioned(path: Path, version: int) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    connection.close()


def test_a_commit_is_on_the_disk_when_it_returns(tmp_path: Path) -> None:
    with Database(tmp_path / "db", write=True) as database:
        settings = {name: database.rows(f"PRAGMA {name}")[0][0] for name in ("journal_mode", "synchronous")}
        assert settings == {"journal_mode": "wal", "synchronous": 2}
        assert database.rows("PRAGMA foreign_keys")[0][0] == 1
        assert database.rows("PRAGMA integrity_check")[0][0] == "ok"
        assert database.rows("PRAGMA user_version")[0][0] == len(schema.STEPS)


@pytest.mark.parametrize("version", range(1, len(schema.STEPS) + 1))
def test_a_ledger_of_every_released_version_can_be_read_and_written(tmp_path: Path, version: int) -> None:
    """``fixtures/schema-N.sql`` is what a devicelab with that schema wrote; it is never made anew."""
    path = tmp_path / LEDGER
    with sqlite3.connect(path) as connection:
        connection.executescript((FIXTURES / f"schema-{version}.sql").read_text())
    connection.close()
    versioned(path, version)
    before = path.read_bytes()
    with LedgerReader(path) as reader:
        assert reader.run().name == "digits"
        assert reader.run().rounds == (None if version < 2 else 3)
        assert [each.client for each in reader.updates(1, accepted=True)] == ["A0", "A1"]
        assert [each.epsilon for each in reader.releases()] == ([] if version < 3 else [1.68])
    assert path.read_bytes() == before
    with Ledger(path) as ledger:
        assert [job.state for job in ledger.jobs()] == [JobState.REMOVED, JobState.LATE, JobState.PLANNED]
        ledger.advance_round(2, RoundState.TRAINING)
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(schema.STEPS),)
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()


def test_a_further_step_is_taken_by_a_writer_and_in_memory_by_a_reader(
    ledger_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    further = "ALTER TABLE jobs ADD COLUMN colour TEXT NOT NULL DEFAULT 'blue';"
    monkeypatch.setattr(schema, "STEPS", (*schema.STEPS, further))
    before = ledger_file.read_bytes()
    with Database(ledger_file, write=False) as reader:
        assert reader.rows("SELECT colour FROM jobs")[0][0] == "blue"
    assert ledger_file.read_bytes() == before
    for _ in range(2):
        with Database(ledger_file, write=True) as writer:
            assert writer.rows("SELECT colour FROM jobs")[0][0] == "blue"
            assert writer.rows("PRAGMA user_version")[0][0] == len(schema.STEPS)
    with LedgerReader(ledger_file) as reader_now:
        assert len(reader_now.jobs()) == 2


def test_a_step_that_fails_leaves_the_file_as_it_was(
    ledger_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = schema.STEPS
    bad = "ALTER TABLE jobs ADD COLUMN colour TEXT; INSERT INTO nowhere VALUES (1);"
    monkeypatch.setattr(schema, "STEPS", (*steps, bad))
    with pytest.raises(StoreError, match="nowhere"):
        Database(ledger_file, write=True)
    monkeypatch.setattr(schema, "STEPS", steps)
    with Database(ledger_file, write=True) as writer:
        assert writer.rows("PRAGMA user_version")[0][0] == len(steps)
        assert "colour" not in {row["name"] for row in writer.rows("PRAGMA table_info(jobs)")}


@pytest.mark.parametrize("write", [True, False])
def test_a_ledger_of_a_newer_devicelab_is_left_alone(ledger_file: Path, write: bool) -> None:
    versioned(ledger_file, 99)
    before = ledger_file.read_bytes()
    with pytest.raises(StoreError, match="schema version 99") as caught:
        Database(ledger_file, write=write)
    assert "newer devicelab" in str(caught.value.hint)
    assert ledger_file.read_bytes() == before


@pytest.mark.parametrize("write", [True, False])
def test_another_programs_database_is_left_alone(tmp_path: Path, write: bool) -> None:
    path = tmp_path / "theirs.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    connection.close()
    with pytest.raises(StoreError, match="no ledger"):
        Database(path, write=write)
    with sqlite3.connect(path) as connection:
        assert [row[0] for row in connection.execute("SELECT name FROM sqlite_schema")] == ["songs"]
    connection.close()


@pytest.mark.parametrize("write", [True, False])
def test_a_file_that_is_no_database_is_an_error_in_words(tmp_path: Path, write: bool) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"not a database at all, but long enough to have a header" * 100)
    with pytest.raises(StoreError, match="is damaged") as caught:
        Database(path, write=write)
    assert "copy" in str(caught.value.hint)
    assert caught.value.exit_code == 2


def test_damage_in_the_middle_is_an_error_in_words(tmp_path: Path) -> None:
    with make_run(tmp_path / "run") as run:
        for number in range(1, 6):
            for job, device in zip(begin(run, number, each=200), "AB", strict=True):
                run.record_update(job, f"{job}".encode(), [facts(f"{device}{n}") for n in range(200)])
            run.save_checkpoint(number, model(float(number)))
    path = tmp_path / "run" / LEDGER
    content = bytearray(path.read_bytes())
    content[4096 * 3 :] = b"\x5a" * (len(content) - 4096 * 3)
    path.write_bytes(content)
    with pytest.raises(StoreError, match="damaged"), RunReader(tmp_path / "run") as reader:
        reader.ledger.summaries()
    with pytest.raises(StoreError, match="damaged"), Run(tmp_path / "run") as writer:
        writer.ledger.summaries()


def test_an_empty_file_and_a_missing_one_are_no_runs(tmp_path: Path) -> None:
    for kind in (RunReader, Run):
        with pytest.raises(StoreError, match="there is no"):
            kind(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / LEDGER).touch()
    with pytest.raises(StoreError, match="never begun"), RunReader(tmp_path / "empty") as reader:
        reader.ledger.run()


def test_a_reader_changes_nothing_and_cannot_write(ledger_file: Path) -> None:
    before = ledger_file.read_bytes()
    with Database(ledger_file, write=False) as reader, pytest.raises(StoreError, match="readonly"):
        reader.execute("DELETE FROM updates")
    assert ledger_file.read_bytes() == before
    assert sorted(path.name for path in ledger_file.parent.glob("ledger*")) == [LEDGER]


def test_a_ledger_can_be_read_where_nothing_can_be_written(
    ledger_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda _path, mode: mode != os.W_OK)
    with LedgerReader(ledger_file) as reader:
        assert len(reader.jobs()) == 2
        assert sorted(path.name for path in ledger_file.parent.glob("ledger*")) == [LEDGER]


def test_a_copy_made_while_the_run_is_written_is_whole(tmp_path: Path) -> None:
    """The write-ahead log is part of the directory, so what is in it is in the copy as well."""
    with make_run(tmp_path / "run") as run:
        first, _ = begin(run)
        run.record_update(first, b"one", [facts("A0"), facts("A1")])
        assert (tmp_path / "run" / f"{LEDGER}-wal").stat().st_size > 0
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
        with RunReader(tmp_path / "copy") as reader:
            assert len(reader.ledger.updates()) == 2
            assert reader.verify() == []
        with Run(tmp_path / "copy") as other:
            assert other.ledger.jobs()[0].state is JobState.COLLECTED


def test_readers_see_whole_transactions_while_somebody_writes(tmp_path: Path) -> None:
    with make_run(tmp_path / "run") as run, RunReader(tmp_path / "run") as reader:
        jobs = begin(run, devices=["A", "B", "C"])
        with reader.ledger.snapshot():
            assert reader.ledger.updates() == []
            for job in jobs:
                run.record_update(job, job.encode(), [facts(f"{job[-1]}0"), facts(f"{job[-1]}1")])
            assert reader.ledger.updates() == []
        assert len(reader.ledger.updates()) == 6
        with run.ledger.together():
            run.ledger.end_job(
                run.ledger.plan_job("x", number=1, device="A", clients=[], payload={}).id, JobState.LATE, "slow"
            )
            assert reader.ledger.job("x") is None
        assert reader.ledger.job("x") is not None


def test_names_with_odd_characters_are_only_names(tmp_path: Path) -> None:
    for name in ("a?b#c%20 d", "ü&mode=memory"):
        with make_run(tmp_path / name) as run:
            begin(run)
        with RunReader(tmp_path / name) as reader:
            assert len(reader.ledger.jobs()) == 2
    assert sorted(os.listdir(tmp_path)) == sorted(["a?b#c%20 d", "ü&mode=memory"])  # noqa: PTH208 - names


def test_every_state_has_its_place_in_the_schema() -> None:
    for states, table in ((RoundState, "rounds"), (JobState, "jobs")):
        body = re.search(rf"CREATE TABLE {table} \(.*?\) STRICT", schema.STEPS[0], re.DOTALL)
        assert body is not None
        listed = re.search(r"state TEXT NOT NULL CHECK \(state IN \((.*?)\)\)", body[0], re.DOTALL)
        assert listed is not None
        assert re.findall(r"'(\w+)'", listed[1]) == [state.value for state in states]
