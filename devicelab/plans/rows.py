"""The check that every plan with tables must pass: a client needs no other rows than its data name.

A client is made up, with a few examples. It trains several steps on whole tables, and beside that on nothing
but the rows that its data name and some more. Each step must come to the same in the rows that both have, and
leave all others as they are, to the last bit.

Its rows are numbered backwards, and those that it has not hold other numbers than the model's: so a step that
gives one row number a meaning of its own (``padding_idx``), or reads a row that is not named, is found out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch

from devicelab.errors import PlanError, RowsError
from devicelab.plans.check import Runner, compare
from devicelab.plans.signature import Input, Role, Signature
from devicelab.plans.step import Step
from devicelab.plans.tables import renumbered, row_numbers

__all__ = ["check_rows", "first_client"]

Array = np.ndarray[Any, Any]
Arrays = Mapping[str, Array]

_SIZES: Final = (5, 1, 3)
_MOST_SPARE: Final = 100  # rows that a client has though its data do not name them
_HINT: Final = (
    "weight decay changes all rows, a softmax or a mean over all items reads them, and `padding_idx` gives one "
    "of them a meaning; without `tables` in the plan they are sent whole"
)


def first_client(step: Step, signature: Signature, seed: int) -> tuple[dict[str, Array], dict[str, Array]]:
    """A client to check with: the first value of all inputs but data, by name, and its data by label.

    Among its examples are those of the example batch that name the first and the last row.
    """
    known = step.initial_arrays()
    values: dict[str, Array] = {}
    for i in signature.inputs:
        if i.role is Role.HYPER:
            values[i.name] = np.asarray(seed if i.label == "seed" else i.default, dtype=i.dtype)
        elif i.role is Role.ANCHOR:
            values[i.name] = step.initial[i.name].numpy()
        elif i.role is not Role.DATA:
            values[i.name] = known[i.name]
    ends = []
    for table in signature.tables.values():
        for label in table.data:
            ids = step.example[label].reshape(len(step.example[label]), -1)
            if ids.numel():
                ends += [int(ids.amin(1).argmin()), int(ids.amax(1).argmax())]
    chosen = torch.tensor(sorted(set(ends)), dtype=torch.int64)
    drawn = step.plan.random_batch(signature.batch or 4, torch.Generator().manual_seed(seed), step.kind)
    data = {label: torch.cat([step.example[label][chosen], drawn[label][:2]]) for label in drawn}
    return values, {label: tensor.numpy() for label, tensor in data.items()}


def check_rows(
    runner: Runner, signature: Signature, values: Arrays, data: Arrays, *, engine: str, seed: int = 0
) -> None:
    """Compare steps on some rows of a plan's tables with steps on all of them.

    Args:
        runner: Runs the plan: inputs by name to outputs by name.
        signature: The plan's; without tables there is nothing to check.
        values: First value of every input that is no data, by name; state is zero.
        data: Examples of a client, by label.
        engine: What the runner is, for the message.
        seed: Of the choice of examples and rows.

    Raises:
        RowsError: A step reads or changes rows that the data do not name; says which result shows it.
    """
    if not signature.tables:
        return
    generator = np.random.default_rng(seed)
    alone = {label: array[-1:] for label, array in data.items()}
    for examples, spare in ((data, _MOST_SPARE), (alone, 0)):
        _Client(runner, signature, examples, spare=spare, generator=generator, engine=engine).train(values)


class _Client:
    """Somebody with some rows.

    Attributes:
        rows: By table, those that it has: first the ones that its data name, from the last to the first.
        others: By table, those that it has not.
    """

    def __init__(
        self,
        runner: Runner,
        signature: Signature,
        data: Arrays,
        *,
        spare: int,
        generator: np.random.Generator,
        engine: str,
    ) -> None:
        self._runner, self._signature, self._data = runner, signature, data
        self._generator, self._engine = generator, engine
        self.rows: dict[str, Array] = {}
        self.others: dict[str, Array] = {}
        for name, table in signature.tables.items():
            named = row_numbers(data[label] for label in table.data)
            rest = generator.permutation(np.setdiff1d(np.arange(table.rows), named))
            more = min(spare, len(rest) // 2)
            self.rows[name] = np.concatenate([named[::-1], rest[:more]])
            self.others[name] = rest[more:]

    def train(self, values: Arrays) -> None:
        """Take some steps on all rows and on its own.

        Raises:
            RowsError: They come apart, or change rows that are not its own.
        """
        signature = self._signature
        carried = self._strange(values)
        examples = len(next(iter(self._data.values())))
        for size in (signature.batch,) * 2 if signature.batch else _SIZES:
            picked = self._generator.integers(examples, size=size)
            batch = {label: array[picked] for label, array in self._data.items()}
            data = {i.name: batch[i.label] for i in signature.with_role(Role.DATA)}
            whole = self._runner(carried | data)
            self._require_others_unchanged(whole, carried)
            self._require_same(whole, carried, data)
            carried |= {old: whole[new] for new, old in signature.replacements.items()}

    def _strange(self, values: Arrays) -> dict[str, Array]:
        """The values, with others in the rows that the client has not; an anchor's are its parameter's."""
        made = dict(values)
        for i in self._signature.inputs:
            if i.rows is None or i.role is Role.DATA:
                continue
            made[i.name] = np.array(values[i.name])
            if i.role is not Role.STATE:
                others = self.others[i.rows]
                made[i.name][others] = 1 - 2 * values[i.of or i.name][others]
        return made

    def _require_others_unchanged(self, whole: Arrays, carried: Arrays) -> None:
        for name, old, table in self._replaced():
            others = self.others[table]
            changed = whole[name][others] != carried[old][others]
            if changed.any():
                row = others[np.argwhere(changed)[0][0]]
                raise RowsError(
                    f"{self._engine}, plan {self._signature.name}: the step changes rows of table {table!r} "
                    f"that its data do not name: {name} in row {row}",
                    hint=_HINT,
                )

    def _require_same(self, whole: Arrays, carried: dict[str, Array], data: dict[str, Array]) -> None:
        signature = self._signature
        tables = {name: table for name, _, table in self._replaced()}
        truth = {n: array[self.rows[tables[n]]] if n in tables else array for n, array in whole.items()}
        feeds = {i.name: self._part(i, carried | data) for i in signature.inputs}
        before = {new: feeds[old] for new, old in signature.replacements.items()}
        examples = len(next(iter(data.values())))
        try:
            compare(
                self._runner(feeds),
                truth,
                before,
                {},
                examples=examples,
                engine=f"{self._engine}, on some rows of its tables",
                signature=signature,
                reference="the step on all rows",
            ).enforced()
        except PlanError as error:
            raise RowsError(
                f"{error.message}; it reads rows that its data do not name, or computes with row numbers",
                hint=_HINT,
            ) from error

    def _part(self, i: Input, values: Arrays) -> Array:
        array = values[i.name]
        if i.rows is None:
            return array
        rows = self.rows[i.rows]
        if i.role is not Role.DATA:
            return array[rows]
        order = np.argsort(rows)
        return order[renumbered(array, rows[order])].astype(array.dtype)

    def _replaced(self) -> list[tuple[str, str, str]]:
        """Output, input that it replaces, and table, for all that have rows of one."""
        tables = {i.name: i.rows for i in self._signature.inputs}
        named = ((new, old, tables[old]) for new, old in self._signature.replacements.items())
        return [(new, old, table) for new, old, table in named if table is not None]
