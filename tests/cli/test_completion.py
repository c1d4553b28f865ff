"""Completion in the shell: scripts that shells accept, and what they offer."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from devicelab.cli import completing
from devicelab.store.runs import new_run_path, runs_directory
from devicelab.virtual.desk import VirtualDesk
from devicelab.virtual.profile import profile_names

ROOT = Path(__file__).parents[2]
_PROGRAM = "import sys; sys.argv[0] = 'devicelab'; from devicelab.__main__ import main; main()"


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``devicelab`` on the PATH, as an installation puts it there."""
    path = tmp_path / "bin" / "devicelab"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(_PROGRAM)} "$@"\n')
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(path.parent), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    return path


def script_for(shell: str) -> str:
    return run("devicelab", _DEVICELAB_COMPLETE=f"source_{shell}")


def run(*command: str, directory: Path | None = None, **environment: str) -> str:
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done
    return done.stdout


def offered(line: str, directory: Path | None = None) -> list[str]:
    """What bash offers when somebody has typed a line and presses Tab; its own function is asked."""
    ask = f"""
{script_for("bash")}
COMP_WORDS=({line}); COMP_CWORD=$(({len(line.split(" "))} - 1))
_devicelab_completion devicelab
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    return run("bash", "--norc", "-c", ask, directory=directory).split()


@pytest.mark.usefixtures("program")
@pytest.mark.parametrize(("shell", "check"), [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")], ids=str)
def test_the_shell_understands_its_script(shell: str, check: str, tmp_path: Path) -> None:
    script = script_for(shell)
    assert "complete_" + shell in script
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    (tmp_path / "script").write_text(script)
    run(shell, check, str(tmp_path / "script"))


@pytest.mark.usefixtures("program")
class TestBash:
    def test_commands_and_options(self) -> None:
        assert offered("devicelab dis") == ["discover"]
        assert offered("devicelab virtual pro") == ["profiles"]
        assert offered("devicelab discover --tr") == ["--transport"]
        assert offered("devicelab discover --transport s") == ["server"]

    def test_profiles_and_faults(self) -> None:
        assert offered("devicelab virtual up --profile phone-") == [
            name for name in profile_names() if name.startswith("phone-")
        ]
        assert offered("devicelab virtual fault pixel-1 fr") == ["freeze"]

    def test_experiments(self) -> None:
        assert offered("devicelab run-round conf", ROOT) == [
            f"configs/{path.name}" for path in sorted((ROOT / "configs").glob("*.yaml"))
        ]
        assert offered("devicelab push-plan configs/di", ROOT) == ["configs/digits.yaml"]

    def test_runs_and_virtual_phones(self, own_home: Path) -> None:
        run = new_run_path(own_home / "state", "digits")
        run.mkdir(parents=True)
        assert run.parent == runs_directory(own_home / "state")
        (VirtualDesk(own_home / "state").directory / "pixel-1").mkdir(parents=True)
        assert offered("devicelab runs show dig") == [run.name]
        assert offered("devicelab run-round x.yaml --resume --run d") == [run.name]
        assert offered("devicelab virtual down pix") == ["pixel-1"]
        assert offered("devicelab virtual fault p") == ["pixel-1"]

    def test_the_state_directory_that_is_named(self, own_home: Path) -> None:
        (runs_directory(own_home / "other") / "mine-1").mkdir(parents=True)
        assert offered(f"devicelab runs show --state-dir {own_home / 'other'} m") == ["mine-1"]


def module(*words: str, path: str) -> subprocess.CompletedProcess[str]:
    """``python -m devicelab`` where PATH is something else."""
    return subprocess.run(
        [sys.executable, "-m", "devicelab", *words],
        env={**os.environ, "PATH": path, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_module_completes_the_installed_command(program: Path) -> None:
    done = module("--show-completion", "bash", path=str(program.parent))
    assert done.returncode == 0, done
    assert done.stdout.strip() == script_for("bash").strip()


@pytest.mark.parametrize("option", ["--show-completion", "--install-completion"])
def test_no_command_to_complete(tmp_path: Path, option: str) -> None:
    done = module(option, "bash", path=str(tmp_path))
    assert done.returncode == 2
    assert done.stdout == ""
    assert "`devicelab`, and there is none on PATH" in done.stderr


def test_what_is_not_there_is_not_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    for typed in ("", "nowhere/x", "file/x", "~nobody/x", "*", "[", "\0", "\0/x"):
        assert completing.experiments(typed) == []
    (tmp_path / "a [1]").mkdir()
    (tmp_path / "a [1]" / "one.yml").touch()
    assert completing.experiments("a [") == ["a [1]/one.yml"]
    assert completing.experiments("a [1]/o") == ["a [1]/one.yml"]
    assert completing.experiments(f"{tmp_path}/a") == [f"{tmp_path}/a [1]/one.yml"]
