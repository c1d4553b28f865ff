"""``devicelab discover``: which phones are there, which are usable, and why the others are not."""

from __future__ import annotations

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

__all__ = ["discover"]


def discover(
    device: DeviceOption = None,
    connect: ConnectOption = None,
    transport: TransportOption = None,
    lab_file: LabOption = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Keep looking: phones come and go as they do. Ctrl-C ends it.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="What a phone does not tell about its health counts against it.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            metavar="SECONDS",
            min=0.1,
            max=3600,
            help="How long one phone may take to answer.  [default: as the lab file says, else 5]",
            show_default=False,
        ),
    ] = None,
    authorize: Annotated[
        float | None,
        typer.Option(
            "--authorize",
            metavar="SECONDS",
            min=0,
            max=3600,
            help='Time to press "Allow" on a phone that asks for it.  [default: as the lab file says, else 1]',
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
    state_dir: StateDirOption = None,
) -> None:
    """List the phones on the desk: which are usable, and why the others are not.

    A phone is ready when it echoes a nonce, takes a file in /data/local/tmp and is charged, cool and empty
    enough. The exit code is 0 if at least one phone is ready, 3 if none is.
    """
    from devicelab.lab import Lab

    with Lab.open(
        state_dir,
        file=lab_file,
        transport=transport,
        addresses=connect or (),
        strict=strict,
        patience=timeout,
        authorize=authorize,
    ) as lab:
        if watch:
            from devicelab.cli.watching import show_watch

            show_watch(lab, device or [], as_json=as_json)
            return
        from devicelab.report.devices import device_table, devices_document

        devices = lab.discover(device or [])
        if as_json:
            print_json(devices_document(devices))
        else:
            console().print(device_table(devices, via=lab.transport.description))
    if not any(each.ready for each in devices):
        raise typer.Exit(3)
