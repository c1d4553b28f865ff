"""``devicelab discover --watch``: a live table on a terminal, one line an event elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event

from rich.live import Live

from devicelab.cli.output import console, print_json_line
from devicelab.devices.device import Device
from devicelab.lab import Lab
from devicelab.report.changes import change_document, change_line, changes
from devicelab.report.devices import device_table

__all__ = ["show_watch"]


def show_watch(lab: Lab, selectors: Sequence[str], *, as_json: bool) -> None:
    """Show devices until Ctrl-C."""
    stop = Event()
    try:
        if as_json or not console().is_terminal:
            _lines(lab, selectors, stop, as_json=as_json)
        else:
            _table(lab, selectors, stop)
    finally:
        stop.set()


def _lines(lab: Lab, selectors: Sequence[str], stop: Event, *, as_json: bool) -> None:
    before: list[Device] = []
    out = console()
    for devices in lab.watch(stop, selectors):
        for change in changes(before, devices):
            if as_json:
                print_json_line(change_document(change))
            else:
                out.print(change_line(change), soft_wrap=True)
        before = devices


def _table(lab: Lab, selectors: Sequence[str], stop: Event) -> None:
    via = f"{lab.transport.description} · Ctrl-C ends"
    with Live(console=console(), auto_refresh=False) as live:
        for devices in lab.watch(stop, selectors):
            live.update(device_table(devices, via=via), refresh=True)
