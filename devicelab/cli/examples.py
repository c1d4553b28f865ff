"""``devicelab examples``: experiments to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from devicelab.cli.options import JsonOption
from devicelab.cli.output import console, print_json

__all__ = ["examples"]


def examples(
    directory: Annotated[Path, typer.Argument(metavar="[DIRECTORY]", help="Where to write them.")] = Path(
        "configs"
    ),
    as_json: JsonOption = False,
) -> None:
    """Write the experiments that come with devicelab into a directory, to try and to change.

    What is there already stays as it is.
    """
    from devicelab.examples import write_examples
    from devicelab.report.tables import plain_table

    found = write_examples(directory)
    if as_json:
        documents = [{"path": str(each.path), "title": each.title, "written": each.written} for each in found]
        print_json({"examples": documents})
    else:
        rows = ([str(each.path), "written" if each.written else "kept", each.title] for each in found)
        console().print(plain_table(("FILE", "NOW", "EXPERIMENT"), rows, keep={"FILE", "NOW"}))
        written = sum(each.written for each in found)
        kept = f", {len(found) - written} kept: they were there already" if written < len(found) else ""
        console().print(f"{written} written{kept}")
