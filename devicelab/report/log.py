"""Rounds while they run, where there is no terminal: one line for each thing that happens, with its time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from rich.console import Console
from rich.text import Text

from devicelab.report.words import words
from devicelab.rounds.events import DeployProgress, DeviceProgress, Event, Listener

__all__ = ["PlainLog", "following"]

_EVERY_SECONDS = 5.0


class PlainLog:
    """Writes events down; a listener for one thread at a time.

    Progress of a phone is told only after some seconds without another line about it, and the more phones there
    are the longer it has to wait, so that a log never grows by more than about a line a second of progress.

    Args:
        console: Where to.
        clock: Seconds on a clock that goes forward steadily.
    """

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._told: dict[str, float] = {}

    def __call__(self, event: Event, /) -> None:
        """Take an event."""
        device = getattr(event, "device", None)
        if isinstance(device, str):
            now = self._clock()
            every = max(_EVERY_SECONDS, float(len(self._told)))
            if isinstance(event, DeployProgress | DeviceProgress) and now < self._told.get(device, now) + every:
                self._told.setdefault(device, now)
                return
            lines = words(event)
            if lines:
                self._told[device] = now
        else:
            lines = words(event)
        for line in lines:
            stamp = Text(f"{datetime.now().astimezone():%H:%M:%S} ")
            self._console.print(stamp.append_text(line), soft_wrap=True)


@contextmanager
def following(*, as_json: bool = False) -> Iterator[Listener]:
    """A listener that shows on stderr what happens: live on a terminal, as a plain log elsewhere.

    Args:
        as_json: A script is reading: a plain log in any case.
    """
    console = Console(stderr=True, highlight=False)
    if as_json or not console.is_terminal or console.is_dumb_terminal:
        yield PlainLog(console)
        return
    from devicelab.report.live import LiveView  # noqa: PLC0415

    with LiveView(console) as view:
        yield view
