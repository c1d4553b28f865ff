"""What of old runs goes, and what must not."""

from __future__ import annotations

from pathlib import Path

import pytest

from devicelab.errors import StoreError
from devicelab.store.records import JobState, RoundState
from devicelab.store.run import Run
from devicelab.store.runs import list_runs, new_run_path, runs_directory
from devicelab.store.tidying import needed_jobs, old_runs, remove_run, tree_bytes
from tests.store.making import begin, facts, make_run, model


def checkpointed(state: Path, *, rounds: int = 1, now: float = 1e9) -> Path:
    """A run whose rounds are over."""
    with make_run(new_run_path(state, "digits", now=now)) as run:
        for number in range(1, rounds + 1):
            for job in begin(run, number):
                finish(run, job)
            run.save_checkpoint(number, model(number))
        return run.path


def finish(run: Run, job: str) -> None:
    """Its update is stored, and nothing is on the device any more."""
    clients = run.ledger.job(job)
    assert clients is not None
    run.record_update(job, f"update {job}".encode(), [facts(client) for client in clients.clients])
    run.ledger.advance_job(job, JobState.REMOVED)


def test_the_newest_stay_and_so_does_who_is_at_work(tmp_path: Path) -> None:
    paths = [checkpointed(tmp_path, now=1e9 + 100 * age) for age in range(4)]
    assert [each.path for each in old_runs(tmp_path, 2)] == paths[:2]
    assert old_runs(tmp_path, 4) == []
    with Run(paths[0]):
        assert [each.path for each in old_runs(tmp_path, 2)] == [paths[1]]
        with pytest.raises(StoreError, match="in use"):
            remove_run(paths[0])
    assert [each.path for each in old_runs(tmp_path, 0)] == paths


def test_a_run_goes_as_a_whole(tmp_path: Path) -> None:
    first, second = checkpointed(tmp_path), checkpointed(tmp_path, now=2e9)
    assert tree_bytes(first) > 1000
    remove_run(first)
    assert [path.name for path in runs_directory(tmp_path).iterdir()] == [second.name]


def test_a_damaged_run_can_go(tmp_path: Path) -> None:
    path = checkpointed(tmp_path)
    (path / "ledger.sqlite").write_bytes(b"nonsense" * 100)
    assert [each.path for each in old_runs(tmp_path, 0)] == [path]
    remove_run(path)
    assert list_runs(tmp_path) == []


def test_jobs_that_somebody_still_needs(tmp_path: Path) -> None:
    with make_run(new_run_path(tmp_path, "digits", now=1e9)) as run:
        for job in begin(run, 1):
            run.record_update(job, b"update", [facts(client) for client in _clients(run, job)])
        run.ledger.advance_job("r1-B", JobState.COMMITTED)
        run.save_checkpoint(1, model())
        begin(run, 2, devices=["A", "B", "C", "D"])
        run.ledger.advance_round(2, RoundState.TRAINING)
        run.ledger.advance_job("r2-A", JobState.DONE)
        run.ledger.end_job("r2-B", JobState.LATE, "too late")
        run.record_update("r2-C", b"update", [facts(client) for client in _clients(run, "r2-C")])
        run.ledger.advance_job("r2-C", JobState.REMOVED)
        name, path = run.path.name, run.path
    assert needed_jobs(tmp_path) == dict.fromkeys(["r1-A", "r2-A", "r2-D"], name)
    assert needed_jobs(tmp_path, without=[path]) == {}
    with Run(path) as run:
        run.ledger.fail_round(2, "nobody is left")
    assert needed_jobs(tmp_path) == {"r1-A": name}
    (path / "ledger.sqlite").write_bytes(b"nonsense" * 100)
    assert needed_jobs(tmp_path) == {}


def _clients(run: Run, job: str) -> tuple[str, ...]:
    known = run.ledger.job(job)
    assert known is not None
    return known.clients
