"""Tensors in pieces that stay in the processor's cache, so that several passes cost one trip to memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["CHUNK", "finite", "flat", "spans"]

# 32,768 numbers: 256 KiB in double precision, so that three such buffers fit a second-level cache of 1 MiB, and
# long enough that NumPy's fixed cost a call is below a tenth.
CHUNK: Final = 1 << 15


def flat(tensor: NDArray[Any]) -> NDArray[Any]:
    """The tensor in one dimension: a view where its memory is contiguous, else a copy."""
    return tensor.reshape(-1)


def spans(size: int, step: int = CHUNK) -> Iterator[slice]:
    """Slices that cover ``size`` numbers, each of at most ``step``."""
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))


def finite(tensor: NDArray[Any]) -> bool:
    """Whether there is neither NaN nor infinity in it."""
    numbers = flat(tensor)
    return all(bool(np.isfinite(numbers[span]).all()) for span in spans(numbers.size))
