"""What a client hands back, as docs/runner.md defines it: for whoever does a runner's work on this host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devicelab.plans.signature import Role, Signature

__all__ = ["clipped_delta"]

Array = NDArray[Any]
Arrays = Mapping[str, Array]


def clipped_delta(
    signature: Signature, first: Arrays, last: Arrays, clip_norm: float | None
) -> tuple[dict[str, Array], float]:
    """A client's delta, and its L2 norm before it was scaled down.

    Args:
        signature: Of the training plan.
        first: The values that the client began with, by input name.
        last: The trained ones, as long in the first dimension.
        clip_norm: The largest norm that a delta may have; None: any.

    Returns:
        Trained minus first value, by input name, of shared inputs of floating point only, in their own type.
    """
    shared = signature.with_role(Role.PARAMETER, Role.BUFFER)
    delta = {i.name: last[i.name] - first[i.name] for i in shared if i.dtype.startswith("float")}
    norm = float(np.sqrt(sum(np.square(each, dtype=np.float64).sum() for each in delta.values())))
    if clip_norm is not None and norm > clip_norm:
        scale = clip_norm / norm
        delta = {name: (each.astype(np.float64) * scale).astype(each.dtype) for name, each in delta.items()}
    return delta, norm
