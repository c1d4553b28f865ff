"""scikit-learn's handwritten digits (Alpaydin & Kaynak 1998): 1,797 pictures of 8 by 8, inside the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from devicelab.config.data import DigitsData
from devicelab.data.examples import Dataset

__all__ = ["load"]


def load(config: DigitsData, *, seed: int, directory: Path) -> Dataset:
    """``x`` float32 (examples, 64) from 0 to 1, ``label`` int64 (examples,) from 0 to 9."""
    del config, seed, directory
    from sklearn.datasets import load_digits  # noqa: PLC0415 - takes more than a second, for data that are cached

    digits = load_digits()
    return Dataset({"x": (digits.data / 16).astype(np.float32), "label": digits.target.astype(np.int64)})
