"""``devicelab clean``: removes what devicelab has left on phones and on this host."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Annotated

import typer

from devicelab.cli.options import (
    ConnectOption,
    DeviceOption,
    JsonOption,
    LabOption,
    StateDirOption,
    TransportOption,
)
from devicelab.cli.output import console, print_json

__all__ = ["clean"]


def clean(
    phones: Annotated[
        bool,
        typer.Option(
            "--phones",
            help="Finished jobs and caches on phones. What runs or what `run-round --resume` needs stays.",
        ),
    ] = False,
    keep_cache: Annotated[
        str,
        typer.Option(
            "--keep-cache",
            metavar="SIZE",
            help="With --phones: how much of each cache may stay, such as 300MB; the least recently used goes.",
        ),
    ] = "0",
    private: Annotated[
        bool,
        typer.Option("--private", help="With --phones: clients' private values, too. They exist nowhere else."),
    ] = False,
    runs: Annotated[
        bool, typer.Option("--runs", help="Old runs on this host, with their checkpoints.")
    ] = False,
    keep: Annotated[
        int, typer.Option("--keep", metavar="N", min=0, help="With --runs: how many of the newest stay.")
    ] = 10,
    device: DeviceOption = None,
    connect: ConnectOption = None,
    transport: TransportOption = None,
    lab_file: LabOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
    state_dir: StateDirOption = None,
) -> None:
    """Remove what devicelab has left on phones and on this host.

    Shows what would go and asks first. The exit code is 3 if --phones finds none, 4 if something could not be
    removed.
    """
    from devicelab.cleaning import Cleaning, Wishes
    from devicelab.errors import ConfigError, NoDeviceError
    from devicelab.files import state_dir as resolve
    from devicelab.lab import Lab
    from devicelab.report.litter import litter_document, litter_table
    from devicelab.virtual.sizes import parse_size

    wishes = Wishes(
        phones=phones,
        room=parse_size(keep_cache),
        private=private,
        keep_runs=keep if runs else None,
    )
    asks = not (dry_run or yes)
    if asks and (as_json or not sys.stdin.isatty()):
        raise ConfigError(
            "nobody can be asked", hint="say --yes to remove without asking, or --dry-run to look"
        )
    with ExitStack() as stack:
        lab = None
        if phones:
            lab = stack.enter_context(
                Lab.open(state_dir, file=lab_file, transport=transport, addresses=connect or ())
            )
        devices = lab.discover(device or []) if lab else []
        if phones and not devices:
            raise NoDeviceError(
                "there is no phone to clean",
                hint="`devicelab doctor` says why; without --phones none is needed",
            )
        cleaning = Cleaning(resolve(state_dir), wishes, lab, devices)
        litter = cleaning.look()
        removes = not dry_run and not litter.empty
        if removes and not yes:
            console(stderr=True).print(litter_table(litter, removed=False))
            removes = typer.confirm("Remove this?", err=True)
        if removes:
            litter = cleaning.remove(litter)
        if as_json:
            print_json(litter_document(litter, removed=removes))
        else:
            console().print(litter_table(litter, removed=removes))
    if litter.failed:
        raise typer.Exit(4)
