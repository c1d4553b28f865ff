"""Markdown as GitHub shows it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = ["cell", "slug", "table"]


def cell(text: str) -> str:
    """Text as one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, one row a line."""
    lines = [headings, ["---"] * len(headings), *([cell(each) for each in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading: lower case, letters, digits, `_` and `-`, blanks as `-`."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
