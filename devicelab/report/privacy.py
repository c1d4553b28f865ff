"""How private a run is, in words; what it is that ε speaks of is said along with it."""

from __future__ import annotations

from devicelab.report.figures import figure, plural
from devicelab.report.history import RunHistory
from devicelab.report.page import Section, TableView
from devicelab.store.releases import PrivacySpent

__all__ = ["privacy", "privacy_words"]


def privacy_words(spent: PrivacySpent) -> str:
    """One line: ``ε 3.07 at δ = 1e-05 for a client more or less, over 40 rounds (noise …)``."""
    return (
        f"ε {figure(spent.epsilon)} at δ = {spent.delta:g} for a client more or less, "
        f"over {plural(spent.rounds, 'round')} (noise {spent.noise_multiplier:g}, clip {spent.clip_norm:g}, "
        f"sampling {spent.sampling:g})"
    )


def privacy(history: RunHistory) -> Section | None:
    """The section of a private run."""
    spent = history.privacy
    if spent is None:
        return None
    rows = [
        ["ε", figure(spent.epsilon)],
        ["δ", f"{spent.delta:g}"],
        ["rounds counted", str(spent.rounds)],
        ["clients in a round", f"each with the probability {spent.sampling:g}, drawn in secret"],
        ["clip norm of a client's delta", f"{spent.clip_norm:g}"],
        ["noise on the sum, in clip norms", f"{spent.noise_multiplier:g}"],
    ]
    text = (
        "The models of this run, all of them together, are (ε, δ)-differentially private for each client's "
        "whole shard: added or taken away, it changes the probability of any result by a factor of e^ε at "
        "most, and by δ besides. That holds for the models alone. The losses, metrics and times in this report "
        "and who took part were measured on the clients' data and have no noise: whoever publishes the report "
        "publishes them."
    )
    return Section("privacy", "Privacy", text, tables=[TableView(["what", "value"], rows)])
