"""The one look of all our tables: headings in bold, no lines, columns that line up."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

__all__ = ["FittedTable", "plain_table"]

_ENDLESS = 10_000  # columns of a terminal in which every table has the width that it wants


def plain_table(
    headings: Sequence[str], rows: Iterable[Sequence[RenderableType]], *, keep: Collection[str] = ()
) -> Table:
    """Make a table.

    Args:
        headings: One a column.
        rows: Cells as text (taken literally, without markup) or renderables.
        keep: Headings of columns that are never wrapped or cut, because people copy from them.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, no_wrap=heading in keep)
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return table


class FittedTable:
    """A table that leaves columns out where the terminal is too narrow for all of them, and says which.

    Args:
        headings: One a column; no column is ever wrapped.
        rows: Cells as for :func:`plain_table`.
        spare: Headings of columns that can be done without; the first goes first.
    """

    def __init__(
        self, headings: Sequence[str], rows: Iterable[Sequence[RenderableType]], *, spare: Sequence[str]
    ) -> None:
        self._headings = headings
        self._rows = [list(row) for row in rows]
        self._spare = spare

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it with as many columns as there is room for."""
        for count in range(len(self._spare) + 1):
            table = self._without(self._spare[:count])
            wanted = Measurement.get(console, options.update_width(_ENDLESS), table).maximum
            if wanted <= options.max_width:
                break
        yield table
        if count:
            left_out = ", ".join(heading for heading in self._headings if heading in self._spare[:count])
            yield Text(f"left out, as the terminal is narrow: {left_out}", style="dim")

    def _without(self, left_out: Collection[str]) -> Table:
        kept = [index for index, heading in enumerate(self._headings) if heading not in left_out]
        headings = [self._headings[index] for index in kept]
        return plain_table(headings, ([row[index] for index in kept] for row in self._rows), keep=headings)
