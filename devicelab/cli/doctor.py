"""``devicelab doctor``: what of this host helps or hinders, and what to do about it."""

from __future__ import annotations

import typer

from devicelab.cli.options import JsonOption, StateDirOption
from devicelab.cli.output import console, print_json

__all__ = ["doctor"]


def doctor(as_json: JsonOption = False, state_dir: StateDirOption = None) -> None:
    """Check this machine: adb and its known holes, server, USB access, keys, namespaces; what to do for each.

    Changes nothing. The exit code is 2 if something that is set up does not work.
    """
    from devicelab.doctor import examine
    from devicelab.report.checks import checks_document, checks_table

    checks = examine(state_dir)
    if as_json:
        print_json(checks_document(checks))
    else:
        console().print(checks_table(checks))
    if any(check.status == "problem" for check in checks):
        raise typer.Exit(2)
