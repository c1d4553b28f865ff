"""Shards: safetensors files named after their content, and the index that says whose they are.

The same examples make the same bytes, so the same SHA-256, and a device that has a file need not be sent it
again. ``<directory>/<sha256>.safetensors``, written under another name first; an index is written last.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from devicelab.data.division import Division
from devicelab.data.examples import PARTS, Array, Part, Tensors, checked, count
from devicelab.errors import DataError
from devicelab.files import replacing, write_atomically

__all__ = ["Shard", "ShardSet", "TensorSpec", "encode", "read_index", "read_shard", "write_shards"]

_VERSION: Final = 2


@dataclass(frozen=True, slots=True)
class Shard:
    """One file.

    Attributes:
        path: Where it is on this host.
        sha256: Of its content, hexadecimal.
        size: In bytes.
        examples: How many it holds.
    """

    path: Path
    sha256: str
    size: int
    examples: int


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor, as it is in all shards of a kind.

    Attributes:
        dtype: NumPy's name of the element type.
        shape: Of one example.
        range: Smallest and largest value of whole numbers (both included), over all shards of that kind; None
            for others.
    """

    dtype: str
    shape: tuple[int, ...]
    range: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class ShardSet:
    """All shards of an experiment.

    Attributes:
        fingerprint: What they were made of: the settings, the seed, the files.
        tensors: What every shard to train on holds, by name.
        evaluation: What the others hold: the same, unless the source gives evaluation tensors of its own.
        clients: Each client's shards, in the clients' order: ``train`` always, the others where the client
            holds something out.
        test: The examples for evaluation on the host, if there are any.
    """

    fingerprint: str
    tensors: Mapping[str, TensorSpec]
    evaluation: Mapping[str, TensorSpec]
    clients: Mapping[str, Mapping[Part, Shard]]
    test: Shard | None

    def examples(self, part: Part = "train") -> int:
        """How many examples all clients have of one part."""
        return sum(parts[part].examples for parts in self.clients.values() if part in parts)


def encode(tensors: Tensors) -> bytes:
    """The content of a shard. The same tensors, in whatever order and layout, give the same bytes."""
    arrays = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    return save_safetensors(
        {name: a.astype(a.dtype.newbyteorder("<"), copy=False) for name, a in arrays.items()}
    )


def read_shard(shard: Shard) -> dict[str, Array]:
    """A shard's tensors, once its content is known to be what it was.

    Raises:
        DataError: The file is missing or damaged.
    """
    content = _verified(shard)
    if content is None:
        raise DataError(f"the shard {shard.path} is missing or damaged", hint="prepare the data again")
    try:
        return load_safetensors(content)
    except SafetensorError as error:
        raise DataError(f"{shard.path} is no safetensors file: {error}") from error


def write_shards(division: Division, directory: Path, fingerprint: str) -> ShardSet:
    """Write all shards that are not there yet, and the index.

    Args:
        division: Which examples go where.
        directory: Shared by all experiments. Made if it is missing, and then for this user alone (mode 0700):
            shards are people's data.
        fingerprint: Names the index.

    Raises:
        DataError: They cannot be written, the disk is full for example.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        clients: dict[str, dict[Part, Shard]] = {client: {} for client in division.clients}
        seen = _Specs(division)
        for client, part, tensors in division.shards():
            seen.add(part, tensors)
            clients[client][part] = _write(tensors, directory)
        test = _write(division.test, directory) if division.test is not None else None
        shards = ShardSet(fingerprint, seen.train, seen.evaluation, clients, test)
        index = json.dumps({"version": _VERSION, **_plain(shards)}, separators=(",", ":"))
        write_atomically(_index_path(directory, fingerprint), index.encode())
    except OSError as error:
        raise DataError(f"the shards cannot be written to {directory}: {error.strerror or error}") from error
    return shards


def read_index(directory: Path, fingerprint: str) -> ShardSet | None:
    """The shards of an earlier :func:`write_shards`; None if one of them is missing or damaged."""
    try:
        document = json.loads(_index_path(directory, fingerprint).read_bytes())
        if document.pop("version") != _VERSION or document["fingerprint"] != fingerprint:
            return None
        shards = _from_plain(document, directory)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    files = [shard for parts in shards.clients.values() for shard in parts.values()]
    files += [shards.test] if shards.test is not None else []
    return shards if all(_verified(shard) is not None for shard in files) else None


def _index_path(directory: Path, fingerprint: str) -> Path:
    return directory / f"{fingerprint}.json"


def _write(tensors: Tensors, directory: Path) -> Shard:
    content = encode(tensors)
    digest = hashlib.sha256(content).hexdigest()
    shard = Shard(directory / f"{digest}.safetensors", digest, len(content), count(tensors))
    if _verified(shard) is None:
        # Not synced one by one, which takes longer than making them: whoever reads one checks its hash.
        with replacing(shard.path, durable=False) as file:
            rest = memoryview(content)
            while rest:
                rest = rest[file.write(rest) :]
    return shard


def _verified(shard: Shard) -> bytes | None:
    """The content of a file, if it is what its name says."""
    try:
        if shard.path.stat().st_size != shard.size:
            return None
        content = shard.path.read_bytes()
    except OSError:
        return None
    return content if hashlib.sha256(content).hexdigest() == shard.sha256 else None


class _Specs:
    """What the shards hold.

    Where they hold the division's own rows that is known beforehand: ranges are those of all examples, of
    clients that are left out as well. What a view makes is looked at as it comes.
    """

    def __init__(self, division: Division) -> None:
        self.train: dict[str, TensorSpec] = {}
        self.evaluation: dict[str, TensorSpec] = {}
        self._viewed = division.view is not None
        if not self._viewed:
            self.train = _widened(self.train, division.tensors)
            if division.test is not None:
                self.train = _widened(self.train, division.test)
            self.evaluation = self.train

    def add(self, part: Part, tensors: Tensors) -> None:
        if not self._viewed:
            return
        checked(tensors, f"a shard to {'train on' if part == 'train' else 'evaluate'}")
        if part == "train":
            self.train = _widened(self.train, tensors)
        else:
            self.evaluation = _widened(self.evaluation, tensors)


def _widened(specs: Mapping[str, TensorSpec], tensors: Tensors) -> dict[str, TensorSpec]:
    """The specs, their ranges widened to take in some more tensors."""
    wider = {}
    for name, array in tensors.items():
        limits = None
        if array.dtype.kind == "i":
            known = specs[name].range if name in specs else None
            values = (int(array.min()), int(array.max()), *(known or ()))
            limits = (min(values), max(values))
        wider[name] = TensorSpec(array.dtype.name, array.shape[1:], limits)
        if name in specs and (specs[name].dtype, specs[name].shape) != (wider[name].dtype, wider[name].shape):
            raise DataError(f"{name!r} is not of one type and shape in all shards")
    return wider


def _plain(shards: ShardSet) -> dict[str, Any]:
    def file(shard: Shard) -> list[Any]:
        return [shard.sha256, shard.size, shard.examples]

    return {
        "fingerprint": shards.fingerprint,
        "tensors": {name: asdict(spec) for name, spec in shards.tensors.items()},
        "evaluation": {name: asdict(spec) for name, spec in shards.evaluation.items()},
        "clients": {c: {p: file(s) for p, s in parts.items()} for c, parts in shards.clients.items()},
        "test": file(shards.test) if shards.test is not None else None,
    }


def _from_plain(document: Mapping[str, Any], directory: Path) -> ShardSet:
    def file(entry: Iterable[Any]) -> Shard:
        digest, size, examples = entry
        return Shard(directory / f"{digest}.safetensors", digest, size, examples)

    def specs(entries: Mapping[str, Any]) -> dict[str, TensorSpec]:
        return {
            name: TensorSpec(
                spec["dtype"], tuple(spec["shape"]), None if spec["range"] is None else tuple(spec["range"])
            )
            for name, spec in entries.items()
        }

    return ShardSet(
        document["fingerprint"],
        specs(document["tensors"]),
        specs(document["evaluation"]),
        {c: {p: file(parts[p]) for p in PARTS if p in parts} for c, parts in document["clients"].items()},
        file(document["test"]) if document["test"] is not None else None,
    )
