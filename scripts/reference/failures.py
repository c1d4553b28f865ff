"""The table of all errors, from their docstrings."""

from __future__ import annotations

import inspect
import re
from typing import Final

from devicelab import errors
from devicelab.errors import DevicelabError
from scripts.reference.markdown import table

__all__ = ["every_error", "failure_table", "meaning_and_remedy"]

_REMEDY: Final = "What to do: "
_ROLE: Final = re.compile(r":\w+:`~?([^`]+)`|``([^`]+)``")


def every_error() -> list[type[DevicelabError]]:
    """All classes in :mod:`devicelab.errors`, in the order in which they are defined, by exit code."""
    kinds = [
        kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, DevicelabError)
    ]
    return sorted(kinds, key=lambda kind: kind.exit_code)  # a stable sort


def meaning_and_remedy(kind: type[DevicelabError]) -> tuple[str, str]:
    """What an error means and what to do about it: two paragraphs of its own docstring.

    Raises:
        ValueError: It lacks one.
    """
    paragraphs = inspect.cleandoc(vars(kind).get("__doc__") or "").split("\n\n")
    remedies = [text.removeprefix(_REMEDY) for text in paragraphs if text.startswith(_REMEDY)]
    if not paragraphs[0] or len(remedies) != 1 or paragraphs[0].startswith(_REMEDY):
        raise ValueError(f"{kind.__name__} needs a docstring with one paragraph that begins with {_REMEDY!r}")
    return _plain(paragraphs[0]), _plain(remedies[0])


def failure_table() -> str:
    """One row an error."""
    rows = ([f"`{kind.__name__}`", str(kind.exit_code), *meaning_and_remedy(kind)] for kind in every_error())
    return table(["error", "exit code", "what it means", "what to do"], rows)


def _plain(text: str) -> str:
    """Markdown instead of reStructuredText."""
    text = " ".join(text.split())
    text = _ROLE.sub(lambda found: f"`{found[1] or found[2]}`", text)
    return text[:1].upper() + text[1:]
