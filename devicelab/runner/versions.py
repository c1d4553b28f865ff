"""What this installation consists of, read from its files alone: nothing large is imported, no phone asked."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from devicelab.runner.job import PROTOCOL

__all__ = ["ANDROID_ENGINE", "RUNNERS", "RUNNER_PROGRAM", "Versions", "installed_versions"]

ANDROID_ENGINE: Final = "1.29.0"
"""The version of ONNX Runtime that Android devices get."""

RUNNERS: Final = Path(__file__).with_name("bin")
"""The runners of this package: ``<target>/devicelab-runner``."""

RUNNER_PROGRAM: Final = "devicelab-runner"


@dataclass(frozen=True, slots=True)
class Versions:
    """Everything that a report of a defect should name.

    Attributes:
        devicelab: This package, and the runners that were built with it.
        protocol: Number of what host and runner promise each other.
        runners: SHA-256 of each runner that is here, by target: its name in phones' caches.
        engine_android: ONNX Runtime for Android devices.
        engine_linux: ONNX Runtime for Linux devices and this host; None if its package is missing.
        python: Of this host.
        system: Of this host.
    """

    devicelab: str
    protocol: int
    runners: dict[str, str]
    engine_android: str
    engine_linux: str | None
    python: str
    system: str

    def document(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return asdict(self)


def installed_versions() -> Versions:
    """Look at this installation.

    Raises:
        OSError: A runner cannot be read.
    """
    programs = sorted(RUNNERS.glob(f"*-*/{RUNNER_PROGRAM}"))
    return Versions(
        devicelab=version("devicelab"),
        protocol=PROTOCOL,
        runners={each.parent.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in programs},
        engine_android=ANDROID_ENGINE,
        engine_linux=_version_or_none("onnxruntime"),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
    )


def _version_or_none(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
