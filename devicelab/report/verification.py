"""Whether a run's numbers are right: the table of ``verify`` and its JSON."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from devicelab.devices.text import clean
from devicelab.report.figures import plural
from devicelab.report.tables import plain_table
from devicelab.rounds.verifying import Difference, RoundVerified, Verification

__all__ = ["verification_document", "verification_table"]

_SHOWN = 20


def verification_document(found: Verification) -> dict[str, Any]:
    """The JSON document of ``verify --json``; numbers that are not finite are null."""
    return {
        "run": found.run,
        "right": found.right,
        "tolerance": found.tolerance,
        "rounds": [
            {
                "round": each.round,
                "clients": each.clients,
                "model_error": _number(each.model),
                "update_error": _number(each.updates),
                "metric_error": _number(each.metrics),
                "differences": [_difference(one) for one in each.differences],
            }
            for each in found.rounds
        ],
    }


def _difference(one: Difference) -> dict[str, Any]:
    return {
        "what": one.what,
        "device": one.device,
        "client": one.client,
        "said": _number(one.said),
        "computed": _number(one.computed),
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def verification_table(found: Verification) -> RenderableType:
    """The same for people."""
    headings = ("ROUND", "CLIENTS", "MODEL OFF BY", "UPDATES", "METRICS")
    table = plain_table(headings, [_row(each) for each in found.rounds])
    wrong = [(each.round, one) for each in found.rounds for one in each.differences]
    if not wrong:
        told = f"{found.run}: all numbers are those of this host, within {found.tolerance:g}"
        return Group(table, Text(f"\n{told}"))
    lines = [Text(_words(number, one)) for number, one in wrong[:_SHOWN]]
    if len(wrong) > _SHOWN:
        lines.append(Text(f"and {len(wrong) - _SHOWN} more (--json has all)"))
    count = plural(len(wrong), "number")
    told = f"{found.run}: {count} further than {found.tolerance:g} from this host's"
    return Group(table, Text(""), *lines, Text(told))


def _row(each: RoundVerified) -> list[str]:
    return [
        str(each.round),
        str(each.clients),
        *(f"{error:.1e}" for error in (each.model, each.updates, each.metrics)),
    ]


def _words(number: int, one: Difference) -> str:
    where = f"{clean(one.device)}: " if one.device else ""
    whom = f" of client {clean(one.client)}" if one.client else ""
    if one.what == "model":
        numbers = f"the round moved it by {one.said:.6g}, and it is {one.computed:.6g} away from this host's"
    else:
        numbers = f"said to be {one.said:.6g}, here it is {one.computed:.6g}"
    return f"{where}round {number}, {clean(one.what)}{whom}: {numbers}"
