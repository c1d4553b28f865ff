"""How the command line speaks: results to stdout, progress and errors to stderr, one JSON document if asked.

JSON is plain ASCII, so that it survives every locale; text that a terminal cannot show becomes "?".
"""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console
from rich.markup import escape

from devicelab.errors import DevicelabError

__all__ = ["console", "print_error", "print_json", "print_json_line"]


def console(*, stderr: bool = False) -> Console:
    """A console of now: made at each call, so that redirected streams and terminal sizes are seen."""
    return Console(stderr=stderr, highlight=False, soft_wrap=stderr)


def print_json(document: dict[str, Any]) -> None:
    """Write the one JSON document of a command to stdout."""
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")


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
        print_json({"error": told})
    out = console(stderr=True)
    out.print(f"[bold red]error:[/] {escape(str(error))}")
    if error.hint:
        out.print(f"[bold]what to do:[/] {escape(error.hint)}")
