"""Which runs can go from this host, how they go, and which jobs on devices the others still need."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Final

from devicelab.errors import StoreError
from devicelab.store.blobs import stored
from devicelab.store.lock import WriterLock, is_locked
from devicelab.store.records import JobState
from devicelab.store.resume import resume_point
from devicelab.store.run import RunReader
from devicelab.store.runs import GOING, RunSummary, list_runs

__all__ = ["needed_jobs", "old_runs", "remove_run", "tree_bytes"]

_LOCK: Final = "lock"
_EXPECTED: Final = frozenset({JobState.PLANNED, JobState.PUSHED, JobState.STARTED, JobState.DONE})


def old_runs(state: Path, keep: int) -> list[RunSummary]:
    """All runs but the newest ``keep`` ones, the oldest first; never one that somebody is writing."""
    runs = list_runs(state)
    return [each for each in runs[: max(len(runs) - keep, 0)] if not is_locked(each.path / _LOCK)]


def tree_bytes(directory: Path) -> int:
    """Bytes of all files in a directory; what goes meanwhile does not count."""
    total = 0
    for path in directory.rglob("*"):
        try:
            total += path.lstat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def remove_run(path: Path) -> None:
    """Remove a run with all that it holds. Cut off in the middle, it is no run any more.

    Raises:
        StoreError: Somebody is writing it, or it cannot be removed.
    """
    with WriterLock(path / _LOCK), stored(f"the run {path.name}", path.parent, "remove"):
        gone = path.with_name(f"{GOING}{path.name}")
        path.rename(gone)
        shutil.rmtree(gone)


def needed_jobs(state: Path, *, without: Collection[Path] = ()) -> dict[str, str]:
    """Jobs that may be on devices and that a run of this host still needs there, each with its run's id.

    That is a job of a round that has not ended, whose update can still be collected; and of any round one whose
    update is stored while what its clients keep has not taken its place.

    Args:
        state: The state directory.
        without: Directories of runs that do not count, as they are about to go.
    """
    found: dict[str, str] = {}
    for summary in list_runs(state):
        if summary.path in without:
            continue
        try:
            with RunReader(summary.path) as run:
                point = resume_point(run.ledger)
        except StoreError:
            continue  # damaged: nobody can go on with it
        jobs = {job.id: job for job in (*point.outstanding, *point.leftovers)}
        for job in jobs.values():
            going_on = point.round is not None and not point.round.state.ended and job.round == point.next_round
            if job.state is JobState.COLLECTED or (going_on and job.state in _EXPECTED):
                found[job.id] = summary.id
    return found
