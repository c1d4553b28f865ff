"""``devicelab runs``: what was trained, how it went, and its report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from devicelab.cli import completing
from devicelab.cli.group import Group
from devicelab.cli.options import JsonOption, StateDirOption
from devicelab.cli.output import console, print_json

__all__ = ["app"]

app = typer.Typer(
    cls=Group,
    help="Runs: what was trained, how it went, and reports of it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_RunArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[RUN]",
        help="The beginning of its id, or the directory of one that was copied; the newest by default.",
        show_default=False,
        autocompletion=completing.runs,
    ),
]


@app.command("list")
def list_runs(as_json: JsonOption = False, state_dir: StateDirOption = None) -> None:
    """List all runs, the newest first."""
    from devicelab.files import state_dir as resolve
    from devicelab.report.runs import read_runs, runs_document, runs_table

    found = read_runs(resolve(state_dir))
    if as_json:
        print_json(runs_document(found))
    else:
        console().print(runs_table(found))


@app.command("show")
def show(run: _RunArgument = None, as_json: JsonOption = False, state_dir: StateDirOption = None) -> None:
    """Show a run: one line a round, and who was missing and why."""
    from devicelab.files import state_dir as resolve
    from devicelab.report.runs import history_of, run_document, run_table, which_run

    directory = which_run(resolve(state_dir), run)
    history = history_of(directory)
    if as_json:
        print_json(run_document(history, directory))
    else:
        console().print(run_table(history))


@app.command("report")
def report(
    run: _RunArgument = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where to write it.  [default: report.html in the run's directory]",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
    state_dir: StateDirOption = None,
) -> None:
    """Write a run's report: one HTML file that can be read offline."""
    from devicelab.files import state_dir as resolve
    from devicelab.report.runs import which_run, write_report

    directory = which_run(resolve(state_dir), run)
    path = write_report(directory, output)
    if as_json:
        print_json({"run": directory.name, "report": str(path)})
    else:
        typer.echo(path)
