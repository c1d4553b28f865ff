"""What a report's page is put together from, before it is markup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from devicelab.devices.text import clean
from devicelab.report.charts import Series
from devicelab.report.figures import middle

__all__ = ["Chart", "Section", "TableView", "keys_of", "name_of"]

_MAX_NAME = 40


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture, its title, and the legend as pairs of class and name."""

    title: str
    picture: Markup
    keys: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class TableView:
    """A table; ``numbers`` are the columns set flush right; ``folded`` is what a closed one is called."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str | Markup]]
    numbers: frozenset[int] = frozenset()
    folded: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the page; ``style`` is ``one`` for charts that need the whole width."""

    id: str
    title: str
    text: str = ""
    keys: Sequence[tuple[str, str]] = ()
    charts: Sequence[Chart] = ()
    style: str = ""
    tables: Sequence[TableView] = ()
    pre: str = ""


def keys_of(series: Sequence[Series]) -> list[tuple[str, str]]:
    """The legend of lines or layers."""
    return [(one.style, one.name) for one in series]


def name_of(device: str) -> str:
    """A device's name as the page shows it: cleaned, and cut in its middle if it is endless."""
    return middle(clean(device), _MAX_NAME)
