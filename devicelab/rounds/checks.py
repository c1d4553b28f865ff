"""Whether an experiment, its plan and its data go together: found out before any phone is asked anything."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from devicelab.config import Experiment
from devicelab.data.shards import ShardSet, TensorSpec
from devicelab.errors import ConfigError, DataError
from devicelab.plans.build import PlanFiles
from devicelab.plans.signature import Role, Signature, Table

__all__ = ["check_hyper", "check_subtables", "check_training_loss"]


def check_hyper(experiment: Experiment, plans: PlanFiles) -> None:
    """See that the plan's hyper inputs get values that their types can hold, and nothing else does.

    Raises:
        ConfigError: They do not.
    """
    known = {i.label: i for i in plans.train.signature.with_role(Role.HYPER)}
    given: Mapping[str, float] = experiment.round.hyper
    for label in given:
        if label not in known:
            names = ", ".join(sorted(set(known) - {"seed"})) or "none"
            raise ConfigError(f"round.hyper: the plan has no hyper input {label!r}", hint=f"it has {names}")
        if not _holds(known[label].dtype, given[label]):
            raise ConfigError(
                f"round.hyper.{label}: {given[label]:g} is no number for the plan's input, which is a "
                f"{known[label].dtype}"
            )
    for label, i in known.items():
        if label != "seed" and i.default is None and label not in given:
            raise ConfigError(f"round.hyper: the plan needs a value for {label!r}")


def _holds(dtype: str, value: float) -> bool:
    """Whether a type can hold a value, as the runner sees it: the nearest float, but the very integer."""
    if dtype.startswith("float"):
        return abs(value) <= float(np.finfo(dtype).max)
    if dtype == "bool":
        return value in (0, 1)
    limits = np.iinfo(dtype)
    # further whole numbers have no double of their own, so that no runner takes them
    return value == int(value) and abs(value) <= 1 << 53 and limits.min <= int(value) <= limits.max


def check_training_loss(experiment: Experiment, plans: PlanFiles) -> None:
    """See that the loss of shards to train on can be measured, where the experiment wants it.

    Raises:
        ConfigError: It cannot.
    """
    if plans.evaluate is None or not experiment.evaluation.training_loss:
        return
    trained, evaluated = (
        {(i.label, i.dtype, i.shape[1:]) for i in file.signature.with_role(Role.DATA)}
        for file in (plans.train, plans.evaluate)
    )
    if trained != evaluated:
        raise ConfigError(
            "evaluation.training_loss: the plan evaluates on other data than it trains on, so it cannot "
            "measure the loss of a shard to train on",
            hint="set evaluation.training_loss to false",
        )


def check_subtables(experiment: Experiment, plans: PlanFiles, shards: ShardSet) -> None:
    """See that the plan and the data can do with sub-tables, where the experiment wants them.

    Raises:
        ConfigError: The plan has no tables, or cannot measure the loss of a shard with some of their rows.
        DataError: The data name rows that a table does not have.
    """
    if not experiment.round.subtables:
        return
    train, evaluate = plans.train.signature, plans.evaluate.signature if plans.evaluate is not None else None
    if not train.tables:
        raise ConfigError(
            f"round.subtables: the plan {train.name} has no table whose rows the data name",
            hint="set round.subtables to false",
        )
    if evaluate is not None and experiment.evaluation.training_loss:
        for name, table in train.tables.items():
            if not _alike(name, table, evaluate):
                raise ConfigError(
                    "evaluation.training_loss: the plan that evaluates cannot do with some rows of the table "
                    f"{name!r}, as the one that trains can (round.subtables)",
                    hint="set evaluation.training_loss to false, or round.subtables",
                )
    _check_numbers(train.tables, shards.tensors)
    if evaluate is not None and shards.evaluation:
        _check_numbers(evaluate.tables, shards.evaluation)


def _alike(name: str, table: Table, evaluate: Signature) -> bool:
    """Whether the evaluation plan, as far as it takes a training plan's table, takes the same rows of it."""
    taken = {i.name for i in evaluate.inputs} & set(table.parameters)
    found = evaluate.tables.get(name)
    if found is None:
        return not taken
    same = (found.rows, set(found.data)) == (table.rows, set(table.data))
    return same and set(found.parameters) == taken


def _check_numbers(tables: Mapping[str, Table], tensors: Mapping[str, TensorSpec]) -> None:
    for name, table in tables.items():
        for label in table.data:
            low, high = tensors[label].range or (0, 0)
            if low < 0 or high >= table.rows:
                raise DataError(
                    f"{label!r} holds numbers from {low} to {high}, the table {name!r} has {table.rows} rows",
                    hint="number them from 0, or set round.subtables to false",
                )
