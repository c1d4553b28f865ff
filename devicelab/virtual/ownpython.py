"""Start modules of this package in processes of their own."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

__all__ = ["hear_signals", "module_command", "module_environment"]


def module_command(name: str) -> list[str]:
    """The command line that runs a module of ours; a ``socket.py`` in the current directory is not ours."""
    return [sys.executable, "-P", "-m", name]


def hear_signals() -> None:
    """Ignore no signal any more: a phone's programs would inherit it, and outlive a cable that is pulled.

    Python ignores some, a keeper the end of its terminal, and a shell or nohup may have ignored others before.
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)


def module_environment() -> dict[str, str]:
    """The environment in which it finds this very package, however we found it."""
    here = str(Path(__file__).parents[2])
    others = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    path = os.pathsep.join([here, *(other for other in others if other not in ("", here))])
    return {**os.environ, "PYTHONPATH": path}
