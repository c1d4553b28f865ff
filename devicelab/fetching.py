"""Package clients of this host (npm, mvn, pip), run to their end."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from devicelab.deadline import Deadline
from devicelab.errors import ConfigError

__all__ = ["Progress", "run_client"]

Progress = Callable[[str], None]
"""Told, in a few words, what is being done now."""

_TAIL = 300  # characters of what a failed client said


def run_client(command: Sequence[str], directory: Path, deadline: Deadline) -> None:
    """Run a package client in a directory, where it leaves what it fetched.

    Raises:
        ConfigError: It failed, or cannot be started; with the last it said.
        DeadlineError: It did not end in time; it was ended.
    """
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            env={**os.environ, "LC_ALL": "C", "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=deadline.remaining(),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise deadline.error() from error
    except OSError as error:
        raise ConfigError(f"cannot run {name}: {error.strerror or error}") from error
    if done.returncode != 0:
        said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if "error" in line.lower()]
        last = said[0] if said else (done.stderr or done.stdout).strip()
        raise ConfigError(f"`{name}` failed: {last[:_TAIL] or f'exit code {done.returncode}'}")
