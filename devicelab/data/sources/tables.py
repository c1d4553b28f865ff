"""Tables of the user, CSV and Parquet: columns become tensors."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from devicelab.config.data import ColumnTensor, CsvData, NaturalPartition, ParquetData
from devicelab.data.examples import Array, Dataset
from devicelab.data.sources.conversion import categories_of, categorize, convert
from devicelab.dotted import nearest
from devicelab.errors import ConfigError, DataError
from devicelab.files import require_regular

__all__ = ["load"]

Table = Mapping[str, Array]
"""Columns by name, text or numbers, in the file's order."""

_Read = Callable[[Path, Callable[[Sequence[str]], list[str]]], Table]


def load(config: CsvData | ParquetData, *, seed: int, directory: Path) -> Dataset:
    """The tensors that the settings describe, and the owner's column if one is named."""
    del seed, directory
    key = config.partition.key if isinstance(config.partition, NaturalPartition) else None
    read: _Read = (
        partial(_read_csv, delimiter=config.delimiter) if isinstance(config, CsvData) else _read_parquet
    )
    table = read(config.path, lambda names: _wanted(config.tensors, key, names, config.path))
    categories = {
        name: categories_of(table[str(spec.columns)])
        for name, spec in config.tensors.items()
        if spec.dtype == "category" and isinstance(spec.columns, str)
    }
    owners = table[key] if key is not None else None
    test = None
    if config.test_path is not None:
        test_path = config.test_path
        test_table = read(test_path, lambda names: _wanted(config.tensors, None, names, test_path))
        test = _tensors(test_table, config.tensors, categories, test_path)
    return Dataset(_tensors(table, config.tensors, categories, config.path), owners, None, test)


def _tensors(
    table: Table, specs: Mapping[str, ColumnTensor], categories: Mapping[str, Array], path: Path
) -> dict[str, Array]:
    tensors: dict[str, Array] = {}
    for name, spec in specs.items():
        columns = _columns(spec, list(table), name, path)
        if spec.dtype == "category":
            if name not in categories:
                raise ConfigError(f"data.tensors.{name}: a category is one column, not a list")
            tensors[name] = categorize(table[columns[0]], categories[name], f"{path}, column {columns[0]!r}")
            continue
        arrays = [convert(table[c], spec.dtype, f"{path}, column {c!r}") for c in columns]
        tensors[name] = arrays[0] if isinstance(spec.columns, str) else np.stack(arrays, axis=1)
    return tensors


def _wanted(specs: Mapping[str, ColumnTensor], key: str | None, names: Sequence[str], path: Path) -> list[str]:
    """The columns that are needed, in the file's order."""
    needed = {column for name, spec in specs.items() for column in _columns(spec, names, name, path)}
    if key is not None:
        if key not in names:
            raise ConfigError(f"data.partition.key: {path} has no column {key!r}{nearest(key, names)}")
        needed.add(key)
    return [name for name in names if name in needed]


def _columns(spec: ColumnTensor, names: Sequence[str], tensor: str, path: Path) -> list[str]:
    """The columns of one tensor; those that a pattern means are in the file's order."""
    found: list[str] = []
    for pattern in (spec.columns,) if isinstance(spec.columns, str) else spec.columns:
        if pattern in names:
            found.append(pattern)
            continue
        matches = [] if isinstance(spec.columns, str) else [n for n in names if fnmatchcase(n, pattern)]
        if not matches:
            where = f"data.tensors.{tensor}.columns"
            raise ConfigError(f"{where}: {path} has no column {pattern!r}{nearest(pattern, names)}")
        found += matches
    return found


def _read_csv(path: Path, choose: Callable[[Sequence[str]], list[str]], delimiter: str) -> Table:
    require_regular(path, "data.path")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _parse_csv(csv.reader(file, delimiter=delimiter, strict=True), choose, path)
    except OSError as error:
        raise ConfigError(f"data.path: {path} cannot be read: {error.strerror or error}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no CSV file in UTF-8: {error}") from error


def _parse_csv(rows: Any, choose: Callable[[Sequence[str]], list[str]], path: Path) -> Table:  # noqa: ANN401 - csv has no public type
    header = [name.strip() for name in next(rows, [])]
    if not header:
        raise DataError(f"{path} is empty")
    _check_names(header, path)
    names = choose(header)
    places = [header.index(name) for name in names]
    columns: list[list[str]] = [[] for _ in names]
    for row in rows:
        if len(row) != len(header):
            if not row:
                continue  # an empty line, as at the end of many files
            raise DataError(f"{path}, line {rows.line_num}: {len(row)} values, the header has {len(header)}")
        for column, place in zip(columns, places, strict=True):
            column.append(row[place])
    return {name: np.array(column, dtype=np.str_) for name, column in zip(names, columns, strict=True)}


def _read_parquet(path: Path, choose: Callable[[Sequence[str]], list[str]]) -> Table:
    try:
        import pyarrow  # noqa: PLC0415 - an extra
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            "reading Parquet needs the pyarrow package", hint="pip install 'devicelab[parquet]'"
        ) from error
    require_regular(path, "data.path")
    try:
        names = parquet.read_schema(path).names
        _check_names(names, path)
        table = parquet.read_table(path, columns=choose(names))
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path} is no Parquet file: {error}") from error
    except OSError as error:
        raise ConfigError(f"data.path: {path} cannot be read: {error.strerror or error}") from error
    return {name: _from_arrow(table.column(name), f"{path}, column {name!r}") for name in table.column_names}


def _from_arrow(column: Any, what: str) -> Array:  # noqa: ANN401 - pyarrow has no types
    if column.null_count:
        raise DataError(f"{what} lacks {column.null_count} of {len(column)} values")
    array: Array = np.asarray(column.to_numpy())
    if array.dtype == object:
        values = array.tolist()
        if not all(isinstance(value, str) for value in values):
            raise DataError(f"{what} holds {column.type}, neither numbers nor text")
        return np.array(values, dtype=np.str_)
    return array


def _check_names(names: Iterable[str], path: Path) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DataError(f"{path} has two columns {name!r}")
        seen.add(name)
