"""The command line: one file a command group, no logic of its own.

Commands import what they need when they run, so that ``--help`` and completion stay quick.
"""

from __future__ import annotations

import shutil
import sys
from typing import Annotated, NoReturn

import typer

from devicelab.cli import (
    clean,
    discover,
    doctor,
    examples,
    export_plan,
    push_plan,
    recommend,
    run_round,
    runs,
    verify,
    virtual,
)
from devicelab.cli.group import Group
from devicelab.cli.output import flushed, prepare_streams, print_error
from devicelab.errors import ConfigError, DevicelabError
from devicelab.files import host_error

__all__ = ["app", "main"]

_PROGRAM = "devicelab"

app = typer.Typer(
    name=_PROGRAM,
    cls=Group,
    help="Train models on the Android phones on your desk.",
    no_args_is_help=True,
    rich_markup_mode=None,  # it takes "[default: …]" for markup, and a third of the time that --help takes
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command("discover")(discover.discover)
app.command("push-plan")(push_plan.push_plan)
app.command("run-round")(run_round.run_round)
app.command("verify")(verify.verify)
app.command("recommend")(recommend.recommend)
app.command("export-plan")(export_plan.export_plan)
app.add_typer(virtual.app, name="virtual")
app.add_typer(runs.app, name="runs")
app.command("examples")(examples.examples)
app.command("doctor")(doctor.doctor)
app.command("clean")(clean.clean)


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print what is installed here and leave.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --version: as one JSON document.")] = False,
) -> None:
    if version:
        from devicelab.cli.version import show_versions

        show_versions(as_json=as_json)
        raise typer.Exit
    if as_json:
        raise typer.BadParameter("goes behind the command, or with --version", param_hint="--json")
    if context.invoked_subcommand is None:
        context.fail("Missing command.")


def main() -> NoReturn:
    """Run a command and turn known failures into exit codes; :mod:`devicelab.__main__` calls it.

    Typer itself ends an interrupted command with 130, a wrong command line with 2, and one whose reader has
    left (``| head``) with 1.
    """
    prepare_streams()
    sys.exit(flushed(_run()))


def _run() -> int:
    """The exit code of the command."""
    try:
        app(prog_name=_completed_program())
    except SystemExit as ended:  # how Typer always ends
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except DevicelabError as error:
        return _told(error)
    except OSError as error:
        return _told(host_error("this machine says", error))
    return 0


def _completed_program() -> str | None:
    """The program that the shell is to complete, if it is to: the installed one, however this one was begun."""
    if not {"--show-completion", "--install-completion"}.intersection(sys.argv[1:2]):
        return None
    if shutil.which(_PROGRAM) is None:
        raise ConfigError(
            f"shells complete the command `{_PROGRAM}`, and there is none on PATH",
            hint="put the directory that pip has installed it in on PATH",
        )
    return _PROGRAM


def _told(error: DevicelabError) -> int:
    print_error(error, as_json="--json" in sys.argv)
    return error.exit_code
