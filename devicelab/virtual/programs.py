"""Host programs that some phones need, out of Debian packages, kept in the cache: proot and qemu-user.

::

    <cache>/programs/<name>-<arch>/     the program, and in lib/ what it loads, its dynamic linker included
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from devicelab.deadline import Deadline
from devicelab.devices.locks import flocked
from devicelab.errors import VirtualPhoneError
from devicelab.fetching import Progress
from devicelab.files import cache_dir, host_error
from devicelab.virtual.image import TRIPLETS
from devicelab.virtual.libraries import closure, read_elf
from devicelab.virtual.packages import fetch_packages, host_arch, system_mirror

__all__ = ["Program", "fetch_program"]

_PART = ".part-"
_LINKER = "ld.so"


@dataclass(frozen=True, slots=True)
class Program:
    """A program that runs wherever it lies.

    Attributes:
        path: The executable.
        command: How to start it: itself, or its own dynamic linker with where its libraries are.
    """

    path: Path
    command: tuple[str, ...]


def fetch_program(
    name: str,
    packages: Sequence[str],
    *,
    deadline: Deadline | None = None,
    progress: Progress | None = None,
) -> Program:
    """A program for this machine, fetched first if the cache does not hold it.

    Args:
        name: Of the executable below ``/usr/bin``.
        packages: The names of the package that holds it, on Debian and on Ubuntu.
        deadline: For all of it; ten minutes by default.
        progress: Told what is being done; not called where it is there already.

    Raises:
        VirtualPhoneError: No apt, no network, no such package, …
        DeadlineError: It took too long.
    """
    arch = host_arch()
    programs = cache_dir() / "programs"
    directory = programs / f"{name}-{arch}"
    deadline = deadline or Deadline(f"fetching {name}", 600)
    try:
        if not directory.is_dir():
            programs.mkdir(parents=True, exist_ok=True)
            with (programs / ".lock").open("a") as lock, flocked(lock.fileno(), deadline):
                if not directory.is_dir():
                    _build(directory, packages, deadline, progress)
    except OSError as error:
        raise host_error(f"cannot keep {name} in {programs}", error) from error
    path = directory / name
    linker = directory / "lib" / _LINKER
    if not linker.exists():
        return Program(path, (str(path),))
    return Program(path, (str(linker), "--library-path", str(linker.parent), str(path)))


def _build(directory: Path, packages: Sequence[str], deadline: Deadline, progress: Progress | None) -> None:
    """Fetch, copy what is needed beside the final name, rename. The caller holds the lock."""
    for leftover in directory.parent.glob(f"{_PART}*"):
        shutil.rmtree(leftover)
    debian, ubuntu = packages
    package = debian if system_mirror(deadline).distribution == "debian" else ubuntu
    name = directory.name.rpartition("-")[0]
    part = Path(tempfile.mkdtemp(prefix=_PART, dir=directory.parent))
    try:
        root = part / "packages"
        fetch_packages([package], root, deadline=deadline, progress=progress)
        source = next(
            (path for path in (root / "usr/bin" / name, root / "usr/bin" / f"{name}-static") if path.exists()),
            None,
        )
        if source is None:
            raise VirtualPhoneError(f"the package {package} holds no {name}")
        ready = part / "ready"
        (ready / "lib").mkdir(parents=True)
        shutil.copyfile(source, ready / name)
        (ready / name).chmod(0o755)
        for library, path in closure([source], [root / "usr/lib" / TRIPLETS[host_arch()]]).items():
            shutil.copyfile(path, ready / "lib" / library)
        if interpreter := read_elf(source).interpreter:
            linker = ready / "lib" / _LINKER
            shutil.copyfile(root / "usr" / interpreter.lstrip("/"), linker)
            linker.chmod(0o755)
        ready.rename(directory)
    finally:
        shutil.rmtree(part)
