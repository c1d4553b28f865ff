"""What a device needs to train: the runner built for its target, and ONNX Runtime's library for it.

Runners are part of this package. Engines come from where their makers publish them, through the package clients
of this host, and are kept in the cache directory::

    <cache>/engines/<origin>/manifest.json            sha256 and size of each library, checked on every use
    <cache>/engines/<origin>/<target>/libonnxruntime.so

* Android: Microsoft's AAR, out of the npm package that carries it or by its Maven coordinate. What either one
  gives must have the hashes below.
* Linux: the library inside the ``onnxruntime`` wheel, the installed one where the device is of this machine's
  architecture.
* Or a file that somebody names: a library, or an AAR.
"""

from __future__ import annotations

import hashlib
import importlib.util
import platform
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from devicelab.deadline import Deadline
from devicelab.errors import ConfigError
from devicelab.fetching import Progress, run_client
from devicelab.runner.archives import extract_android_libraries, extract_wheel_library, find_aar
from devicelab.runner.fitness import ENGINE_LIBRARY, require_fit
from devicelab.runner.kept import Artifact, artifact, kept
from devicelab.runner.targets import TARGETS, Target
from devicelab.runner.versions import ANDROID_ENGINE, RUNNER_PROGRAM, RUNNERS

__all__ = ["ANDROID_ENGINE", "Pack", "find_pack", "find_runner", "shipped_engines"]

_NPM_PACKAGE: Final = "com.github.asus4.onnxruntime@0.4.9"
_MAVEN_ARTIFACT: Final = f"com.microsoft.onnxruntime:onnxruntime-android:{ANDROID_ENGINE}:aar"
_ANDROID_SHA256: Final[Mapping[str, str]] = {
    "android-arm64-v8a": "3a602b463d434d20fbf69cd1b8bdfd2f86a2cb67d08de97aec8f62476fa4ab87",
    "android-armeabi-v7a": "76fcaa5a49e939295cdd8b2f304a8fda0fa52aeca8fc4dd8215ee29089e00ccb",
    "android-x86": "811892fdad82237373e7bc50a2cd6ca687af150cbb3bce9996d29f93d4861128",
    "android-x86_64": "1fbfff77a79d79d4e99c2ae78d048044b689782da7e2b0a268443279ae615566",
}
_SECONDS: Final = 900.0
_OLDEST: Final = (1, 18)  # whose C API the runner asks for
_VERSION: Final = re.compile(r"libonnxruntime\.so\.(\d+\.\d+\.\d+)")
_BY_HAND: Final = "or give ONNX Runtime's library yourself with --engine FILE (.so or .aar)"


@dataclass(frozen=True, slots=True)
class Pack:
    """Runner and engine for one target.

    Attributes:
        target: For which devices.
        runner: The program.
        engine: The library.
        version: The engine's version, None where somebody gave the file (the runner will tell).
    """

    target: Target
    runner: Artifact
    engine: Artifact
    version: str | None


def find_pack(
    target: Target,
    *,
    engine: Path | None = None,
    deadline: Deadline | None = None,
    progress: Progress | None = None,
) -> Pack:
    """Runner and engine for a target, fetched first if this host does not have them.

    Args:
        target: For which devices.
        engine: The engine to use instead of the published one: ``libonnxruntime.so`` or an AAR.
        deadline: For all of it; a quarter of an hour by default.
        progress: Told what is being done; not called where all is there already.

    Raises:
        ConfigError: An engine cannot be fetched or is not what it should be; says what to do.
        DeadlineError: It took too long.
    """
    deadline = deadline or Deadline(f"engine for {target.name}", _SECONDS)
    tell = progress or (lambda _message: None)
    runner = find_runner(target)
    require_fit(runner.path, target, None, program=True)
    if engine is not None:
        library, version = _given_engine(engine, target, deadline), None
    elif target.system == "android":
        library, version = _android_engine(target, deadline, tell), ANDROID_ENGINE
    else:
        library, version = _linux_engine(target, deadline, tell)
    require_fit(library.path, target, None, program=False)
    return Pack(target, runner, library, version)


def shipped_engines() -> dict[str, str]:
    """Version of the engine that each target gets where nobody names another. Nothing is fetched.

    Raises:
        ConfigError: This host's onnxruntime is missing or too old.
    """
    return {
        name: ANDROID_ENGINE if target.system == "android" else _installed_engine()[1]
        for name, target in TARGETS.items()
    }


def find_runner(target: Target) -> Artifact:
    """The runner for a target, which is part of this package.

    Raises:
        ConfigError: It is not there: this devicelab was installed without it.
    """
    path = RUNNERS / target.name / RUNNER_PROGRAM
    if not path.is_file():
        raise ConfigError(
            f"this devicelab holds no runner for {target.name}: {path} is missing",
            hint="install devicelab from its wheel, or build the runners from a checkout",
        )
    return artifact(path)


def _given_engine(path: Path, target: Target, deadline: Deadline) -> Artifact:
    """The file that somebody named, or the part of it that is for this target."""
    if not path.is_file():
        raise ConfigError(f"the engine {path} is no file")
    with path.open("rb") as file:
        start = file.read(4)
        if start == b"\x7fELF":
            return artifact(path)
        if start[:2] != b"PK":
            raise ConfigError(f"the engine {path} is neither a library (.so) nor an AAR")
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    found = kept(f"given-{digest[:16]}", lambda part: extract_android_libraries(path, part), deadline)
    if target.name not in found:
        raise ConfigError(f"the AAR {path} holds no {ENGINE_LIBRARY} for {target.name}")
    return found[target.name]


def _android_engine(target: Target, deadline: Deadline, tell: Progress) -> Artifact:
    def fetch(part: Path) -> None:
        extract_android_libraries(_fetch_aar(part, deadline, tell), part)
        for name, sha256 in _ANDROID_SHA256.items():
            path = part / name / ENGINE_LIBRARY
            if not path.is_file() or artifact(path).sha256 != sha256:
                raise ConfigError(
                    f"what was fetched as ONNX Runtime {ANDROID_ENGINE} for {name} is something else",
                    hint=f"look at what your package clients are told to fetch, {_BY_HAND}",
                )

    found = kept(f"android-{ANDROID_ENGINE}", fetch, deadline)
    return found[target.name]


def _fetch_aar(part: Path, deadline: Deadline, tell: Progress) -> Path:
    """Have a package client fetch the AAR: npm if there is one, else Maven."""
    ways: list[tuple[str, Callable[[], Path]]] = [
        ("npm", lambda: find_aar(_fetched(part, ("npm", "pack", "--silent", _NPM_PACKAGE), ".tgz", deadline))),
        ("mvn", lambda: _fetched(part, _maven_command(part), ".aar", deadline)),
    ]
    failures: list[str] = []
    for client, fetch in ways:
        if shutil.which(client) is None:
            continue
        tell(f"fetching ONNX Runtime {ANDROID_ENGINE} for Android with {client} (some 150 MB, once)")
        try:
            return fetch()
        except ConfigError as error:
            failures.append(error.message)
    raise ConfigError(
        f"ONNX Runtime for Android cannot be fetched: {'; '.join(failures) or 'neither npm nor mvn is here'}",
        hint=f"install npm (Node.js) or Maven, {_BY_HAND}",
    )


def _maven_command(part: Path) -> tuple[str, ...]:
    what = (f"-Dartifact={_MAVEN_ARTIFACT}", f"-DoutputDirectory={part / 'downloads'}")
    return ("mvn", "--batch-mode", "--quiet", "dependency:copy", *what)


def _linux_engine(target: Target, deadline: Deadline, tell: Progress) -> tuple[Artifact, str]:
    path, version = _installed_engine()
    if platform.machine() == target.abi and path is not None:
        return artifact(path), version

    def fetch(part: Path) -> None:
        tell(f"fetching ONNX Runtime {version} for {target.name} with pip (some 25 MB, once)")
        # The oldest glibc that it is built for: a device's may be older than this host's.
        platforms = [f"--platform=manylinux_2_{minor}_{target.abi}" for minor in (27, 28)]
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--no-deps")
        wheel = _fetched(part, (*pip, *platforms, f"onnxruntime=={version}"), ".whl", deadline)
        extract_wheel_library(wheel, part / target.name / ENGINE_LIBRARY)

    return kept(f"{target.name}-{version}", fetch, deadline)[target.name], version


def _fetched(part: Path, command: tuple[str, ...], suffix: str, deadline: Deadline) -> Path:
    """Run a package client that leaves one file of that suffix in a directory of its own."""
    downloads = part / "downloads"
    shutil.rmtree(downloads, ignore_errors=True)
    downloads.mkdir()
    run_client(command, downloads, deadline)
    files = sorted(path for path in downloads.iterdir() if path.suffix == suffix)
    if len(files) != 1:
        raise ConfigError(f"`{' '.join(command[:4])} …` left {len(files)} {suffix} files, not one")
    return files[0]


@lru_cache(maxsize=1)
def _installed_engine() -> tuple[Path | None, str]:
    """The library of the installed wheel (None on systems that are no Linux), and the version of the wheel."""
    # Found without importing it, which takes a while and is not needed.
    spec = importlib.util.find_spec("onnxruntime")
    folders = [Path(place) / "capi" for place in (spec.submodule_search_locations or ())] if spec else []
    found = [path for folder in folders for path in folder.glob(f"{ENGINE_LIBRARY}.*")]
    versions = {path: match[1] for path in found if (match := _VERSION.fullmatch(path.name))}
    path = next(iter(versions), None)
    version = versions[path] if path is not None else _wheel_version()
    if tuple(map(int, version.split(".")[:2])) < _OLDEST:
        raise ConfigError(
            f"the installed onnxruntime is {version}, the runner needs 1.18 or newer",
            hint="pip install --upgrade onnxruntime",
        )
    return path, version


def _wheel_version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 (slow, and rarely needed)

    try:
        return version("onnxruntime")
    except PackageNotFoundError as error:
        raise ConfigError(
            "the onnxruntime package is not installed", hint=f"pip install onnxruntime, {_BY_HAND}"
        ) from error
