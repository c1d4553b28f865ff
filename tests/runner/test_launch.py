"""The scripts that start jobs, run by this machine's shell where no phone can be made to do a thing."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from devicelab.runner.launch import detached_command
from devicelab.runner.layout import job_directory


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A job's directory in which a shell that is gone has left its process id."""
    made = tmp_path / "job"
    made.mkdir()
    gone = subprocess.Popen(["true"])
    gone.wait()
    (made / "pid").write_text(f"{gone.pid} {gone.pid}\n")
    return made


@pytest.fixture
def runner(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The job's runner, without its shell."""
    with subprocess.Popen(["sh", "-c", "while sleep 0.1; do :; done", f"{directory}/job.json"]) as running:
        yield running
        running.kill()


def _here(command: list[str], directory: Path) -> list[str]:
    """The command as it would be for a job in this directory."""
    return [word.replace(job_directory("lost"), str(directory)) for word in command]


def test_a_runner_is_found_though_other_processes_end_while_it_is_looked_for(
    directory: Path, runner: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del runner
    grep = tmp_path / "bin" / "grep"
    grep.parent.mkdir()
    grep.write_text(f'#!/bin/sh\n{shutil.which("grep")} "$@"\nexit 2\n')
    grep.chmod(0o755)
    monkeypatch.setenv("PATH", str(grep.parent), prepend=":")
    command = _here(detached_command("lost", "/engine", "/runner", "train"), directory)
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.strip() == "running"
