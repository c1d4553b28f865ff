"""The program and the three streams it is given: full, closed, left by their reader; and Ctrl-C at any time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTHING_THERE = ("discover", "--transport", "direct", "--connect", "127.0.0.1:1")
WRONG = (*NOTHING_THERE, "--device", "nonsense=1")


def run(
    words: tuple[str, ...],
    plumbing: str = "",
    *,
    buffered: bool = True,
    stdout: int = subprocess.PIPE,
    **more: str,
) -> subprocess.CompletedProcess[str]:
    """Run the program as a shell does, with its redirections."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    if not buffered:
        environment["PYTHONUNBUFFERED"] = "1"
    command = ["sh", "-c", f'exec "$@" {plumbing}', "sh", sys.executable, "-m", "devicelab", *words]
    return subprocess.run(
        command,
        env=environment | more,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("words", [NOTHING_THERE, (*NOTHING_THERE, "--json")])
def test_a_full_stdout_is_an_error_in_words(words: tuple[str, ...], buffered: bool) -> None:
    done = run(words, ">/dev/full", buffered=buffered)
    assert (done.returncode, done.stderr) == (
        2,
        "error: standard output cannot be written to: No space left on device\n",
    )


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("words", [NOTHING_THERE, (*NOTHING_THERE, "--json")])
def test_a_reader_that_has_had_enough_ends_it_quietly(words: tuple[str, ...], buffered: bool) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = run(words, stdout=writer, buffered=buffered)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("words", [NOTHING_THERE, ("virtual", "up", "--json")])
def test_a_closed_stdout_is_an_error_before_anything_is_done(words: tuple[str, ...], own_home: Path) -> None:
    done = run(words, ">&-")
    assert done.returncode == 2
    assert "standard output is closed" in done.stderr
    assert not (own_home / "state").exists()


@pytest.mark.parametrize("plumbing", ["2>/dev/full", "2>&-"])
def test_what_happens_to_stderr_changes_nothing(plumbing: str) -> None:
    assert run(NOTHING_THERE, plumbing).returncode == 3
    done = run((*WRONG, "--json"), plumbing)
    assert done.returncode == 2
    assert '"kind": "ConfigError"' in done.stdout


def test_what_failed_is_told_even_if_stdout_fails_as_well() -> None:
    done = run((*WRONG, "--json"), ">/dev/full")
    assert done.returncode == 2
    assert done.stderr.startswith("error: device selector 'nonsense=1'")
    assert "Traceback" not in done.stderr


def test_an_interrupt_during_the_first_imports_is_quiet(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt", encoding="utf-8")
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}".rstrip(":")
    done = run(("--version",), PYTHONPATH=path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
