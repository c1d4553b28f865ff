"""What a recommender says: its table and its JSON."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from devicelab.report.tables import plain_table
from devicelab.rounds.recommending import Neighbours, Recommendation

__all__ = ["neighbours_document", "neighbours_table", "recommendation_document", "recommendation_table"]


def recommendation_document(found: Recommendation) -> dict[str, Any]:
    """The JSON document of ``recommend --client --json``."""
    return {
        "run": found.run,
        "round": found.round,
        "client": found.client,
        "device": found.device,
        "items": [{"item": each.number, "title": each.title} for each in found.items],
    }


def recommendation_table(found: Recommendation) -> RenderableType:
    """The same for people."""
    head = f"for client {found.client}, by the phone {found.device}, after round {found.round} of {found.run}"
    rows = [[str(place), each.title] for place, each in enumerate(found.items, 1)]
    return Group(Text(head), plain_table(["", "title"], rows))


def neighbours_document(found: Neighbours) -> dict[str, Any]:
    """The JSON document of ``recommend --like --json``."""
    return {
        "run": found.run,
        "round": found.round,
        "item": found.item.number,
        "title": found.item.title,
        "items": [
            {"item": each.number, "title": each.title, "similarity": round(similarity, 6)}
            for each, similarity in zip(found.items, found.similarities, strict=True)
        ],
    }


def neighbours_table(found: Neighbours) -> RenderableType:
    """The same for people."""
    head = f"like {found.item.title}, after round {found.round} of {found.run}"
    rows = [
        [each.title, f"{similarity:.2f}"]
        for each, similarity in zip(found.items, found.similarities, strict=True)
    ]
    return Group(Text(head), plain_table(["title", "cosine"], rows))
