"""What a phone prints, before anybody believes it: bounded lines, guarded numbers, words fit for a terminal.

Every parser in this room takes its lines from :func:`lines` and its numbers from :func:`whole` and
:func:`decimal`, and every word that may reach a person goes through :func:`clean`. So a phone that prints ten
megabytes without a newline, Arabic digits or escape sequences costs a bounded amount of work and no surprise.
"""

from __future__ import annotations

import re
import unicodedata
from math import isfinite

__all__ = ["MAX_TEXT", "clean", "decimal", "lines", "whole"]

MAX_TEXT = 4 << 20
"""Characters of one answer that are looked at; the rest is cut off."""

_MAX_LINE = 16 << 10

# ECMA-48 control sequences, operating system commands and two-character escapes, with 7-bit and 8-bit
# introducers. Each repeated class excludes what ends it, so matching is linear.
_ESCAPE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"
)
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
_DECIMAL = re.compile(r"[+-]?[0-9]{1,18}(?:\.[0-9]{0,18})?(?:[eE][+-]?[0-9]{1,2})?", re.ASCII)


def lines(text: str) -> list[str]:
    r"""The lines of a phone's answer, without line ends.

    Only ``\n`` separates lines (:meth:`str.splitlines` would also split at characters that occur in values).
    Carriage returns at the end are dropped: before Android 7 a shell's output passes a terminal, which adds one
    or two. Text beyond :data:`MAX_TEXT` and beyond 16,384 characters of a line is cut off.
    """
    return [line[:_MAX_LINE].rstrip("\r") for line in text[:MAX_TEXT].split("\n")]


def whole(text: str, low: int, high: int) -> int | None:
    """A decimal integer in ASCII digits within ``low`` to ``high``, else None."""
    text = text[:40].strip()
    if _WHOLE.fullmatch(text) is None:
        return None
    number = int(text)
    return number if low <= number <= high else None


def decimal(text: str, low: float, high: float) -> float | None:
    """A finite decimal number in ASCII digits within ``low`` to ``high``, else None (also for ``NaN``)."""
    text = text[:60].strip()
    if _DECIMAL.fullmatch(text) is None:
        return None
    number = float(text)
    return number if isfinite(number) and low <= number <= high else None


def clean(text: str, limit: int = 200) -> str:
    r"""Make a phone's words safe to print, to store and to compare: one line, no controls, bounded.

    Escape sequences go as a whole, so that ``"\x1b[2Jhello"`` becomes ``hello`` and not ``[2Jhello``. Control,
    format (bidirectional overrides, zero width), surrogate, private-use and unassigned characters go too; white
    space becomes single spaces.

    Args:
        text: Anything.
        limit: Characters at most; a longer text ends in ``…``.
    """
    text = _ESCAPE.sub("", text[: 8 * limit + 256])
    words = "".join(" " if c.isspace() else c for c in text if c.isspace() or unicodedata.category(c)[0] != "C")
    words = " ".join(words.split())
    return words if len(words) <= limit else words[: limit - 1] + "…"
