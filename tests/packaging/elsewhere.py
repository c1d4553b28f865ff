"""What is built from this checkout, and a place that has nothing but it and what it says it needs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from packaging.requirements import Requirement

from devicelab.files import cache_dir
from tests.runner.native.bench import runners

__all__ = ["REBUILT", "ROOT", "Built", "Elsewhere", "build", "build_sdist", "build_wheel", "make_elsewhere"]

ROOT: Final = Path(__file__).parents[2]
REBUILT: Final = ("android-armeabi-v7a", "linux-x86_64")
"""Targets that are compiled again from the sdist; the others' come from the checkout, to save minutes."""

_SECONDS = 600.0
_TOOLS: Final = ("sh",)
"""All programs of this host that the installed package may find on its PATH: no compiler, no Zig, no adb."""


@dataclass(frozen=True)
class Built:
    """An sdist, it unpacked, and the wheel that was built from it."""

    sdist: Path
    source: Path
    wheel: Path


def build(directory: Path, *targets: str) -> Built:
    """Both of them, the wheel from the unpacked sdist.

    Args:
        directory: An empty one.
        targets: The runners that need not be compiled again.
    """
    sdist = build_sdist(directory / "dist")
    with tarfile.open(sdist) as archive:
        archive.extractall(directory, filter="data")
    source = directory / sdist.name.removesuffix(".tar.gz")
    for target, program in runners(*targets).items():
        shutil.copytree(program.parent, source / "devicelab" / "runner" / "bin" / target)
    return Built(sdist, source, build_wheel(source, directory / "dist"))


def build_sdist(out: Path) -> Path:
    """The checkout as an sdist."""
    _run([sys.executable, "-m", "build", "--sdist", "--no-isolation", f"--outdir={out}", str(ROOT)])
    [sdist] = out.glob("*.tar.gz")
    return sdist


def build_wheel(source: Path, out: Path) -> Path:
    """A source tree as a wheel."""
    _run([sys.executable, "-m", "build", "--wheel", "--no-isolation", f"--outdir={out}", str(source)])
    [wheel] = out.glob("*.whl")
    return wheel


@dataclass(frozen=True)
class Elsewhere:
    """An environment of its own.

    Attributes:
        python: Its interpreter.
        directory: Where its user is.
        environment: All variables that its user has.
    """

    python: Path
    directory: Path
    environment: dict[str, str]

    def run(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a program of it; the first word is looked up beside its interpreter."""
        return _run(
            [str(self.python.with_name(words[0])), *words[1:]],
            code=code,
            directory=self.directory,
            environment=self.environment,
        )

    def document(self, *words: str, code: int = 0) -> Any:
        """What a devicelab command says in JSON."""
        return json.loads(self.run("devicelab", *words, "--json", code=code).stdout)


def make_elsewhere(directory: Path, wheel: Path) -> Elsewhere:
    """Install a wheel, without its dependencies, into a new venv, beside links to the dependencies it names.

    So nothing large is installed again, and yet nothing can be imported that the wheel does not ask for.
    """
    place = directory / "venv"
    venv.create(place, with_pip=False, symlinks=True)
    python = place / "bin" / "python"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
    ]
    _run([*pip, str(wheel)])
    [installed] = place.glob("lib/python*/site-packages")
    links = directory / "dependencies"
    links.mkdir()
    [own] = installed.glob("devicelab-*.dist-info")
    for name in _closure(metadata.PathDistribution(own).requires or []):
        _link(metadata.distribution(name), links)
    (installed / "dependencies.pth").write_text(f"{links}\n")
    tools = directory / "tools"
    tools.mkdir()
    for tool in _TOOLS:
        (tools / tool).symlink_to(str(shutil.which(tool)))
    user = directory / "user"
    user.mkdir()
    environment = {
        "PATH": f"{python.parent}:{tools}",
        "HOME": str(user),
        "DEVICELAB_HOME": str(user / "state"),
        "DEVICELAB_LEASES": str(user / "leases"),
        "DEVICELAB_CACHE": str(cache_dir()),  # phone images
        "TMPDIR": os.environ.get("TMPDIR", "/tmp"),
    }
    return Elsewhere(python, user, environment)


def _closure(requirements: Sequence[str]) -> set[str]:
    """Names of all distributions that are asked for here, directly or not; extras are left out."""
    found: set[str] = set()
    waiting = [(text, "") for text in requirements]
    while waiting:
        text, extra = waiting.pop()
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": extra}):
            continue
        installed = metadata.distribution(wanted.name)
        assert wanted.specifier.contains(installed.version, prereleases=True), (
            f"{wanted} is {installed.version}"
        )
        key = installed.metadata["Name"]
        waiting += [(each, one) for one in wanted.extras for each in installed.requires or []]
        if key not in found:
            found.add(key)
            waiting += [(each, "") for each in installed.requires or []]
    return found


def _link(distribution: metadata.Distribution, links: Path) -> None:
    """Links to all that a distribution has put beside others."""
    for name in {path.parts[0] for path in distribution.files or []} - {"..", "__pycache__"}:
        place = Path(str(distribution.locate_file(name)))
        if not (links / name).is_symlink():
            (links / name).symlink_to(place)


def _run(
    command: Sequence[str],
    *,
    code: int = 0,
    directory: Path | None = None,
    environment: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    if environment is None:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command,
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert done.returncode == code, f"{' '.join(command)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done
