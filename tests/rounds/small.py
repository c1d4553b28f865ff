"""Small experiments on real data, and the labs that run them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from devicelab.adb.sync_protocol import FileEntry
from devicelab.devices.device import Device
from devicelab.lab import Lab
from devicelab.runner.layout import CACHE, JOBS
from devicelab.store.run import RunReader
from devicelab.virtual.client import VirtualPhone

__all__ = ["Arrays", "experiment_file", "lab_of", "left_on", "models"]

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


def experiment_file(directory: Path, **changes: str) -> Path:
    """An experiment of six clients with some of the digits each.

    Args:
        directory: Where to write it.
        changes: YAML that replaces a whole section, by the section's name.
    """
    sections = dict(_sections(_TEXT))
    for name, yaml in changes.items():
        sections[name] = f"{name}:\n{textwrap.indent(textwrap.dedent(yaml).strip(), '  ')}\n"
    path = directory / "small.yaml"
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
