"""Raw columns and arrays become tensors of a plan's types, exactly or not at all."""

from __future__ import annotations

from typing import Final

import numpy as np

from devicelab.data.examples import Array
from devicelab.errors import DataError

__all__ = ["categories_of", "categorize", "convert"]

_TRUTHS: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def convert(raw: Array, dtype: str, what: str) -> Array:
    """An array of the wanted type.

    Text is read as numbers; numbers change their type if none of them changes its value, but for rounding to a
    floating-point type.

    Args:
        raw: Text (kind ``U``), numbers or truth values.
        dtype: One of a plan's types.
        what: What it is, for messages.

    Raises:
        DataError: A value is no such number; names the first one and its place.
    """
    wanted = np.dtype(dtype)
    if raw.dtype.kind == "U":
        return _parsed(raw, wanted, what)
    if raw.dtype.kind not in "iufb":
        raise DataError(f"{what} holds {raw.dtype}, which cannot become {dtype}")
    if raw.dtype == wanted:
        return raw
    if wanted.kind == "f":
        return raw.astype(wanted)
    if raw.dtype.kind == "f" and not np.isfinite(raw).all():
        raise DataError(f"{what} holds NaN or infinite values, which cannot become {dtype}")
    with np.errstate(invalid="ignore", over="ignore"):
        result = raw.astype(wanted)
    wrong = result.astype(np.longdouble) != raw.astype(np.longdouble)
    if wrong.any():
        place = int(np.flatnonzero(wrong.reshape(len(raw), -1).any(axis=1))[0])
        raise DataError(f"{what} holds {raw[wrong][0]} (example {place}, from 0), which is no {dtype}")
    return result


def _parsed(raw: Array, wanted: np.dtype[np.generic], what: str) -> Array:
    try:
        if wanted.kind == "f":
            return raw.astype(np.float64).astype(wanted)
        read = _truth if wanted.kind == "b" else int
        flat = [read(text) for text in raw.ravel().tolist()]
        return np.array(flat, dtype=wanted).reshape(raw.shape)
    except (ValueError, OverflowError):
        place, text = next((n, text) for n, text in enumerate(raw.ravel().tolist()) if not _fits(text, wanted))
        shown = repr(text[:40]) if text.strip() else "an empty value"
        raise DataError(f"{what} holds {shown} (example {place}, from 0), which is no {wanted}") from None


def _fits(text: str, wanted: np.dtype[np.generic]) -> bool:
    try:
        if wanted.kind == "f":
            float(text)
        elif wanted.kind == "b":
            _truth(text)
        else:
            limits = np.iinfo(wanted.name)
            return bool(limits.min <= int(text) <= limits.max)
    except ValueError:
        return False
    return True


def _truth(text: str) -> bool:
    found = _TRUTHS.get(text.strip().lower())
    if found is None:
        raise ValueError(text)
    return found


def categories_of(raw: Array) -> Array:
    """The distinct values in order: as numbers where all of them are whole numbers, else as text."""
    found = np.unique(raw)
    if found.dtype.kind == "U":
        try:
            return np.array(sorted(found.tolist(), key=int))
        except ValueError:
            return found
    return found


def categorize(raw: Array, categories: Array, what: str) -> Array:
    """Each value's place among the categories, int64.

    Raises:
        DataError: A value is none of them.
    """
    order = np.argsort(categories, kind="stable")
    places = np.searchsorted(categories[order], raw).clip(max=len(categories) - 1)
    result: Array = order[places].astype(np.int64)
    wrong = categories[result] != raw
    if wrong.any():
        raise DataError(
            f"{what} holds {raw[wrong][0]!s:.40}, which is none of its {len(categories)} categories"
        )
    return result
