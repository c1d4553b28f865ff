"""Flower, to compare with: in a Python environment of its own, for it wants older libraries than devicelab."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from devicelab.deadline import Deadline
from devicelab.devices.locks import flocked
from devicelab.files import cache_dir

__all__ = ["REQUIREMENT", "flower_environment", "flower_python"]

REQUIREMENT: Final = "flwr==1.42.0"
_SIMULATION: Final = "flwr[simulation]==1.42.0"
_SECONDS: Final = 170


def flower_python(*, simulation: bool = False) -> Path:
    """The interpreter that can import ``flwr``; its environment is made in the cache the first time.

    Args:
        simulation: Whether it is to simulate, which takes Ray; that has an environment of its own.

    Raises:
        RuntimeError: It cannot be installed.
    """
    requirement = _SIMULATION if simulation else REQUIREMENT
    home = cache_dir() / "flower" / f"{requirement}-{sys.implementation.cache_tag}"
    python, done = home / "bin" / "python", home / "done"
    home.parent.mkdir(parents=True, exist_ok=True)
    with (
        Path(f"{home}.lock").open("w") as lock,
        flocked(lock.fileno(), Deadline("lock of Flower's home", _SECONDS)),
    ):
        if done.exists() and python.exists():
            return python
        shutil.rmtree(home, ignore_errors=True)
        _run(sys.executable, "-m", "venv", "--without-pip", str(home))
        pip = ("-m", "pip", "--disable-pip-version-check", "--python", str(python))
        _run(sys.executable, *pip, "install", "--quiet", requirement)
        done.touch()
    return python


def flower_environment() -> dict[str, str]:
    """Environment variables for it: it calls nobody."""
    return {**os.environ, "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "PYTHONPATH": ""}


def _run(*argv: str) -> None:
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {ended.stderr[-2000:]}")
