"""Which phones would take part in a round, and why the others would not: what ``--why`` shows."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType

from devicelab.devices.text import clean
from devicelab.report.tables import plain_table
from devicelab.rounds.running import Considered

__all__ = ["considered_document", "considered_table"]


def considered_document(found: Considered) -> dict[str, Any]:
    """The JSON document of ``--why --json``."""
    return {
        "devices": [{"device": device, "clients": clients} for device, clients in found.clients.items()],
        "excluded": [each.document() for each in found.excluded],
    }


def considered_table(found: Considered) -> RenderableType:
    """The same for people."""
    rows = [[clean(device), "yes", str(clients), ""] for device, clients in found.clients.items()]
    rows += [[clean(each.device), "no", "", clean(each.reason)] for each in found.excluded]
    return plain_table(("PHONE", "TAKES PART", "CLIENTS", "WHY NOT"), rows, keep={"PHONE"})
