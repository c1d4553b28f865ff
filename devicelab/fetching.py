"""Package clients of this host (npm, mvn, pip, apt), run to their end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from devicelab.deadline import Deadline
from devicelab.errors import ConfigError
from devicelab.files import NO_SPACE_HINT, host_error

__all__ = ["Progress", "lacks_space", "run_client", "run_to_end"]

Progress = Callable[[str], None]
"""Told, in a few words, what is being done now."""

_TAIL = 300  # characters of what a failed client said
_NO_SPACE = re.compile(r"No space left|ENOSPC|enough free space|[Qq]uota exceeded|Wrote only \d+ of")


def lacks_space(words: str) -> bool:
    """Whether a program failed for lack of space on this host, in the words of the kernel, apt or tar."""
    return _NO_SPACE.search(words) is not None


def run_to_end(
    command: Sequence[str],
    deadline: Deadline,
    *,
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program that is asked nothing, whatever its exit code.

    Args:
        command: The program and its arguments.
        deadline: Past it, the program is ended, with all that it has started.
        directory: Where it runs.
        environment: All of its variables; by default ours.

    Raises:
        ConfigError: It cannot be started.
        DeadlineError: It did not end in time.
    """
    try:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise host_error(f"cannot run {Path(command[0]).name}", error) from error
    with process:
        try:
            stdout, stderr = process.communicate(timeout=deadline.remaining())
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise deadline.error() from error
            raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def run_client(command: Sequence[str], directory: Path, deadline: Deadline) -> None:
    """Run a package client in a directory, where it leaves what it fetched.

    Raises:
        ConfigError: It failed, or cannot be started; with the last it said.
        DeadlineError: It did not end in time; it was ended.
    """
    environment = {**os.environ, "LC_ALL": "C", "NO_COLOR": "1"}
    done = run_to_end(command, deadline, directory=directory, environment=environment)
    if done.returncode != 0:
        words = done.stderr or done.stdout
        said = [line.strip() for line in words.splitlines() if "error" in line.lower()]
        last = (said[0] if said else words.strip())[:_TAIL] or f"exit code {done.returncode}"
        hint = NO_SPACE_HINT if lacks_space(words) else None
        raise ConfigError(f"`{Path(command[0]).name}` failed: {last}", hint=hint)
