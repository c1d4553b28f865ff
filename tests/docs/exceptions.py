"""The commands of the documentation that the tests do not run as they are written, each with the reason.

This list is meant to stay short: a command that is not in it is run, and one that no page has any more fails a
test.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import typer.main

from devicelab.cli import app
from scripts.reference.commands import every_command
from tests.docs.blocks import ROOT
from tests.servers import ADB

__all__ = ["AS_WRITTEN", "EXCEPTIONS", "FIRST", "How", "parse"]


@dataclass(frozen=True)
class How:
    """How a command is run, or what is done in its place.

    Attributes:
        why: Why not simply as it is written.
        check: What is done instead of running it; is given its words.
        run: A command to run instead: the same one, smaller. ``$PHONE`` is a virtual phone's address,
            ``$ENGINE`` its engine.
        beside: What runs in the reader's second terminal meanwhile.
        codes: The exit codes that are right.
    """

    why: str
    check: Callable[[list[str]], None] | None = None
    run: str | None = None
    beside: str | None = None
    codes: tuple[int, ...] = (0,)


AS_WRITTEN: Final = How("nothing speaks against it")


def parse(words: list[str]) -> None:
    """A command line that devicelab understands: the command is there, and so is every option."""
    known: dict[str, Any] = dict(every_command())
    if words[1].startswith("-"):  # no command: options of devicelab itself
        known["devicelab"] = typer.main.get_command(app)
    name = next((" ".join(words[:n]) for n in (3, 2, 1) if " ".join(words[:n]) in known), None)
    assert name is not None, f"there is no command `{' '.join(words)}`"
    options = {option for parameter in known[name].params for option in parameter.opts}
    unknown = {word.partition("=")[0] for word in words if word.startswith("-")} - options - {"-h", "--help"}
    assert not unknown, f"`{name}` has no {unknown}"


def _is_script(words: list[str]) -> None:
    assert os.access(ROOT / words[0], os.X_OK), f"{words[0]} is no program of this repository"


def _extras_exist(words: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for word in words:
        for extra in word.partition("[")[2].rstrip("]").split(",") if "[" in word else ():
            assert extra in project["optional-dependencies"], f"there is no extra {extra!r}"


def _is_todays_wheel(words: list[str]) -> None:
    """The wheel stands behind ``&&`` and so in none of the words: the page is looked at."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"devicelab-{version}-py3-none-any.whl" in (ROOT / "docs" / "ci.md").read_text(), words


def _adb_knows(words: list[str]) -> None:
    told = subprocess.run([ADB, "help"], capture_output=True, text=True, check=True, timeout=60).stdout
    assert any(line.split()[:1] == [words[1]] for line in told.splitlines()), f"adb has no {words[1]!r}"


_EMULATOR: Final = (
    "lab/bin/python scripts/ci/emulator mine.yaml --device 'sdk=34,abi=x86_64' --expect 'test/accuracy>=0.9'"
)
_WATCH: Final = "devicelab discover --watch --transport direct"

EXCEPTIONS: Final[Mapping[str, How]] = {
    "./scripts/demo": How("minutes long; CI runs it", check=_is_script),
    "./scripts/setup": How("what the tests run in is somebody's choice", check=_is_script),
    "./scripts/test tests/adb": How("as the next", check=_is_script),
    "./scripts/test": How("it is what runs this", check=_is_script),
    ". .venv/bin/activate": How("as ./scripts/setup", check=lambda words: _is_script(["scripts/setup"])),
    "pip install -e '.[usb]'": How("as ./scripts/setup", check=_extras_exist),
    "devicelab discover --transport direct --strict": How(
        "virtual phones of old Androids do not tell all", codes=(0, 3)
    ),
    "devicelab verify mine.yaml --run ~/Downloads/devicelab-api-34/runs/mine-20260701-120000-1a2b": How(
        "nobody has downloaded it", check=parse
    ),
    "python -m venv lab && lab/bin/pip install devicelab-0.1.0-py3-none-any.whl": How(
        "minutes long; tests/packaging installs one", check=_is_todays_wheel
    ),
    _EMULATOR: How("needs an emulator; CI runs it", check=lambda words: _is_script(words[1:])),
    "devicelab doctor": How("what is wrong with this machine is no fault of the page", codes=(0, 2)),
    "devicelab virtual fault unauthorized-1 authorize always": How("somebody must be asking", beside=_WATCH),
    "devicelab discover --transport direct --device 'battery_percent<30'": How("says so itself", codes=(3,)),
    "devicelab discover --connect 192.0.2.7:5555": How(
        "nothing has that address", run="devicelab discover --connect $PHONE"
    ),
    "devicelab push-plan configs/digits.yaml --engine onnxruntime-android-1.29.0.aar": How(
        "nothing for Android loads on a virtual phone",
        run="devicelab push-plan configs/digits.yaml --engine $ENGINE",
    ),
    "adb tcpip 5555": How("no phone on USB", check=_adb_knows),
    "adb pair 192.0.2.7:37123": How("asks for a code", check=_adb_knows),
    "adb connect 192.0.2.7:41234": How("nothing has that address", check=_adb_knows),
}
"""How each of these is run, whichever page it is on."""

FIRST: Final[Mapping[str, tuple[str, ...]]] = {
    "docs/ci.md": (
        "cp configs/digits.yaml mine.yaml",
        "devicelab virtual up --phones 1",
        "devicelab run-round mine.yaml --rounds 1",
    ),
    "docs/lab.md": ("devicelab virtual up --phones 1",),
    "docs/real-phones.md": ("devicelab virtual up --phones 2",),
    "docs/scripting.md": ("devicelab virtual up --profile pixel --profile phone-32bit",),
    "docs/troubleshooting.md": ("devicelab virtual up --phones 2",),
}
"""What stands on the desk already when somebody reads a page."""


def words_of(command: str) -> list[str]:
    """A command line's words, up to its first pipe or redirection."""
    words = shlex.split(command)
    end = next((n for n, word in enumerate(words) if word in {"|", ">", "&&", ";"}), len(words))
    return words[:end]
