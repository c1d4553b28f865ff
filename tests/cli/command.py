"""Commands as users run them, within this process."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import pytest

from devicelab.cli import main

__all__ = ["Done", "devicelab", "document"]


@dataclass
class Done:
    """What a command did."""

    code: int
    stdout: str
    stderr: str


def devicelab(*words: str, code: int | None = 0, **environment: str) -> Done:
    """Run a command in this process, as the installed program does."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(stdout), redirect_stderr(stderr):
        patch.setattr(sys, "argv", ["devicelab", *words])
        for name, value in {"COLUMNS": "200", **environment}.items():
            patch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            main()
    done = Done(int(ended.value.code or 0), stdout.getvalue(), stderr.getvalue())
    assert code is None or done.code == code, done
    return done


def document(*words: str, code: int | None = 0, **environment: str) -> Any:
    return json.loads(devicelab(*words, "--json", code=code, **environment).stdout)
