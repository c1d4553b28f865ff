"""Whether a run's numbers are right: the table of ``verify`` and its JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from devicelab.devices.text import clean
from devicelab.report.figures import UNKNOWN, plural
from devicelab.report.tables import plain_table
from devicelab.rounds.verifying import Difference, RoundVerified, Verification

__all__ = ["verification_document", "verification_table"]

_SHOWN = 20


def verification_document(found: Verification) -> dict[str, Any]:
    """The JSON document of ``verify --json``; null: not compared, or not finite (then it is a difference)."""
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


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def verification_table(found: Verification) -> RenderableType:
    """The same for people."""
    headings = ("ROUND", "CLIENTS", "MODEL OFF BY", "UPDATES", "METRICS")
    table = plain_table(headings, [_row(each) for each in found.rounds])
    wrong = [(each.round, one) for each in found.rounds for one in each.differences]
    missing = _not_compared(found.rounds)
    unseen = [Text(f"not compared: {'; '.join(missing)}")] if missing else []
    if not wrong:
        which = "all numbers that were compared" if missing else "all numbers"
        told = f"{found.run}: {which} are those of this host, within {found.tolerance:g}"
        return Group(table, Text(""), *unseen, Text(told))
    lines = [Text(_words(number, one)) for number, one in wrong[:_SHOWN]]
    if len(wrong) > _SHOWN:
        lines.append(Text(f"and {len(wrong) - _SHOWN} more (--json has all)"))
    count = plural(len(wrong), "number")
    told = f"{found.run}: {count} further than {found.tolerance:g} from this host's"
    return Group(table, Text(""), *lines, *unseen, Text(told))


def _row(each: RoundVerified) -> list[str]:
    return [
        str(each.round),
        str(each.clients),
        *(UNKNOWN if error is None else f"{error:.1e}" for error in (each.model, each.updates, each.metrics)),
    ]


def _not_compared(rounds: Sequence[RoundVerified]) -> list[str]:
    """What of the rounds nothing is known about, and why."""
    reasons = {
        "the model (nobody can draw a private round's noise again)": [each.model for each in rounds],
        "updates (nothing is known of them)": [each.updates for each in rounds],
        "metrics (none was measured)": [each.metrics for each in rounds],
    }
    told = []
    for reason, errors in reasons.items():
        count = sum(error is None for error in errors)
        if count:
            told.append(
                reason if count == len(rounds) else f"{reason} in {count} of {plural(len(rounds), 'round')}"
            )
    return told


def _words(number: int, one: Difference) -> str:
    where = f"{clean(one.device)}: " if one.device else ""
    whom = f" of client {clean(one.client)}" if one.client else ""
    if one.what == "model":
        numbers = f"the round moved it by {one.said:.6g}, and it is {one.computed:.6g} away from this host's"
    else:
        numbers = f"said to be {one.said:.6g}, here it is {one.computed:.6g}"
    return f"{where}round {number}, {clean(one.what)}{whom}: {numbers}"
