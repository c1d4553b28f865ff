"""Tables whose rows are named by the data: a client with 200 of 28,000 items needs 200 rows of them.

What a plan's signature says of tables, and the arithmetic of row numbers. No PyTorch in here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from devicelab.plans.ports import CARRIED, Input, Role, Shape, require

__all__ = [
    "ROWS_PREFIX",
    "Table",
    "check_tables",
    "open_rows",
    "open_shape",
    "renumbered",
    "row_numbers",
    "tables_of",
]

ROWS_PREFIX: Final = "rows/"
"""Before a table's name: what tensors of a parameters file are called that list which of its rows are there."""

Array = np.ndarray[Any, Any]

_TABLE_ROLES = (Role.PARAMETER, Role.STATE, Role.ANCHOR)


@dataclass(frozen=True, slots=True)
class Table:
    """Parameters with a row for each of the same things, and the data that say which.

    Attributes:
        rows: How many rows there are in all.
        parameters: Names of the parameter inputs, in the signature's order; state and anchors not among them.
        data: Labels of the data inputs whose values are row numbers.
    """

    rows: int
    parameters: tuple[str, ...]
    data: tuple[str, ...]


def open_rows(table: str) -> str:
    """What a graph calls the number of rows of a table, which is open there: ``rows.item``."""
    return f"rows.{table}"


def open_shape(shape: Shape, table: str | None) -> Shape:
    """The sizes of a tensor in the graph, if it has the rows of a table; as they are if it is of none."""
    return shape if table is None else (open_rows(table), *shape[1:])


def tables_of(inputs: Iterable[Input]) -> dict[str, Table]:
    """The tables of a plan by name, in the order in which its inputs name them; the inputs are valid."""
    members: dict[str, list[Input]] = {}
    for i in inputs:
        if i.rows is not None:
            members.setdefault(i.rows, []).append(i)
    found = {}
    for name, ports in members.items():
        parameters = [i for i in ports if i.role is Role.PARAMETER]
        labels = tuple(i.label for i in ports if i.role is Role.DATA)
        found[name] = Table(int(parameters[0].shape[0]), tuple(i.name for i in parameters), labels)
    return found


def check_tables(inputs: Sequence[Input]) -> None:
    """Hold what the inputs say of tables against each other.

    Raises:
        PlanError: They contradict each other, or what they say is not possible.
    """
    members: dict[str, list[Input]] = {}
    for i in inputs:
        taken = i.role in CARRIED and i.name.startswith(ROWS_PREFIX)
        require(
            not taken, f"{i.role.value} {i.name!r}: names that begin with {ROWS_PREFIX} are for lists of rows"
        )
        if i.rows is not None:
            _check_member(i)
            members.setdefault(i.rows, []).append(i)
    tables = {i.name: i.rows for i in inputs}
    for i in inputs:
        same = i.of is None or i.rows == tables[i.of]
        require(same, f"anchor {i.name!r} and its parameter {i.of!r} are not of the same table")
    for name, ports in members.items():
        for role in (Role.PARAMETER, Role.DATA):
            some = any(i.role is role for i in ports)
            require(some, f"table {name!r} has no {'parameter' if role is Role.PARAMETER else 'data'}")
        sizes = {i.shape[0]: i.name for i in ports if i.role is not Role.DATA}
        some_rows = " and ".join(f"{size} in {port!r}" for size, port in sizes.items())
        require(len(sizes) == 1, f"the parts of table {name!r} have different numbers of rows: {some_rows}")
        rows = next(iter(sizes))
        for i in ports:
            within = i.range is None or 0 <= i.range[0] <= i.range[1] < int(rows)
            require(within, f"data {i.name!r} name rows that table {name!r} has not, which has {rows}")


def _check_member(i: Input) -> None:
    name = i.rows or ""
    good = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name)
    require(good is not None, f"input {i.name!r}: {name!r:.80} is no name for a table")
    if i.role is Role.DATA:
        whole = i.dtype in ("int64", "int32")
        require(whole, f"data {i.name!r} is {i.dtype}, row numbers of table {name!r} are whole numbers")
        return
    require(
        i.role is not Role.PRIVATE, f"private {i.name!r} cannot have rows of a table: it stays whole at home"
    )
    require(i.role in _TABLE_ROLES, f"input {i.name!r} with the role {i.role.value!r} cannot belong to a table")
    sized = len(i.shape) > 0 and i.shape[0] != 0
    require(sized, f"{i.role.value} {i.name!r} has no rows, so it cannot belong to table {name!r}")


def row_numbers(ids: Iterable[Array]) -> Array:
    """The rows that some data name, each once: int64 [n], ascending."""
    parts = [np.asarray(part, dtype=np.int64).ravel() for part in ids]
    return np.unique(np.concatenate([np.empty(0, dtype=np.int64), *parts]))


def renumbered(ids: Array, rows: Array) -> Array:
    """Row numbers of a whole table as places among some of its rows.

    Args:
        ids: Integers of any shape.
        rows: int64 [n], strictly ascending.

    Returns:
        For each id its place in ``rows``; type and shape are those of ``ids``.

    Raises:
        ValueError: An id is not among the rows; its message has the first such.
    """
    places = np.searchsorted(rows, ids)
    found = np.zeros(ids.shape, dtype=bool)
    inside = places < len(rows)
    found[inside] = rows[places[inside]] == ids[inside]
    if not found.all():
        raise ValueError(f"row {ids[~found].flat[0]} is not among the {len(rows)} rows")
    return places.astype(ids.dtype)
