"""Benchmarks run in the project's own environment, wherever they are started from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv" / "bin" / "python"


def enter() -> None:
    """Start the program anew in ``.venv``, made or brought up to date first; a virtual environment is kept."""
    if sys.prefix == sys.base_prefix:
        subprocess.run([ROOT / "scripts" / "setup"], check=True)
        os.execv(PYTHON, [PYTHON, Path(sys.argv[0]).resolve(), *sys.argv[1:]])
