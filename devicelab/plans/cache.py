"""Built plans on disk, so that a second push does not trace for seconds; without loading PyTorch.

An entry's key is a hash of what was asked for, of this package's sources and of everything that is installed.
The entry holds the hashes of the files that its build depended on: the sources of all modules from outside the
libraries, and whatever was opened meanwhile (weights, vocabularies). If one of them is another now the entry
counts for nothing; ccache calls this its direct mode. Where the cache cannot know, it does not keep.
"""

from __future__ import annotations

import hashlib
import json
import os
import site
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from devicelab.files import cache_dir, write_atomically

__all__ = ["Cache", "Entry", "Reads", "recorded_reads"]

Array = np.ndarray[Any, Any]

_STARTED: Final = time.time_ns()  # sources that changed after this may not be what this process runs
_HERE: Final = Path(__file__).parent
_MOST_ENTRIES: Final = 32


@dataclass(frozen=True, slots=True)
class Entry:
    """What one build came to.

    Attributes:
        facts: Anything that JSON can hold.
        tensors: Arrays by name; files' contents as bytes (uint8) among them.
    """

    facts: dict[str, Any]
    tensors: Mapping[str, Array]


@dataclass(slots=True)
class Reads:
    """The files that a build depended on.

    Attributes:
        opened: Those opened for reading while it ran, by path.
    """

    opened: set[str]

    def hashes(self) -> dict[str, str] | None:
        """Their hashes by path, modules' sources included; None if one may have changed under our feet."""
        found = {}
        for path in sorted({p for p in self.opened | set(_module_files()) if not _is_library(p)}):
            try:
                status = os.stat(path)  # noqa: PTH116 - thousands of paths
                if not os.path.isfile(path):  # noqa: PTH113
                    continue
                if status.st_mtime_ns >= _STARTED:
                    return None
                found[path] = _hash_of(Path(path).read_bytes())
            except FileNotFoundError:  # a temporary file
                continue
            except OSError:
                return None
        return found


class Cache:
    """Entries in a directory: the most recently used ones, each in a file that starts with its own hash.

    Args:
        directory: Where; made when the first entry is kept.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory or cache_dir() / "plans"

    def get(self, question: Mapping[str, Any]) -> Entry | None:
        """What a build that was asked this came to, if it would come to the same now."""
        path = self._path(question)
        try:
            entry, reads = _unpacked(path.read_bytes())
            if any(_hash_of(Path(name).read_bytes()) != known for name, known in reads.items()):
                return None
            os.utime(path)
        except (OSError, ValueError, KeyError, TypeError):  # not there, damaged, or of a file that is gone
            return None
        return entry

    def put(self, question: Mapping[str, Any], entry: Entry, reads: Mapping[str, str]) -> None:
        """Keep what a build came to, and the hashes of what it read; a full disk is no failure."""
        with suppress(OSError):
            self._directory.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path(question), _packed(entry, reads))
            entries = sorted(self._directory.glob("*.built"), key=lambda p: p.stat().st_mtime_ns)
            for old in entries[:-_MOST_ENTRIES]:
                old.unlink(missing_ok=True)

    def _path(self, question: Mapping[str, Any]) -> Path:
        whole = {"question": dict(question), "environment": _environment()}
        name = _hash_of(json.dumps(whole, sort_keys=True, allow_nan=False).encode())
        return self._directory / f"{name}.built"


def _packed(entry: Entry, reads: Mapping[str, str]) -> bytes:
    from safetensors.numpy import save  # noqa: PLC0415 - not needed where nothing is built

    facts = json.dumps({"facts": entry.facts, "reads": dict(reads)})
    tensors = {name: np.array(array, order="C") for name, array in entry.tensors.items()}
    body = save(tensors, metadata={"entry": facts})
    return hashlib.sha256(body).digest() + body


def _unpacked(data: bytes) -> tuple[Entry, dict[str, str]]:
    from safetensors import SafetensorError  # noqa: PLC0415 - see above
    from safetensors.numpy import load  # noqa: PLC0415

    body = data[32:]
    if hashlib.sha256(body).digest() != data[:32]:
        raise ValueError("damaged")
    try:
        tensors = load(body)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
    document = json.loads(header["__metadata__"]["entry"])
    return Entry(document["facts"], tensors), document["reads"]


def _hash_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _environment() -> dict[str, Any]:
    """What else a build's result depends on: Python, this package, and the version of all that is installed."""
    sources = hashlib.sha256()
    for path in sorted(_HERE.rglob("*.py")):
        sources.update(path.relative_to(_HERE).as_posix().encode() + b"\0" + path.read_bytes())
    installed = set()
    for entry in sys.path:
        with suppress(OSError):
            installed |= {name for name in os.listdir(entry) if name.endswith(".dist-info")}  # noqa: PTH208
    return {"python": sys.version, "devicelab": sources.hexdigest(), "installed": sorted(installed)}


def _library_roots() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    roots = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    roots |= {*site.getsitepackages(), site.getusersitepackages(), str(_HERE)}
    return tuple(sorted({os.path.join(os.path.realpath(root), "") for root in roots}))  # noqa: PTH118


_LIBRARIES: Final = _library_roots()


def _is_library(path: str) -> bool:
    return os.path.realpath(path).startswith(_LIBRARIES) or path.startswith(("/proc/", "/sys/", "/dev/"))


def _module_files() -> Iterator[str]:
    for module in list(sys.modules.values()):
        name = getattr(module, "__file__", None)
        if isinstance(name, str):
            yield os.path.abspath(name)  # noqa: PTH100 - thousands of paths


_listening: list[set[str]] = []
_hooked: list[bool] = []


def _hear(event: str, args: tuple[Any, ...]) -> None:
    if not _listening or event != "open" or not isinstance(args[0], str | bytes | os.PathLike):
        return
    mode, flags = args[1], args[2]
    if (isinstance(mode, str) and "r" not in mode) or (isinstance(flags, int) and flags & os.O_ACCMODE):
        return
    path = os.path.abspath(os.fsdecode(args[0]))  # noqa: PTH100 - an audit hook has no time for objects
    for heard in _listening:
        heard.add(path)


@contextmanager
def recorded_reads() -> Iterator[Reads]:
    """Note every file that Python opens for reading meanwhile (audit event ``open``, PEP 578)."""
    if not _hooked:
        sys.addaudithook(_hear)
        _hooked.append(True)
    heard: set[str] = set()
    _listening.append(heard)
    try:
        yield Reads(heard)
    finally:
        _listening[:] = [each for each in _listening if each is not heard]
