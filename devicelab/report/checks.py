"""The findings of ``doctor``, for people and for scripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

__all__ = ["Check", "checks_document", "checks_table"]

_SIGNS = {"ok": ("ok", "green"), "note": ("note", "yellow"), "problem": ("problem", "bold red")}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What it is.
        status: ``ok``; ``note``: something is missing that can be done without; ``problem``: something that
            was set up does not work.
        found: What was seen, one sentence.
        advice: What to do about it; empty when ok.
    """

    name: str
    status: Literal["ok", "note", "problem"]
    found: str
    advice: str = ""


def checks_document(checks: Sequence[Check]) -> dict[str, Any]:
    """The JSON document of ``doctor --json``."""
    return {
        "ok": not any(check.status == "problem" for check in checks),
        "checks": [asdict(check) for check in checks],
    }


def checks_table(checks: Sequence[Check]) -> RenderableType:
    """One row a check; what to do stands under what was found."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        sign, colour = _SIGNS[check.status]
        told: RenderableType = Text(check.found)
        if check.advice:
            told = Group(told, Text(f"→ {check.advice}", style="cyan"))
        table.add_row(check.name, Text(sign, style=colour), told)
    return table
