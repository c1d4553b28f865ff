"""Sub-tables: of an embedding table a job gets, trains and returns only the rows that its clients' data name.

The host makes the shards and so knows what is in them. Which rows a job has follows from its clients alone:
whoever asks again, in a resumed round or when its update is averaged, gets the same ones, so they are kept
nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devicelab.aggregation.update import Rows
from devicelab.data.examples import Part
from devicelab.data.shards import Shard, read_shard
from devicelab.plans.build import PlanFile
from devicelab.plans.signature import Signature, Table
from devicelab.plans.tables import ROWS_PREFIX, row_numbers
from devicelab.rounds.setup import Setup

__all__ = ["Numbers", "Subtables", "cut", "rows_of"]

Numbers = Mapping[str, NDArray[np.int64]]
"""Numbers of rows by table, each int64 [n], strictly ascending; a table that is not in it is whole."""


class Subtables:
    """Knows which rows the data of some clients name. Every shard is read once at most.

    Args:
        setup: The experiment, its plan and its data.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._known: dict[tuple[str, tuple[str, ...]], NDArray[np.int64]] = {}

    def of_training(self, clients: Sequence[str]) -> Numbers:
        """The rows that what these clients train on names; none of any table if whole tables are wanted.

        Raises:
            DataError: A shard is missing or damaged.
        """
        return self._of(self._setup.plans.train, clients, "train")

    def of_evaluation(self, clients: Sequence[str]) -> Numbers:
        """The rows that what these clients hold out names, of the tables that the evaluation plan declares.

        Raises:
            DataError: A shard is missing or damaged.
        """
        return self._of(self._setup.plans.evaluate, clients, self._setup.experiment.evaluation.split)

    def _of(self, plan: PlanFile | None, clients: Sequence[str], part: Part) -> Numbers:
        if plan is None or not self._setup.experiment.round.subtables:
            return {}
        shards = [self._setup.shards.clients[client][part] for client in clients]
        return {
            name: row_numbers(self._named(shard, table) for shard in shards)
            for name, table in plan.signature.tables.items()
        }

    def _named(self, shard: Shard, table: Table) -> NDArray[np.int64]:
        key = shard.sha256, table.data
        if key not in self._known:
            data = read_shard(shard)
            self._known[key] = row_numbers(data[label] for label in table.data)
        return self._known[key]


def cut(tensors: Mapping[str, NDArray[Any]], signature: Signature, numbers: Numbers) -> dict[str, NDArray[Any]]:
    """The tensors, those of tables with some of their rows only, and ``rows/<table>`` that says which.

    Args:
        tensors: Parameters and buffers by input name.
        signature: Of the plan that takes them.
        numbers: Which rows.
    """
    found = dict(tensors)
    for name, rows in numbers.items():
        found |= {each: tensors[each][rows] for each in signature.tables[name].parameters}
        found[f"{ROWS_PREFIX}{name}"] = rows
    return found


def rows_of(signature: Signature, numbers: Numbers) -> dict[str, Rows]:
    """Which rows an update has, by the tensor's name.

    Args:
        signature: Of the plan that was trained.
        numbers: Which rows its job had.
    """
    tables = {name: signature.tables[name] for name in numbers}
    return {
        each: Rows(numbers[name], table.rows) for name, table in tables.items() for each in table.parameters
    }
