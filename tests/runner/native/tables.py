"""Plans that train some rows of a table, and jobs for them beside the same jobs with whole tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from devicelab.plans.signature import METADATA_KEY, Role
from devicelab.plans.tables import row_numbers
from devicelab.runner.job import ROWS_PREFIX
from tests.runner.native.bench import Bench, Exported

Array = np.ndarray[Any, Any]
Arrays = Mapping[str, Array]
TABLE = "item"


def with_rows(plan: Exported, *words: str) -> Exported:
    """A plan whose inputs with the table's name, or another of these words, in theirs are the table."""
    inputs = tuple(
        replace(i, rows=TABLE) if any(word in i.name for word in (TABLE, *words)) else i
        for i in plan.signature.inputs
    )
    signature = replace(plan.signature, inputs=inputs)
    model = onnx.load_model_from_string(plan.content)
    whole = {i.name: i.shape for i in inputs if i.rows and i.role is not Role.DATA}
    for value in [*model.graph.input, *model.graph.output]:
        if value.name in whole or signature.replacements.get(value.name) in whole:
            value.type.tensor_type.shape.dim[0].dim_param = f"rows.{TABLE}"
    _open_constants(model, {shape: name for name, shape in whole.items()})
    helper.set_model_props(model, {METADATA_KEY: signature.to_json()})
    return replace(plan, content=model.SerializeToString(deterministic=True), signature=signature)


def _open_constants(model: onnx.ModelProto, tables: Mapping[tuple[int | str, ...], str]) -> None:
    """Make what has a whole table's shape in the graph as long as the table that is fed."""
    made = []
    for constant in list(model.graph.initializer):
        array = numpy_helper.to_array(constant)
        shape, shaped = f"{constant.name}.shape", tables.get(array.shape)
        if array.dtype == np.int64 and (sized := tables.get(tuple(array.ravel().tolist()))):
            made.append(helper.make_node("Shape", [sized], [constant.name]))
        elif shaped and not array.any():
            zero = numpy_helper.from_array(np.zeros(1, array.dtype))
            made.append(helper.make_node("Shape", [shaped], [shape]))
            made.append(helper.make_node("ConstantOfShape", [shape], [constant.name], value=zero))
        else:
            continue
        model.graph.initializer.remove(constant)
    nodes = [*made, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


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
