"""Map-style datasets of the user's own code, such as PyTorch's. PyTorch itself is not needed here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from devicelab.config.data import NaturalPartition, TorchData
from devicelab.data.examples import Array, Dataset
from devicelab.dotted import build, describe_failure
from devicelab.errors import DataError

__all__ = ["load"]

_PYTHON: Final = {"int64": "int64", "float64": "float32", "bool": "bool"}  # as PyTorch's default_collate does


def load(config: TorchData, *, seed: int, directory: Path) -> Dataset:
    """Every example of the dataset, in its order; the tensor that names owners is no part of the shards."""
    del seed
    make = config.dataset
    tensors = _collected(build(make, config.args, directory, where="data.dataset"), config.names, make)
    test = None
    if config.test_args is not None:
        dataset = build(make, config.test_args, directory, where="data.dataset", args_where="data.test_args")
        test = _collected(dataset, config.names, f"{make} (test)")
    key = config.partition.key if isinstance(config.partition, NaturalPartition) else None
    if key is None:
        return Dataset(tensors, None, None, test)
    if key not in tensors:
        raise DataError(f"data.partition.key: {make} yields no {key!r}, only {', '.join(tensors)}")
    owners = tensors.pop(key)
    if owners.ndim != 1 or owners.dtype.kind not in "iuU":
        raise DataError(
            f"{make}: {key!r} is {owners.dtype}{list(owners.shape)}, not one whole number or text each"
        )
    if test is not None:
        test.pop(key, None)
    return Dataset(tensors, owners, None, test)


def _collected(dataset: Any, names: Sequence[str], what: str) -> dict[str, Array]:  # noqa: ANN401 - the user's
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise DataError(f"{what} makes a {type(dataset).__name__}, which has no length or no items")
    columns: dict[str, list[Array]] = {}
    for n in range(len(dataset)):
        try:
            item = dataset[n]
        except Exception as error:  # the user's code may raise anything
            raise DataError(f"{what}, example {n}: {describe_failure(error)}") from error
        example = _named(item, names, f"{what}, example {n}")
        if n == 0:
            columns = {name: [] for name in example}
        if set(example) != set(columns):
            raise DataError(f"{what}, example {n} holds {', '.join(example)}, the first {', '.join(columns)}")
        for name, value in example.items():
            array = np.asarray(value)
            columns[name].append(array)
            if _kind(array) != (first := _kind(columns[name][0])):
                raise DataError(f"{what}, example {n}: {name!r} is {_kind(array)}, the first is {first}")
    return {name: np.stack(arrays) for name, arrays in columns.items()}


def _kind(array: Array) -> str:
    return f"{'text' if array.dtype.kind == 'U' else array.dtype}{list(array.shape)}"


def _named(example: object, names: Sequence[str], what: str) -> dict[str, object]:
    if isinstance(example, Mapping):
        values = {str(name): value for name, value in example.items()}
    else:
        parts = list(example) if isinstance(example, tuple | list) else [example]
        if len(parts) != len(names):
            raise DataError(
                f"{what} has {len(parts)} parts, but data.names {len(names)}: {', '.join(names)}",
                hint="name each part, in order",
            )
        values = dict(zip(names, parts, strict=True))
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: object) -> object:
    """Python's own numbers in the type that PyTorch would give them."""
    if isinstance(value, bool | int | float):
        return np.asarray(value, dtype=_PYTHON[np.asarray(value).dtype.name])
    return value
