"""What a command loads before it knows that it needs it: PyTorch and ONNX take seconds."""

from __future__ import annotations

import subprocess
import sys

import pytest

_HEAVY = ("torch", "onnx", "onnxruntime", "pandas", "scipy", "sklearn")


def _loaded(code: str) -> set[str]:
    """Which of the heavy packages a program has loaded when it ends."""
    report = f"{code}\nimport sys\nprint(*[name for name in {_HEAVY!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", report], capture_output=True, text=True, check=True, timeout=120
    )
    return set(done.stdout.split())


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
