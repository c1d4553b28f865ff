"""Runs as people and scripts see them: the list, one run, and its report as a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from devicelab.devices.text import clean
from devicelab.errors import ConfigError
from devicelab.files import write_atomically
from devicelab.report.figures import UNKNOWN, duration, figure, plural, rank, size
from devicelab.report.history import RoundHistory, RunHistory, Story, stories
from devicelab.report.html import run_page
from devicelab.report.privacy import privacy_words
from devicelab.report.recall import recall, state_of, wanted_rounds
from devicelab.report.svg import finite
from devicelab.report.tables import FittedTable
from devicelab.store.lock import is_locked
from devicelab.store.run import RunReader
from devicelab.store.runs import RunSummary, list_runs, named_run, newest_run, runs_directory

__all__ = [
    "REPORT",
    "history_of",
    "read_runs",
    "run_document",
    "run_state",
    "run_table",
    "runs_document",
    "runs_table",
    "which_run",
    "write_report",
]

REPORT = "report.html"
"""A report's file in its run's directory."""

_COLOURS = {"done": "green", "failed": "red", "running": "cyan", "stopped": "yellow", "damaged": "red"}
_LOSS = "LOSS is that of the clients' models after local training, on their own training data."


def which_run(state: Path, run: str | None) -> Path:
    """The directory of the run that somebody means.

    Args:
        state: The state directory.
        run: The beginning of its id, or its directory wherever that is; None: the newest.

    Raises:
        ConfigError: There is none, or several are meant.
    """
    if run is None:
        newest = newest_run(state)
        if newest is None:
            raise ConfigError(
                f"there is no run in {runs_directory(state)}", hint="`devicelab run-round EXPERIMENT` makes one"
            )
        return newest
    return named_run(state, run)


def history_of(directory: Path) -> RunHistory:
    """All that happened in a run; nothing in its directory is changed.

    Raises:
        StoreError: It is no run's directory, or its ledger cannot be read.
    """
    running = is_locked(directory / "lock")
    with RunReader(directory) as run:
        return recall(run.ledger, running=running)


def write_report(directory: Path, output: Path | None = None) -> Path:
    """Write a run's report as one HTML file.

    Args:
        directory: The run's.
        output: Where to; into the run's directory by default.

    Returns:
        The file, absolute.

    Raises:
        StoreError: The run cannot be read.
        ConfigError: The file cannot be written.
    """
    page = run_page(history_of(directory), version=version("devicelab"))
    path = (output or directory / REPORT).absolute()
    try:
        write_atomically(path, page.encode())
    except OSError as error:
        raise ConfigError(
            f"cannot write the report to {path}: {error.strerror}", hint="--output FILE writes it elsewhere"
        ) from error
    return path


def read_runs(state: Path) -> list[RunSummary]:
    """All runs of a state directory, the newest first."""
    return list_runs(state)[::-1]


def runs_document(runs: Sequence[RunSummary]) -> dict[str, Any]:
    """The JSON document of ``runs list --json``: every key always there, null where unknown."""
    return {"runs": [_listed(each) for each in runs]}


def _listed(summary: RunSummary) -> dict[str, Any]:
    run, wanted = summary.run, _wanted(summary)
    state, reason = run_state(summary)
    return {
        "run": summary.id,
        "experiment": run.name if run else None,
        "state": state,
        "reason": reason,
        "rounds": summary.rounds,
        "rounds_wanted": wanted,
        "started": _iso(datetime.fromtimestamp(run.created, UTC)) if run else None,
        "directory": str(summary.path),
    }


def _wanted(summary: RunSummary) -> int | None:
    """How many rounds it is to have; somebody may have asked for more than its experiment says."""
    begun = summary.last.number if summary.last else 0
    return max(wanted_rounds(summary.run) or 0, begun) if summary.run else None


def run_state(summary: RunSummary) -> tuple[str, str]:
    """A run's state in a word, and why it is not done."""
    if summary.run is None:
        return "damaged", summary.problem
    running = is_locked(summary.path / "lock")
    return state_of(summary.last, summary.rounds, _wanted(summary) or 0, running=running)


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")


def runs_table(runs: Sequence[RunSummary]) -> RenderableType:
    """The table of ``runs list``, and under it why runs are not done."""
    if not runs:
        return Text("There is no run yet: devicelab run-round EXPERIMENT makes one.")
    rows: list[list[RenderableType]] = []
    notes: list[Text] = []
    for summary in runs:
        run = summary.run
        state, reason = run_state(summary)
        wanted = _wanted(summary)
        started = f"{datetime.fromtimestamp(run.created, UTC).astimezone():%Y-%m-%d %H:%M}" if run else UNKNOWN
        rows.append(
            [
                clean(summary.id),
                clean(run.name) if run else UNKNOWN,
                Text(state, style=_COLOURS[state]),
                f"{summary.rounds} of {wanted}" if wanted else str(summary.rounds),
                started,
            ]
        )
        if reason:
            notes.append(Text.assemble((f"{clean(summary.id)}: ", "bold"), clean(reason, 1000)))
    headings = ("RUN", "EXPERIMENT", "STATE", "ROUNDS", "STARTED")
    # an id begins with its experiment's name, and says when it began
    return Group(FittedTable(headings, rows, spare=("EXPERIMENT", "STARTED")), *notes)


def run_document(history: RunHistory, directory: Path) -> dict[str, Any]:
    """The JSON document of ``runs show --json``: of rounds it says all that ``run-round --json`` does."""
    report = directory / REPORT
    return {
        "run": history.run,
        "experiment": history.experiment,
        "state": history.state,
        "reason": history.reason,
        "started": _iso(history.started),
        "ended": _iso(history.ended),
        "rounds_wanted": history.wanted,
        "seed": history.seed,
        "plan_sha256": history.plan_sha256,
        "versions": dict(history.versions),
        "initial_metrics": _finite(history.initial),
        "rounds": [_round_document(each) for each in history.rounds],
        "privacy": history.privacy.document() if history.privacy else None,
        "directory": str(directory),
        "checkpoint": str(directory / history.checkpoint) if history.checkpoint else None,
        "report": str(report) if report.is_file() else None,
    }


def _finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {name: finite(value) for name, value in metrics.items()}


def _round_document(each: RoundHistory) -> dict[str, Any]:
    return {
        "round": each.number,
        "state": each.state,
        "reason": each.reason,
        "devices": each.devices,
        "clients": each.clients,
        "examples": each.examples,
        "loss_before": finite(each.loss_before),
        "loss_after": finite(each.loss_after),
        "metrics": _finite(each.metrics),
        "seconds": None if each.seconds is None else round(each.seconds, 3),
        "bytes_sent": each.bytes_sent,
        "bytes_received": each.bytes_received,
        "excluded": [
            {
                "device": one.device,
                "reason": one.reason,
                "how": one.how,
                "clients": list(one.clients or one.asked),
            }
            for one in each.missing
        ],
    }


def run_table(history: RunHistory) -> RenderableType:
    """What ``runs show`` shows: one line a round, then who was missing and why.

    Where the terminal is narrow, metrics are left out, but for the first; then what was sent and received.
    """
    names = sorted({name for each in history.rounds for name in each.metrics}, key=rank)
    metrics = [clean(name).upper() for name in names]
    headings = ["ROUND", "STATE", "PHONES", "CLIENTS", "LOSS", *metrics, "TIME", "SENT", "RECEIVED"]
    spare = [*metrics[:0:-1], "SENT", "RECEIVED", "PHONES", "CLIENTS", "TIME", *metrics[:1]]
    table = FittedTable(headings, [_round_row(each, names) for each in history.rounds], spare=spare)
    done = sum(each.state == "done" for each in history.rounds)
    summary = Text.assemble(
        (clean(history.run), "bold"),
        f" · {clean(history.experiment)} · ",
        (history.state, _COLOURS[history.state]),
        f" · {done} of {plural(history.wanted, 'round')} · {duration(history.seconds)}",
    )
    parts: list[RenderableType] = [summary]
    if history.reason:
        parts.append(Text(clean(history.reason, 1000), style=_COLOURS[history.state]))
    if history.privacy:
        parts.append(Text(f"privacy: {privacy_words(history.privacy)}"))
    if history.rounds:
        parts += [Text(), table, Text(_LOSS, style="dim")]
    told = [_story(story) for story in stories(history.rounds)]
    return Group(*parts, *([Text(), *told] if told else []))


def _round_row(each: RoundHistory, metrics: Sequence[str]) -> list[RenderableType]:
    colours = {"done": "green", "failed": "red"}
    cells = [str(each.devices), str(each.clients), figure(each.loss_after)]
    cells += [figure(each.metrics.get(name)) for name in metrics]
    cells += [duration(each.seconds), size(each.bytes_sent), size(each.bytes_received)]
    return [
        Text(str(each.number)),
        Text(each.state, style=colours.get(each.state, "yellow")),
        *map(Text, cells),
    ]


def _story(story: Story) -> Text:
    missing = story.missing
    rounds = f"round{'' if len(story.rounds) == 1 else 's'} {story.spans}"
    clients = f", {plural(len(missing.clients), 'client')}" if missing.clients else ""
    return Text.assemble(
        (f"{clean(missing.device)}{clients}: ", "bold"),
        f"{missing.how} in {rounds}: {clean(missing.reason, 1000)}",
    )
