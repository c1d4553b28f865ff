"""How ``push-plan`` went: its table and its JSON."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType

from devicelab.devices.text import clean
from devicelab.report.figures import duration, size
from devicelab.report.tables import plain_table
from devicelab.rounds.running import Deployment

__all__ = ["deployment_document", "deployment_table"]


def deployment_document(done: Deployment) -> dict[str, Any]:
    """The JSON document of ``push-plan --json``."""
    return {
        "devices": [
            {
                "device": each.device,
                "files_sent": each.files,
                "bytes_sent": each.bytes_sent,
                "bytes_held": each.bytes_held,
                "seconds": round(each.seconds, 3),
                "problem": each.problem or None,
            }
            for each in done.devices
        ],
        "excluded": [each.document() for each in done.excluded],
    }


def deployment_table(done: Deployment) -> RenderableType:
    """The same for people."""
    rows = [
        [
            clean(each.device),
            str(each.files),
            size(each.bytes_sent),
            size(each.bytes_held),
            duration(each.seconds),
            clean(each.problem),
        ]
        for each in done.devices
    ]
    rows += [[clean(each.device), "", "", "", "", clean(each.reason)] for each in done.excluded]
    headings = ("PHONE", "FILES SENT", "BYTES SENT", "HOLDS", "TIME", "PROBLEM")
    return plain_table(headings, rows, keep={"PHONE"})
