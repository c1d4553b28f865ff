"""Build hook: puts the runner for every kind of phone into the package (see devicelab/runner/native/build.py).

And the experiments of ``configs/``, for those who have no checkout.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class RunnersHook(BuildHookInterface[Any]):
    """Builds what is older than its sources; for editable installs, too."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before the wheel is put together."""
        if version != "editable":  # which has the checkout
            build_data["force_include"]["configs"] = "devicelab/configs"
        runner = Path(self.root) / "devicelab" / "runner"
        _load(runner / "native" / "build.py").refresh(runner / "bin")


def _load(path: Path) -> ModuleType:
    """A module by its path: devicelab cannot be imported where it is only being built."""
    spec = importlib.util.spec_from_file_location("devicelab_native_build", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
