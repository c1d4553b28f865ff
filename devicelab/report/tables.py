"""The one look of all our tables: headings in bold, no lines, columns that line up."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

__all__ = ["plain_table"]


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
