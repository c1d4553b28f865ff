"""Rounds while they run, on a terminal: one line for the run, one line a phone.

What should be found again (round results, exclusions, failures) is printed above, once, and scrolls away like
any output; the lines below are drawn anew some times a second.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from devicelab.devices.text import clean
from devicelab.report.figures import UNKNOWN, brief_count, clock, figure, middle, natural, rank
from devicelab.report.progress import PhoneProgress, Progress, follow
from devicelab.report.words import words
from devicelab.rounds.events import CohortChosen, Event, Exclusion, Phase

__all__ = ["LiveView", "render"]

_PER_SECOND = 4
_COLOURS = {
    Phase.WAITING: "dim",
    Phase.TRAIN: "cyan",
    Phase.DONE: "green",
    Phase.FAILED: "red",
    Phase.REJECTED: "red",
    Phase.LATE: "yellow",
}
_OTHER_COLOUR = "blue"
_WARM, _HOT = 40.0, 45.0  # degrees Celsius of a battery; above 45 no phone should be charged or worked
_LOW_CHARGE = 20.0
# Widths of the columns after the phone's name; with a name of 16 a line takes 79 characters.
_COLUMNS = (("PHASE", -8), ("CLIENT", 7), ("STEP", 9), ("LOSS", 7), ("EX/S", 5))
_LAST_COLUMNS = (("TEMP", 4), ("BATT", 4), ("SENT", 5), ("RECV", 5))
_MIN_NAME, _MAX_NAME = 8, 32


def render(progress: Progress, now: float, *, width: int = 80, height: int = 24) -> RenderableType:
    """Draw a picture.

    Args:
        progress: The picture; see :func:`devicelab.report.progress.follow`.
        now: On the same clock.
        width: Columns of the terminal.
        height: Lines that may be used; phones that find no place are counted in one line.
    """
    phones, more = _choose(
        [progress.phones[name] for name in sorted(progress.phones, key=natural)], max(height - 3, 1)
    )
    rest = sum(abs(columns) + 1 for _, columns in (*_COLUMNS, *_LAST_COLUMNS))
    longest = max((len(clean(phone.device, _MAX_NAME)) for phone in phones), default=0)
    name = min(max(longest, _MIN_NAME), _MAX_NAME, max(width - rest, _MIN_NAME))
    lines = [_phone_line(phone, name, width) for phone in phones]
    if lines:
        lines.insert(0, _headings(name))
    if more:
        lines.append(Text(more, style="dim"))
    lines.append(_run_line(progress, now, width))
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    return Group(*lines)


def _choose(phones: Sequence[PhoneProgress], places: int) -> tuple[Sequence[PhoneProgress], str]:
    """The phones to show, in their order (those at work win), and the others in words."""
    if len(phones) <= places:
        return phones, ""
    ranked = sorted(range(len(phones)), key=lambda index: (_rank(phones[index]), index))
    shown = sorted(ranked[: places - 1])
    counts: dict[str, int] = {}
    for index in sorted(ranked[places - 1 :]):
        word = _word(phones[index])
        counts[word] = counts.get(word, 0) + 1
    others = ", ".join(f"{count} {word}" for word, count in counts.items())
    return [phones[index] for index in shown], f"… and {others}"


def _rank(phone: PhoneProgress) -> int:
    if phone.phase is None:
        return 3
    if phone.phase.ended:
        return 2
    return 1 if phone.phase is Phase.WAITING else 0


def _word(phone: PhoneProgress) -> str:
    if phone.phase is not None:
        return phone.phase.value
    return "excluded" if phone.excluded else "idle"


def _fit(text: str, width: int) -> str:
    """Exactly so wide (up to double-width characters); negative: flush left."""
    return f"{text:<{-width}}" if width < 0 else f"{text:>{width}}"


def _headings(name: int) -> Text:
    cells = [f"{'PHONE':<{name}}", *(_fit(*column) for column in (*_COLUMNS, *_LAST_COLUMNS))]
    return Text(" ".join(cells), style="bold")


def _phone_line(phone: PhoneProgress, name: int, width: int) -> Text:
    line = Text(f"{middle(clean(phone.device), name):<{name}} ")
    colour = _COLOURS.get(phone.phase, _OTHER_COLOUR) if phone.phase is not None else "dim"
    line.append(_fit(_word(phone), _COLUMNS[0][1]), style=colour)
    last = _last_cells(phone)
    between = sum(columns + 1 for _, columns in _COLUMNS[1:])
    if phone.note:  # in place of the numbers, which are old or were never there
        room = max(width - name - 10 - sum(len(cell.plain) + 1 for cell in last), between)
        note = clean(phone.note)
        line.append(" ")
        if phone.phase is Phase.PUSH and len(note) < room:
            line.append(f"{note:<{room - 1}}")
        else:  # a reason is worth more than temperatures
            return line.append(note, style=colour if phone.phase else "dim")
    else:
        for (_, columns), number in zip(_COLUMNS[1:], _numbers(phone), strict=True):
            line.append(f" {_fit(number, columns)}")
    for cell in last:
        line.append(" ").append_text(cell)
    return line


def _numbers(phone: PhoneProgress) -> tuple[str, str, str, str]:
    if not phone.clients:
        return "", "", "", ""
    started = phone.steps > 0
    ended = phone.phase in {Phase.PULL, Phase.CHECK, Phase.COMMIT, Phase.DONE}
    at = phone.clients if ended else phone.index + 1 if started else 0
    return (
        f"{at}/{phone.clients}",
        f"{phone.step}/{phone.steps}" if started else "",
        figure(phone.loss) if phone.loss is not None else "",
        brief_count(phone.rate) if phone.rate is not None else "",
    )


def _last_cells(phone: PhoneProgress) -> list[Text]:
    celsius, percent = phone.battery_celsius, phone.battery_percent
    warm = "" if celsius is None or celsius < _WARM else "yellow" if celsius < _HOT else "bold red"
    if phone.thermal_status not in {None, "none"}:
        warm = warm or "yellow"
    texts = (
        (UNKNOWN if celsius is None else f"{celsius:.0f}°C", warm),
        (UNKNOWN if percent is None else f"{percent:.0f}%", "yellow" if (percent or 100) < _LOW_CHARGE else ""),
        (brief_count(phone.sent), ""),
        (brief_count(phone.received), ""),
    )
    return [
        Text(_fit(text, columns), style=style)
        for (text, style), (_, columns) in zip(texts, _LAST_COLUMNS, strict=True)
    ]


def _run_line(progress: Progress, now: float, width: int) -> Text:
    """What fits, the most important first."""
    if not progress.run:
        took = clock(now - (now if progress.began is None else progress.began))
        if not progress.phones:
            return Text("getting ready", style="bold")
        through = sum(phone.phase is not None and phone.phase.ended for phone in progress.phones.values())
        return Text(f"push: {through} of {len(progress.phones)} phones through  {took}", style="bold")
    line = Text(clean(progress.experiment, 24), style="bold")
    for part in _run_parts(progress, now):
        if line.cell_len + 2 + len(part) <= width:
            line.append(f"  {part}")
    return line


def _run_parts(progress: Progress, now: float) -> Iterator[str]:
    yield f"round {progress.round}/{progress.last_round}"
    if progress.recent:
        result = progress.recent[-1]
        before = f"{figure(result.loss_before)} → " if result.loss_before is not None else ""
        yield f"loss {before}{figure(result.loss_after)}"
    eta = progress.eta(now)
    if eta is not None:
        yield f"ETA {clock(eta)}"
    elif progress.began is not None:
        yield clock(now - progress.began)
    for name in sorted(progress.metrics, key=rank):
        yield f"{clean(name, 24)} {figure(progress.metrics[name])}"


class LiveView:
    """Shows events on a terminal from ``__enter__`` to ``__exit__``; a listener for any thread.

    Args:
        console: Of the terminal (stderr: stdout is for results).
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress()
        self._told: set[Exclusion] = set()
        self._live = Live(
            console=console,
            refresh_per_second=_PER_SECOND,
            get_renderable=self._draw,
            redirect_stdout=False,
            vertical_overflow="crop",
        )

    def __call__(self, event: Event, /) -> None:
        """Take an event."""
        for line in words(self._news(event), lasting=True):
            self._console.print(line, soft_wrap=True)
        self._progress = follow(self._progress, event, time.monotonic())

    def _news(self, event: Event) -> Event:
        """Without the exclusions that earlier rounds had as well."""
        if not isinstance(event, CohortChosen):
            return event
        new = tuple(each for each in event.excluded if each not in self._told)
        self._told.update(new)
        return replace(event, excluded=new)

    def _draw(self) -> RenderableType:
        size = self._console.size
        return render(self._progress, time.monotonic(), width=size.width, height=size.height)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
