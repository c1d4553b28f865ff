"""Builds the runner for every kind of phone, with the Zig compiler of the ``ziglang`` package alone.

No NDK and no engine is needed: the program is linked against a stub of ``libonnxruntime.so`` that exports the
one symbol it imports, and has no libc. Imports nothing of devicelab, because the package's build hook runs it
before there is a devicelab to import.

From a shell: ``python devicelab/runner/native/build.py [TARGET...]`` brings ``devicelab/runner/bin`` up to
date.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

__all__ = ["PROGRAM", "TARGETS", "BuildError", "Target", "build", "is_fresh", "refresh", "refresh_fuzzer"]

PROGRAM: Final = "devicelab-runner"
_HERE: Final = Path(__file__).resolve().parent
_STAMP: Final = "stamp"
_PAGE: Final = 16384  # the largest pages of today's phones
_LIMIT: Final = 300_000  # bytes; a program that grows beyond that has something in it that should not be there
_COMPILER_TIMEOUT: Final = 600.0


class BuildError(Exception):
    """The compiler is missing or failed; says what it said."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a runner is built for.

    Attributes:
        name: ``android-<ABI>`` or ``linux-<machine>``.
        triple: Zig's name of the architecture and system.
        cpu: The least that every processor of this kind has.
        interpreter: The dynamic linker.
    """

    name: str
    triple: str
    cpu: str
    interpreter: str

    @property
    def system(self) -> str:
        """``android`` or ``linux``."""
        return self.name.partition("-")[0]

    @property
    def abi(self) -> str:
        """As Android calls it, or the machine's name on Linux."""
        return self.name.partition("-")[2]


# NEON is optional in this ABI, and registers d16 to d31 with it.
_ARMV7: Final = "generic+v7a+vfp3d16-vfp3-vfp3sp-d32-neon"

TARGETS: Final = {
    target.name: target
    for target in (
        Target("android-arm64-v8a", "aarch64-linux-none", "generic", "/system/bin/linker64"),
        Target("android-armeabi-v7a", "arm-linux-eabi", _ARMV7, "/system/bin/linker"),
        Target("android-x86_64", "x86_64-linux-none", "x86_64", "/system/bin/linker64"),
        Target("android-x86", "x86-linux-none", "pentium4+sse3+ssse3", "/system/bin/linker"),
        Target("linux-x86_64", "x86_64-linux-none", "x86_64", "/lib64/ld-linux-x86-64.so.2"),
        Target("linux-aarch64", "aarch64-linux-none", "generic", "/lib/ld-linux-aarch64.so.1"),
    )
}

_COMMON: Final = (
    *("-O", "safe"),  # with bounds and overflow checks: what is read comes from elsewhere
    *("-fstrip", "-fsingle-threaded", "-fomit-frame-pointer"),
    *("-fno-unwind-tables", "-fno-error-tracing", "-fno-stack-check", "-fno-stack-protector"),
)


def build(target: str, out: Path) -> Path:
    """Build one runner.

    Args:
        target: A key of :data:`TARGETS`.
        out: The program's path; its directory is made. Written whole or not at all.

    Returns:
        ``out``.

    Raises:
        BuildError: The compiler is missing or failed.
        KeyError: There is no such target.
    """
    wanted = TARGETS[target]
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="devicelab-build-") as scratch:
        program = _link(wanted, Path(scratch))
        size = program.stat().st_size
        if size > _LIMIT:
            raise BuildError(f"the runner for {target} has {size} bytes, more than {_LIMIT}")
        _put(program, out)
    return out


def _put(program: Path, out: Path) -> None:
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        shutil.copyfile(program, part)
        part.chmod(0o755)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


def is_fresh(directory: Path, target: str) -> bool:
    """Whether ``directory/<target>/devicelab-runner`` is there and made from today's sources."""
    program = directory / target / PROGRAM
    stamp = program.with_name(_STAMP)
    return program.is_file() and stamp.is_file() and stamp.read_text() == _fingerprint()


def refresh(directory: Path, targets: Iterable[str] = tuple(TARGETS)) -> list[Path]:
    """Build what is missing or older than its sources in ``directory``.

    Returns:
        All programs, also those that were up to date.

    Raises:
        BuildError: The compiler is missing or failed.
    """
    programs = []
    for target in targets:
        program = directory / target / PROGRAM
        if not is_fresh(directory, target):
            build(target, program)
            program.with_name(_STAMP).write_text(_fingerprint())
        programs.append(program)
    return programs


def refresh_fuzzer(directory: Path) -> Path:
    """Build the readers' test harness (``fuzz.zig``) for this machine, if it is missing or old.

    Raises:
        BuildError: The compiler is missing or failed.
    """
    program = directory / "fuzz" / PROGRAM
    if not is_fresh(directory, "fuzz"):
        program.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="devicelab-build-") as scratch:
            source = str(_HERE / "fuzz.zig")
            _zig("build-exe", *_COMMON, "--name", "fuzz", f"-Mmain={source}", scratch=Path(scratch))
            _put(Path(scratch) / "fuzz", program)
        program.with_name(_STAMP).write_text(_fingerprint())
    return program


def _fingerprint() -> str:
    """Changes whenever a build could come out differently."""
    digest = hashlib.sha256(f"{_version()} {metadata.version('ziglang')}".encode())
    for source in sorted((*_HERE.glob("*.zig"), Path(__file__).resolve())):
        digest.update(f"{source.name} {source.stat().st_size}\n".encode())
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _version() -> str:
    """The version of devicelab, from the source tree where there is one."""
    project = _HERE.parents[2] / "pyproject.toml"
    if project.is_file():
        return str(tomllib.loads(project.read_text())["project"]["version"])
    return metadata.version("devicelab")


def _link(target: Target, scratch: Path) -> Path:
    options = scratch / "options.zig"
    options.write_text(
        f'pub const version = "{_version()}";\n'
        f'pub const system = "{target.system}";\n'
        f'pub const abi = "{target.abi}";\n'
    )
    machine = ("-target", target.triple, f"-mcpu={target.cpu}")
    _zig(
        *("build-lib", "-dynamic", *machine, *_COMMON),
        *("-fsoname=libonnxruntime.so", "--name", "onnxruntime", str(_HERE / "stub.zig")),
        scratch=scratch,
    )
    # What concerns linking comes first: it belongs to the module that follows.
    _zig(
        *("build-exe", "-fPIE", "-dynamic", "--dynamic-linker", target.interpreter),
        *("-z", f"max-page-size={_PAGE}", "-z", f"common-page-size={_PAGE}", "-z", "relro", "-z", "now"),
        *(f"-L{scratch}", "-lonnxruntime", "--name", PROGRAM, *machine, *_COMMON),
        *("--dep", "options", f"-Mmain={_HERE / 'main.zig'}", f"-Moptions={options}"),
        scratch=scratch,
    )
    return scratch / PROGRAM


def _zig(*arguments: str, scratch: Path) -> None:
    cache = _cache(scratch)
    try:
        run = subprocess.run(
            [sys.executable, "-m", "ziglang", *arguments],
            cwd=scratch,
            env=os.environ | {"ZIG_GLOBAL_CACHE_DIR": str(cache), "ZIG_LOCAL_CACHE_DIR": str(cache)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_COMPILER_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"the Zig compiler cannot be run: {error}") from error
    if run.returncode:
        raise BuildError(f"the Zig compiler failed: {(run.stderr or run.stdout).strip()[-4000:]}")


def _cache(scratch: Path) -> Path:
    """A directory for what the compiler wants to find again; a lasting one where this user has a place."""
    explicit = os.environ.get("DEVICELAB_CACHE")
    general = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - never raises
    lasting = (Path(explicit) if explicit else Path(general) / "devicelab") / "zig"
    try:
        lasting.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=lasting):
            pass
    except OSError:
        lasting = scratch / "cache"
    return lasting


if __name__ == "__main__":
    try:
        refresh(_HERE.parent / "bin", sys.argv[1:] or TARGETS)
    except (BuildError, KeyError, OSError, metadata.PackageNotFoundError) as error:
        sys.exit(f"build: {error}")
