"""How the command line speaks: results to stdout, progress and errors to stderr, one JSON document if asked.

JSON is plain ASCII, so that it survives every locale; text that a terminal cannot show becomes "?".
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from devicelab.errors import ConfigError, DevicelabError

if TYPE_CHECKING:  # JSON, help and completion need none
    from rich.console import Console

    from devicelab.config import Experiment

__all__ = [
    "console",
    "flushed",
    "prepare_streams",
    "print_error",
    "print_explained",
    "print_json",
    "print_json_line",
]

_PIPE_WIDTH = 200  # characters
_READER_LEFT = 1  # what Typer and rich end with, too


class _Stdout(io.TextIOWrapper):
    """Standard output that tells its own failures from those of all other files."""

    def write(self, text: str) -> int:
        with _telling():
            return super().write(text)

    def flush(self) -> None:
        with _telling():
            super().flush()


@contextlib.contextmanager
def _telling() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # no failure: its reader has had enough
        raise
    except OSError as error:
        raise ConfigError(f"standard output cannot be written to: {error.strerror or error}") from error


def prepare_streams() -> None:
    """Make stdout and stderr take any text. If stdout is closed, say so and leave before anything is done.

    From here on, writing to stdout raises ConfigError where it is full.
    """
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 (for as long as we run)
    if sys.stdout is None:
        error = ConfigError("standard output is closed", hint="send it to a file, or to /dev/null")
        print_error(error, as_json=False)
        sys.exit(error.exit_code)
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(errors="replace")
    if isinstance(sys.stdout, io.TextIOWrapper):
        old = sys.stdout
        sys.stdout = _Stdout(
            old.buffer,
            encoding=old.encoding,
            errors="replace",
            line_buffering=old.line_buffering,
            write_through=old.write_through,
        )


def flushed(code: int) -> int:
    """Write out what the streams still hold, while a failure can still be told.

    Args:
        code: The command's exit code.

    Returns:
        The same; where that was 0, another one if stdout is full or its reader has left.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _give_up(sys.stdout)
        code = code or _READER_LEFT
    except ConfigError as error:
        _give_up(sys.stdout)
        if code == 0:  # otherwise there is something worse, and it has been told
            print_error(error, as_json=False)
            code = error.exit_code
    try:
        sys.stderr.flush()
    except OSError:
        _give_up(sys.stderr)
    return code


def console(*, stderr: bool = False) -> Console:
    """A console of now: made at each call, so that redirected streams and terminal sizes are seen.

    What goes to a file or a pipe has room for every column.
    """
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False, soft_wrap=stderr)
    if not made.is_terminal and os.environ.get("COLUMNS", "0").strip("0") == "":
        made.width = _PIPE_WIDTH
    return made


def print_json(document: dict[str, Any]) -> None:
    """Write the one JSON document of a command to stdout."""
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")
    sys.stdout.flush()


def print_explained(experiment: Experiment, *, as_json: bool) -> None:
    """Write what ``--explain`` shows: an experiment with every default, and what each setting means."""
    from devicelab.config.explain import explain, explanation

    if as_json:
        print_json(explanation(experiment))
    else:
        sys.stdout.write(explain(experiment))


def print_json_line(document: dict[str, Any]) -> None:
    """Write one line of a JSON-lines stream to stdout, at once."""
    sys.stdout.write(json.dumps(document, allow_nan=False) + "\n")
    sys.stdout.flush()


def print_error(error: DevicelabError, *, as_json: bool) -> None:
    """Say a known failure: what failed, on which phone, what to do next."""
    if as_json:
        told = {
            "kind": type(error).__name__,
            "message": error.message,
            "device": error.device,
            "hint": error.hint,
            "exit_code": error.exit_code,
        }
        with contextlib.suppress(ConfigError, BrokenPipeError):  # it may be stdout itself that has failed
            print_json({"error": told})
    from rich.markup import escape

    out = console(stderr=True)
    with contextlib.suppress(OSError):  # and nobody is left who could be told
        out.print(f"[bold red]error:[/] {escape(str(error))}")
        if error.hint:
            out.print(f"[bold]what to do:[/] {escape(error.hint)}")


def _give_up(stream: TextIO) -> None:
    """Let what is left in its buffer go nowhere, or Python complains of it at its end."""
    with Path(os.devnull).open("wb") as null:
        os.dup2(null.fileno(), stream.fileno())
