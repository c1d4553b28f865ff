"""Programs of this host, run to their end or ended with all that they have started."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from devicelab.deadline import Deadline
from devicelab.errors import ConfigError, DeadlineError
from devicelab.fetching import run_client, run_to_end


def soon() -> Deadline:
    return Deadline("fetching", 60)


def client(directory: Path, script: str) -> list[str]:
    path = directory / "client"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return [str(path)]


def test_what_it_said_and_how_it_ended(tmp_path: Path) -> None:
    done = run_to_end(
        ["sh", "-c", "pwd; echo $A >&2; exit 3"], soon(), directory=tmp_path, environment={"A": "x"}
    )
    assert (done.stdout, done.stderr, done.returncode) == (f"{tmp_path}\n", "x\n", 3)


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="cannot run no-such-client: No such file"):
        run_to_end(["/no/such/no-such-client"], soon())


def test_a_client_that_hangs_is_ended_with_all_that_it_has_started(tmp_path: Path) -> None:
    script = f"sleep 1000 & echo $! >{tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; wait"
    with pytest.raises(DeadlineError, match="fetching"):
        run_client(client(tmp_path, script), tmp_path, Deadline("fetching", 3))
    child = int((tmp_path / "pid").read_text())
    give_up = time.monotonic() + 60
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < give_up
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo fine; echo 'npm ERROR gone' >&2; exit 1", "`client` failed: npm ERROR gone"),
        ("echo only this; exit 1", "`client` failed: only this"),
        ("exit 7", "`client` failed: exit code 7"),
    ],
)
def test_a_client_that_fails_is_quoted(tmp_path: Path, script: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_client(client(tmp_path, script), tmp_path, soon())
    assert caught.value.message == words
    assert caught.value.hint is None


def test_a_client_without_space_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        run_client(client(tmp_path, "echo 'error: ENOSPC: no space left' >&2; exit 1"), tmp_path, soon())
    assert "--state-dir" in str(caught.value.hint)
