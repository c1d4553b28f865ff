"""What a command loads before it knows that it needs it: PyTorch takes seconds, and others add up."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.servers import AdbServer

_HEAVY = ("torch", "onnx", "onnxruntime", "pandas", "scipy", "sklearn")

_SLOW = (*_HEAVY, "cryptography", "jinja2", "markdown_it", "numpy", "pygments", "rich", "usb1", "yaml")
"""What takes 10 ms or more, besides typer and the pydantic that it loads for options with values."""


def _loaded(code: str, watched: tuple[str, ...] = _HEAVY) -> set[str]:
    """Which of the packages a program has loaded when it ends."""
    report = (
        f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\n"
        f"print(*[name for name in {watched!r} if name in sys.modules], file=sys.__stderr__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", report], capture_output=True, text=True, check=True, timeout=120
    )
    return set(done.stderr.split())


def _command(*words: str, watched: tuple[str, ...] = _SLOW) -> set[str]:
    """The same of a command."""
    argv = ["devicelab", *words]
    return _loaded(f"sys.argv = {argv!r}; from devicelab.__main__ import main; main()", watched)


@pytest.mark.parametrize(
    "code",
    [
        "from devicelab.cli import app",
        "from devicelab import Lab, VirtualDesk",
        "import devicelab.plans.build, devicelab.plans.cache, devicelab.plans.facts",
        "import devicelab.report.plans, devicelab.runner.packs",
        "import devicelab.rounds.privacy, devicelab.report.privacy",
    ],
)
def test_importing_it_loads_no_training_stack(code: str) -> None:
    assert _loaded(code) == set()


def test_looking_at_a_plan_file_needs_onnx_but_not_pytorch() -> None:
    assert _loaded("import devicelab.plans.inspection") == {"onnx"}


@pytest.mark.parametrize(
    "words", [("--help",), ("discover", "--help"), ("virtual", "up", "--help"), ("--version",)]
)
def test_who_only_asks_loads_the_command_line_alone(words: tuple[str, ...]) -> None:
    rooms = (f"devicelab.{room}" for room in ("adb", "devices", "lab", "report", "rounds", "virtual"))
    assert _command(*words, watched=(*_SLOW, "pydantic", *rooms)) == set()


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_looking_for_phones_directly(more: tuple[str, ...]) -> None:
    loaded = _command("discover", "--transport", "direct", *more)
    assert loaded <= {"rich", "usb1"}  # for the table, and to ask libusb


def test_looking_for_phones_through_the_server(adb_server: AdbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(adb_server.port))
    assert _command("discover", watched=(*_SLOW, "devicelab.adb.direct")) == {"rich"}
