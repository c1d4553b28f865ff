"""What was not compared is said, and is no zero."""

from __future__ import annotations

import math

from rich.console import Console

from devicelab.report.verification import verification_document, verification_table
from devicelab.rounds.verifying import Difference, RoundVerified, Verification


def lines_of(*rounds: RoundVerified) -> list[str]:
    """The table as it is printed."""
    out = Console(width=200)
    with out.capture() as captured:
        out.print(verification_table(Verification("run", 1e-3, rounds)))
    return [line.rstrip() for line in captured.get().splitlines()]


def test_all_was_compared() -> None:
    lines = lines_of(RoundVerified(1, 4, 0.0, 1e-9, 0.0, ()))
    assert lines[1].split() == ["1", "4", "0.0e+00", "1.0e-09", "0.0e+00"]
    assert lines[2:] == ["", "run: all numbers are those of this host, within 0.001"]


def test_a_private_round_without_metrics() -> None:
    private = RoundVerified(1, 4, None, 0.0, None, ())
    lines = lines_of(private)
    assert lines[1].split() == ["1", "4", "–", "0.0e+00", "–"]
    assert lines[3:] == [
        "not compared: the model (nobody can draw a private round's noise again); metrics (none was measured)",
        "run: all numbers that were compared are those of this host, within 0.001",
    ]
    (document,) = verification_document(Verification("run", 1e-3, (private,)))["rounds"]
    assert (document["model_error"], document["update_error"], document["metric_error"]) == (None, 0.0, None)


def test_metrics_of_some_rounds() -> None:
    lines = lines_of(RoundVerified(1, 4, 0.0, 0.0, None, ()), RoundVerified(2, 4, 0.0, 0.0, 0.0, ()))
    assert "not compared: metrics (none was measured) in 1 of 2 rounds" in lines


def test_what_was_not_compared_beside_what_is_wrong() -> None:
    wrong = Difference("norm", 2.0, math.nan, "phone", "client")
    lines = lines_of(RoundVerified(1, 4, None, math.inf, 0.0, (wrong,)))
    assert lines[3].startswith("phone: round 1, norm of client client: ")
    assert lines[4:] == [
        "not compared: the model (nobody can draw a private round's noise again)",
        "run: 1 number further than 0.001 from this host's",
    ]
