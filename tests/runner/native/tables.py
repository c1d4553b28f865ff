"""Jobs that have some rows of a table, made of jobs that have the whole table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from devicelab.plans.tables import ROWS_PREFIX, row_numbers
from tests.runner.native.bench import Bench, Exported

Array = np.ndarray[Any, Any]
Arrays = Mapping[str, Array]
TABLE = "item"


def rows_of(shards: Sequence[Arrays], *more: int) -> Array:
    """The rows that some shards name, and others."""
    return row_numbers([*(shard[TABLE] for shard in shards), np.array(more, np.int64)])


def some_rows(plan: Exported, values: Arrays, rows: Array) -> dict[str, Array]:
    """A parameters file with these rows of the table."""
    tables = {i.name for i in plan.signature.inputs if i.rows == TABLE}
    parts = {name: array[rows] if name in tables else array for name, array in values.items()}
    return {**parts, f"{ROWS_PREFIX}{TABLE}": rows}


def cut(bench: Bench, plan: Exported, job: Mapping[str, Any], rows: Array) -> dict[str, Any]:
    """A job that has whole tables as one that has these rows."""
    return {**job, "parameters": bench.tensors("some.safetensors", some_rows(plan, plan.initial, rows))}
