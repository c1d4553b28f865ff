"""Checkpoint files: safetensors whose bytes depend on their content alone.

The same tensors and the same facts make the same file: no time, no run, no order of arrival is in it. So two
runs with the same seeds can be compared by the SHA-256 of their checkpoints.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from devicelab.errors import StoreError

__all__ = ["CheckpointFacts", "checkpoint_name", "decode_tensors", "encode_tensors", "read_facts"]

_KEY: Final = "devicelab"


@dataclass(frozen=True, slots=True)
class CheckpointFacts:
    """What a checkpoint says of itself in its header.

    Attributes:
        experiment: The experiment's name.
        seed: The experiment's.
        round: After which round; 0: the initial model.
        plan_sha256: Of the training plan.
    """

    experiment: str
    seed: int
    round: int
    plan_sha256: str


def checkpoint_name(number: int) -> str:
    """A checkpoint's path in its run's directory."""
    return f"checkpoints/round-{number:04}.safetensors"


def encode_tensors(tensors: Mapping[str, NDArray[Any]], facts: CheckpointFacts | None = None) -> bytes:
    """A safetensors file, as bytes.

    Args:
        tensors: By name; the library sorts them by type and name.
        facts: For the header.
    """
    from safetensors.numpy import save  # noqa: PLC0415 - who only lists runs does not need it

    # One entry, for the library writes several in an order of chance.
    metadata = None if facts is None else {_KEY: json.dumps(_plain(facts), sort_keys=True)}
    return save({name: np.asarray(tensor, order="C") for name, tensor in sorted(tensors.items())}, metadata)


def _plain(facts: CheckpointFacts) -> dict[str, object]:
    return {
        "experiment": facts.experiment,
        "seed": facts.seed,
        "round": facts.round,
        "plan_sha256": facts.plan_sha256,
    }


def decode_tensors(content: bytes, where: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a safetensors file.

    Args:
        content: The file.
        where: Its path, for the error.

    Raises:
        StoreError: It is damaged.
    """
    from safetensors import SafetensorError  # noqa: PLC0415 - see above
    from safetensors.numpy import load  # noqa: PLC0415

    try:
        return load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise StoreError(f"{where} is no safetensors file: {error}", hint="restore it from a copy") from error


def read_facts(path: Path) -> CheckpointFacts | None:
    """What a checkpoint says of itself; None if it is a safetensors file of somebody else.

    Raises:
        StoreError: It cannot be read, or is no safetensors file.
    """
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - see above

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
        plain = json.loads(metadata[_KEY])
        return CheckpointFacts(
            str(plain["experiment"]), int(plain["seed"]), int(plain["round"]), str(plain["plan_sha256"])
        )
    except (SafetensorError, OSError) as error:
        raise StoreError(f"{path} is no safetensors file: {error}") from error
    except (KeyError, TypeError, ValueError):
        return None
