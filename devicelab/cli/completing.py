"""What the shell offers where a person may not know a word by heart.

Only directories are listed: no phone is asked, and nothing large is loaded between two strokes of the Tab key.
What cannot be listed is not offered; where nothing is, the shell offers files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import typer

from devicelab.files import state_dir

__all__ = ["experiments", "faults", "profiles", "runs", "virtual_phones"]

_SUFFIXES: Final = (".yaml", ".yml")
_MOST: Final = 200


def experiments(incomplete: str) -> list[str]:
    """YAML files here and one directory further down, or below what is typed already."""
    head, slash, start = incomplete.rpartition("/")
    found = []
    for entry in _entries(Path(os.path.expanduser(head + slash))):  # noqa: PTH111 - never raises
        if not entry.name.startswith(start) or (entry.name.startswith(".") and not start):
            continue
        typed = f"{head}{slash}{entry.name}"
        if entry.is_dir():
            found += [f"{typed}/{each.name}" for each in _entries(entry) if each.suffix in _SUFFIXES]
        elif entry.suffix in _SUFFIXES:
            found.append(typed)
    return found[:_MOST]


def profiles(incomplete: str) -> list[str]:
    """Phones that can be imitated."""
    from devicelab.virtual.profile import profile_names

    return _beginning(profile_names(), incomplete)


def faults(incomplete: str) -> list[tuple[str, str]]:
    """What can happen to a virtual phone, and what that is."""
    from devicelab.virtual.faults import FAULTS

    return [(name, FAULTS[name].help) for name in _beginning(FAULTS, incomplete)]


def virtual_phones(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of virtual phones."""
    return _beginning(_names(ctx, "virtual"), incomplete)


def runs(ctx: typer.Context, incomplete: str) -> list[str]:
    """Ids of runs."""
    return _beginning(_names(ctx, "runs"), incomplete)


def _names(ctx: typer.Context, what: str) -> list[str]:
    """Directories in one of the state directory's, which need not exist."""
    entries = _entries(state_dir(ctx.params.get("state_dir")) / what)
    return [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except (OSError, ValueError):  # a null byte is no path
        return []


def _beginning(names: Iterable[str], start: str) -> list[str]:
    return [name for name in names if name.startswith(start)]
