"""All runs of a state directory."""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from devicelab.errors import ConfigError, StoreError
from devicelab.store.lock import is_locked
from devicelab.store.records import RoundRecord, RunRecord
from devicelab.store.run import LEDGER, RunReader

__all__ = [
    "GOING",
    "RunSummary",
    "find_run",
    "list_runs",
    "named_run",
    "new_run_path",
    "newest_run",
    "runs_directory",
    "sweep_runs",
]

GOING: Final = ".gone-"
"""How the name of a run's directory begins while it is being removed."""

_ID: Final = re.compile(r"(?P<name>.+)-(?P<time>\d{8}-\d{6})-[0-9a-f]{4}", re.ASCII)
_OLD_SECONDS: Final = 3600.0  # making a run's directory takes a second


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run in a list.

    Attributes:
        id: Its id.
        path: Its directory.
        run: What it is; None if its ledger cannot be read.
        rounds: How many rounds are checkpointed.
        last: The last round that was begun.
        problem: Why the ledger cannot be read; empty if it can.
    """

    id: str
    path: Path
    run: RunRecord | None
    rounds: int
    last: RoundRecord | None
    problem: str = ""


def runs_directory(state: Path) -> Path:
    """Where the runs of a state directory are."""
    return state / "runs"


def new_run_path(state: Path, name: str, *, now: float | None = None) -> Path:
    """A directory for a new run, which does not exist yet: ``<state>/runs/digits-20261125-141233-ab12``.

    The time is UTC, so that the ids of an experiment sort by age wherever its runs were made.

    Args:
        state: The state directory.
        name: The experiment's name; what does not fit into a file name becomes a hyphen.
        now: The time; the present by default.
    """
    word = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "run"
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
    while True:
        path = runs_directory(state) / f"{word}-{stamp}-{secrets.token_hex(2)}"
        if not path.exists():
            return path


def list_runs(state: Path) -> list[RunSummary]:
    """All runs, the oldest first; those that cannot be read say why."""
    return [_summary(path) for path in _paths(state)]


def find_run(state: Path, prefix: str) -> Path:
    """The one run whose id begins like this.

    Raises:
        ConfigError: There is none, or more than one.
    """
    paths = _paths(state)
    exact = [path for path in paths if path.name == prefix]
    found = exact or [path for path in paths if prefix and path.name.startswith(prefix)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found[-5:])
        raise ConfigError(
            f"{len(found)} runs begin with {prefix!r}", hint=f"say more of it; the newest: {names}"
        )
    known = ", ".join(path.name for path in paths[-5:])
    raise ConfigError(
        f"no run in {runs_directory(state)} begins with {prefix!r}",
        hint=f"the newest: {known}" if known else "there is none yet: `devicelab run-round` makes one",
    )


def named_run(state: Path, word: str) -> Path:
    """The run that somebody names: the beginning of its id, or its directory wherever that is.

    Raises:
        ConfigError: There is none, or several begin like this.
    """
    with contextlib.suppress(RuntimeError, ValueError):  # nobody's home, or no path at all
        copied = Path(word).expanduser()
        if (copied / LEDGER).is_file():
            return copied.absolute()
    return find_run(state, word)


def newest_run(state: Path, name: str | None = None, *, rounds: int = 0) -> Path | None:
    """The run that was begun last; None if there is none.

    Args:
        state: The state directory.
        name: Of this experiment; None: of any.
        rounds: It has finished so many at least.
    """
    for summary in reversed(list_runs(state)):
        if summary.rounds >= rounds and (
            name is None or (summary.run is not None and summary.run.name == name)
        ):
            return summary.path
    return None


def sweep_runs(state: Path) -> list[Path]:
    """Remove what a crash left of runs that were being made or removed; what was removed.

    A directory that nobody has locked goes at once; one without a lock may be younger than its lock.
    """
    directory, removed = runs_directory(state), []
    left = [*directory.glob(".new-*"), *directory.glob(f"{GOING}*")] if directory.is_dir() else []
    for path in left:
        lock = path / "lock"
        if (lock.exists() and not is_locked(lock)) or time.time() - path.lstat().st_mtime > _OLD_SECONDS:
            shutil.rmtree(path, ignore_errors=True)
            removed.append(path)
    return removed


def _paths(state: Path) -> list[Path]:
    """Runs, the oldest first by what their ids say."""
    directory = runs_directory(state)
    try:
        entries = [path for path in directory.iterdir() if not path.name.startswith(".") and path.is_dir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"cannot look into {directory}: {error.strerror}") from error
    return sorted((path for path in entries if (path / LEDGER).exists()), key=_age)


def _age(path: Path) -> tuple[str, str]:
    found = _ID.fullmatch(path.name)
    return (found["time"] if found else "", path.name)


def _summary(path: Path) -> RunSummary:
    try:
        with RunReader(path) as run, run.ledger.snapshot():
            checkpoint, rounds = run.ledger.checkpoint(), run.ledger.rounds()
            done = 0 if checkpoint is None else checkpoint.round
            return RunSummary(path.name, path, run.ledger.run(), done, rounds[-1] if rounds else None)
    except StoreError as error:
        return RunSummary(path.name, path, None, 0, None, error.message)
