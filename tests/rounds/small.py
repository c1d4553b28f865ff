"""Small experiments on real data, and the labs that run them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devicelab.adb.sync_protocol import FileEntry
from devicelab.devices.device import Device
from devicelab.lab import Lab
from devicelab.runner.layout import CACHE, JOBS
from devicelab.store.run import RunReader
from devicelab.virtual.client import VirtualPhone

__all__ = ["Arrays", "experiment_file", "lab_of", "left_on", "models", "private_experiment_file"]

Arrays = dict[str, NDArray[Any]]

_TEXT = """\
name: small
seed: 11
plan:
  class: devicelab.plans.zoo:MLP
data:
  source: digits
  partition: {by: dirichlet, clients: 6, alpha: 1.0, min_examples: 20}
  test: 0.8
round:
  rounds: 3
  clients: {number: 4}
  epochs: 1
  batch_size: 16
  hyper: {lr: 0.2}
  deadline: 120s
evaluation:
  every: 0
"""


_PRIVATE = """\
name: private
seed: 5
plan:
  class: devicelab.plans.zoo:MatrixFactorization
  args: {users: 1, items: 30, width: 4}
data:
  source: csv
  path: ratings.csv
  partition: {by: natural, key: owner}
  tensors:
    user: {columns: nobody, dtype: int64}
    item: {columns: item, dtype: int64}
    rating: {columns: rating}
round:
  rounds: 2
  clients: {fraction: 1.0}
  epochs: 2
  batch_size: 4
  hyper: {lr: 0.1}
  deadline: 120s
  quorum: 1.0
evaluation:
  every: 0
"""


def experiment_file(directory: Path, **changes: str) -> Path:
    """An experiment of six clients with some of the digits each.

    Args:
        directory: Where to write it.
        changes: YAML that replaces a whole section, by the section's name.
    """
    return _written(directory / "small.yaml", _TEXT, changes)


def private_experiment_file(directory: Path, **changes: str) -> Path:
    """An experiment of six people who rate things and keep their own factors on their phones.

    Every number of the model depends on what they kept in the rounds before. All six must be there.
    """
    rng = np.random.default_rng(3)
    lines = ["owner,nobody,item,rating"]
    for owner in range(6):
        items = rng.choice(30, size=9 + owner, replace=False)
        lines += [f"p{owner},0,{item},{rng.integers(1, 6)}" for item in items]
    (directory / "ratings.csv").write_text("\n".join(lines) + "\n")
    return _written(directory / "private.yaml", _PRIVATE, changes)


def _written(path: Path, text: str, changes: Mapping[str, str]) -> Path:
    sections = dict(_sections(text))
    for name, yaml in changes.items():
        sections[name] = f"{name}:\n{textwrap.indent(textwrap.dedent(yaml).strip(), '  ')}\n"
    path.write_text("".join(sections.values()))
    return path


def _sections(text: str) -> Iterator[tuple[str, str]]:
    name, lines = "", list[str]()
    for line in text.splitlines(keepends=True):
        if not line.startswith(" ") and lines:
            yield name, "".join(lines)
            lines = []
        if not line.startswith(" "):
            name = line.partition(":")[0]
        lines.append(line)
    yield name, "".join(lines)


@contextmanager
def lab_of(phones: Sequence[VirtualPhone], state: Path) -> Iterator[Lab]:
    """A lab of these phones, with a state directory of its own."""
    with Lab(state, transport="direct", addresses=[phone.address for phone in phones], patience=30.0) as lab:
        yield lab


def left_on(device: Device) -> list[str]:
    """What is on a device that no job should leave there."""
    jobs: list[FileEntry] = device.listing(JOBS)
    parts = [entry.name for entry in device.listing(CACHE) if len(entry.name) != 64]
    return [entry.name for entry in jobs] + parts


def models(run: Path) -> list[Arrays]:
    """The global models of a run, the initial one first."""
    with RunReader(run) as reader:
        return [reader.load_checkpoint(each) for each in reader.ledger.checkpoints()]
