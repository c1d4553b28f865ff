"""Which page of docs/ has which generated part, and how a part gets into its page.

A part stands between ``<!-- generated: NAME -->`` and ``<!-- end of NAME -->``; all around it is written by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from devicelab.config import Experiment, LabConfig, explain, load_experiment
from scripts.reference.commands import command_reference
from scripts.reference.failures import failure_table
from scripts.reference.settings import settings_reference

__all__ = ["PAGES", "filled"]

_CONFIGS: Final = Path(__file__).parents[2] / "configs"


def _example() -> str:
    return f"```yaml\n{explain(load_experiment(_CONFIGS / 'digits.yaml'))}```"


PAGES: Final[Mapping[str, Mapping[str, Callable[[], str]]]] = {
    "commands.md": {"commands": command_reference},
    "experiment.md": {"example": _example, "settings": lambda: settings_reference(Experiment)},
    "lab.md": {"settings": lambda: settings_reference(LabConfig)},
    "troubleshooting.md": {"errors": failure_table},
}
"""Every generated part, by page and name."""


def filled(page: str, text: str) -> str:
    """A page with its generated parts as the code has them now.

    Args:
        page: The page's file name.
        text: The page.

    Raises:
        ValueError: One of its parts has no place in it, or more than one.
    """
    for name, make in PAGES[page].items():
        begin, end = f"<!-- generated: {name} -->", f"<!-- end of {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"{page} needs one pair of {begin} and {end}")
        found = f"{begin}\n\n{make()}\n\n{end}"
        before, _, rest = text.partition(begin)
        text = before + found + rest.partition(end)[2]
    return text
