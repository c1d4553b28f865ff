"""Where things are on a device; docs/runner.md has the whole picture."""

from __future__ import annotations

import posixpath
from typing import Final

from devicelab.devices.facts import WORK_DIR

__all__ = [
    "CACHE",
    "ENGINES",
    "JOBS",
    "PRIVATE",
    "ROOT",
    "cached",
    "engine_directory",
    "job_directory",
    "kept_path",
]

ROOT: Final = f"{WORK_DIR}/devicelab"
CACHE: Final = f"{ROOT}/cache"
ENGINES: Final = f"{ROOT}/engines"
JOBS: Final = f"{ROOT}/jobs"
PRIVATE: Final = f"{ROOT}/private"
_FROM_JOB: Final = posixpath.relpath(ROOT, f"{JOBS}/job")


def cached(sha256: str) -> str:
    """Path of what is in the cache under that hash, as a job names it."""
    return f"{_FROM_JOB}/cache/{sha256}"


def kept_path(run: str, client: str) -> str:
    """Path of what a client keeps of a run, as a job names it."""
    return f"{_FROM_JOB}/private/{run}/{client}.safetensors"


def job_directory(job: str) -> str:
    """Absolute path of a job's directory."""
    return f"{JOBS}/{job}"


def engine_directory(sha256: str) -> str:
    """Absolute path of the directory in which an engine has the name that the dynamic linker looks for."""
    return f"{ENGINES}/{sha256}"
