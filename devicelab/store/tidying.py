"""What of old runs can go from the host, and how it goes: whole runs, and updates that are averaged already."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from devicelab.errors import StoreError
from devicelab.store.blobs import stored
from devicelab.store.lock import WriterLock, is_locked
from devicelab.store.records import JobState
from devicelab.store.resume import resume_point
from devicelab.store.run import Run, RunReader
from devicelab.store.runs import GOING, RunSummary, list_runs

__all__ = [
    "SpentUpdates",
    "forget_spent",
    "needed_jobs",
    "old_runs",
    "remove_run",
    "spent_updates",
    "tree_bytes",
]

_LOCK: Final = "lock"
_EXPECTED: Final = frozenset({JobState.PLANNED, JobState.PUSHED, JobState.STARTED, JobState.DONE})


@dataclass(frozen=True, slots=True)
class SpentUpdates:
    """Updates of a run that no round needs any more: a checkpoint holds what came of them.

    Attributes:
        path: The run's directory.
        rounds: Whose updates they are.
        bytes: Of their files.
    """

    path: Path
    rounds: tuple[int, ...]
    bytes: int


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


def spent_updates(path: Path) -> SpentUpdates:
    """What :func:`forget_spent` would remove.

    Raises:
        StoreError: The run cannot be read.
    """
    with RunReader(path) as run, run.ledger.snapshot():
        rounds, going, staying = _spent(run)
        files = [run.blobs.path(sha256) for sha256 in going - staying]
        sizes = [file.stat().st_size for file in files if file.is_file()]
        return SpentUpdates(path, rounds, sum(sizes))


def forget_spent(path: Path) -> None:
    """Remove the updates of all rounds that have a checkpoint; the ledger goes on to tell of them.

    Raises:
        StoreError: Somebody is writing the run, or something cannot be removed.
    """
    with Run(path) as run:
        rounds, _, _ = _spent(run)
        for number in rounds:
            run.ledger.forget_updates(number)
        run.sweep()


def _spent(run: RunReader) -> tuple[tuple[int, ...], set[str], set[str]]:
    """Rounds with updates that can go, the hashes of these, and the hashes that must stay."""
    last = run.ledger.checkpoint()
    checkpointed = 0 if last is None else last.round
    kept = [each for each in run.ledger.updates() if each.kept and each.blob is not None]
    going = {each.blob for each in kept if each.round <= checkpointed and each.blob is not None}
    rounds = sorted({each.round for each in kept if each.round <= checkpointed})
    return tuple(rounds), going, _staying(run, [each.blob for each in kept if each.round > checkpointed])


def _staying(run: RunReader, blobs: Iterable[str | None]) -> set[str]:
    states = (each.server_state for each in run.ledger.checkpoints())
    return {sha256 for sha256 in (*blobs, *states) if sha256 is not None}
