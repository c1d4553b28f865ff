"""The command line: one file a command group, no logic of its own.

Commands import what they need when they run, so that ``--help`` and completion stay quick.
"""

from __future__ import annotations

import io
import sys
from typing import NoReturn

import typer

from devicelab.cli import discover, doctor, runs, virtual
from devicelab.cli.output import print_error
from devicelab.errors import ConfigError, DevicelabError

__all__ = ["app", "main"]

app = typer.Typer(
    name="devicelab",
    help="Train models on the Android phones on your desk.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("discover")(discover.discover)
app.add_typer(virtual.app, name="virtual")
app.add_typer(runs.app, name="runs")
app.command("doctor")(doctor.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"devicelab {version('devicelab')}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and leave."
    ),
) -> None:
    del version  # its callback has done the work


def main() -> NoReturn:
    """Entry point of the ``devicelab`` program: runs a command and turns known failures into exit codes.

    Typer itself ends an interrupted command with 130 and a wrong command line with 2.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        app()
    except DevicelabError as error:
        _fail(error)
    except OSError as error:  # a full disk, a directory that is a file, no permission: this host's trouble
        where = f" ({error.filename})" if error.filename else ""
        _fail(
            ConfigError(
                f"this machine says: {error.strerror or error}{where}",
                hint="devicelab doctor looks at the directories that are used; --state-dir chooses another one",
            )
        )
    sys.exit(0)


def _fail(error: DevicelabError) -> NoReturn:
    print_error(error, as_json="--json" in sys.argv)
    sys.exit(error.exit_code)
