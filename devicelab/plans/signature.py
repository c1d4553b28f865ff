"""The signature: what each input and output of a plan is for, written into the plan's own file as JSON.

A plan is an ordinary ONNX (or TorchScript) file. Its metadata entry ``devicelab.signature`` says which inputs
are parameters, which are data, and which output replaces which input, so that a runner needs nothing but the
file::

    {"version": 1, "name": "mf", "kind": "train", "batch": null,
     "inputs":  [{"name": "param/user.weight", "role": "private", "dtype": "float32", "shape": [943, 32]},
                 {"name": "data/item", "role": "data", "dtype": "int64", "shape": ["batch"],
                  "range": [0, 1681]},
                 {"name": "hyper/lr", "role": "hyper", "dtype": "float32", "shape": [], "default": 0.05}],
     "outputs": [{"name": "loss", "role": "loss", "dtype": "float32", "shape": []},
                 {"name": "new/param/user.weight", "role": "private", "dtype": "float32", "shape": [943, 32],
                  "replaces": "param/user.weight", "in_place": true}]}

``batch`` is null where any number of examples fits, else the one number that does. ``in_place`` promises that
the output may share the memory of the input it replaces; no other output may.

``rows`` names a table (``"rows": "item"``). Parameters that say it, their anchors and their optimizer state
have one row for each of the table's, and integer data that say it hold numbers of rows. Such a plan also takes
some of the rows, with the data renumbered, and leaves the rows that the data do not name as they are: a client
needs no others than its data name. Shapes in the signature are those of whole tables; what replaces an input of
a table has as many rows as that.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from devicelab.errors import PlanError
from devicelab.plans.ports import (
    BATCH,
    CARRIED,
    Fields,
    Input,
    Kind,
    Output,
    Role,
    parse_input,
    parse_output,
    plain_port,
)
from devicelab.plans.ports import require as _require
from devicelab.plans.tables import Table, check_tables, open_shape, tables_of

__all__ = [
    "BATCH",
    "CARRIED",
    "METADATA_KEY",
    "VERSION",
    "Input",
    "Kind",
    "Output",
    "Role",
    "Signature",
    "Table",
]

METADATA_KEY: Final = "devicelab.signature"
VERSION: Final = 1
_DTYPES: Final = frozenset({"float32", "float64", "int64", "int32", "bool"})
_MAX_JSON: Final = 16 << 20
_INPUT_ROLES: Final = CARRIED | {Role.ANCHOR, Role.DATA, Role.HYPER}
_OUTPUT_ROLES: Final = CARRIED | {Role.LOSS, Role.METRIC}


@dataclass(frozen=True, slots=True)
class Signature:
    """All inputs and outputs of a plan, in graph order.

    Raises:
        PlanError: On construction, where the parts contradict each other.
    """

    name: str
    kind: Kind
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    batch: int | None = None

    def __post_init__(self) -> None:
        _require(bool(self.name), "the plan has no name")
        _require(self.kind in ("train", "evaluate"), f"kind must be 'train' or 'evaluate', not {self.kind!r}")
        _require(self.batch is None or self.batch > 0, f"batch must be positive, not {self.batch}")
        _unique("input", [i.name for i in self.inputs])
        _unique("output", [o.name for o in self.outputs])
        for i in self.inputs:
            _check_input(i, self)
        for o in self.outputs:
            _check_output(o, self)
        replaced = [o.replaces for o in self.outputs if o.replaces]
        _unique("replaced input", replaced)
        if self.kind == "train":
            losses = [o.name for o in self.outputs if o.role is Role.LOSS]
            _require(len(losses) == 1, f"a training plan has exactly one loss, this one has {len(losses)}")
            _require(bool(replaced), "a training plan replaces at least one parameter")
        _require(any(i.role is Role.DATA for i in self.inputs), "the plan has no data input")
        _check_metrics(self)
        check_tables(self.inputs)

    def input(self, name: str) -> Input:
        """The input of that name.

        Raises:
            KeyError: There is none.
        """
        for i in self.inputs:
            if i.name == name:
                return i
        raise KeyError(name)

    def with_role(self, *roles: Role) -> tuple[Input, ...]:
        """The inputs with one of these roles, in order."""
        return tuple(i for i in self.inputs if i.role in roles)

    @property
    def replacements(self) -> dict[str, str]:
        """Output name to the name of the input it replaces."""
        return {o.name: o.replaces for o in self.outputs if o.replaces is not None}

    @property
    def graph_inputs(self) -> tuple[Input, ...]:
        """The inputs with their sizes in the graph, where a table's number of rows is a word: ``rows.item``."""
        return tuple(replace(i, shape=open_shape(i.shape, self._table_of(i))) for i in self.inputs)

    @property
    def graph_outputs(self) -> tuple[Output, ...]:
        """The outputs with their sizes in the graph."""
        tables = {i.name: self._table_of(i) for i in self.inputs}
        return tuple(
            replace(o, shape=open_shape(o.shape, tables[o.replaces] if o.replaces else None))
            for o in self.outputs
        )

    @staticmethod
    def _table_of(i: Input) -> str | None:
        return None if i.role is Role.DATA else i.rows

    @property
    def tables(self) -> dict[str, Table]:
        """The tables whose rows the data name, by name."""
        return tables_of(self.inputs)

    def as_dict(self) -> dict[str, Any]:
        """What :meth:`to_json` writes, with the keys in a fixed order."""
        return {
            "version": VERSION,
            "name": self.name,
            "kind": self.kind,
            "batch": self.batch,
            "inputs": [plain_port(i) for i in self.inputs],
            "outputs": [plain_port(o) for o in self.outputs],
        }

    def to_json(self) -> str:
        """Compact JSON; :meth:`from_json` reads it back unchanged."""
        return json.dumps(self.as_dict(), separators=(",", ":"), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Signature:
        """Parse and validate.

        Raises:
            PlanError: Not JSON, an unknown version, a missing or unknown field, a contradiction.
        """
        _require(len(text) <= _MAX_JSON, f"the signature is longer than {_MAX_JSON} characters")
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PlanError(f"the signature is not JSON: {error}") from error
        _require(isinstance(document, dict), "the signature is not a JSON object")
        version = document.get("version")
        if version != VERSION or isinstance(version, bool):
            raise PlanError(
                f"the signature has version {version!r}, this program reads version {VERSION}",
                hint="export the plan again, or use the devicelab that made it",
            )
        fields = Fields(document, "the signature")
        fields.take("version", int)
        name = fields.take("name", str)
        kind = fields.take("kind", str)
        batch = fields.take("batch", int, type(None), default=None)
        inputs = tuple(parse_input(item, n) for n, item in enumerate(fields.take("inputs", list)))
        outputs = tuple(parse_output(item, n) for n, item in enumerate(fields.take("outputs", list)))
        fields.done()
        return cls(name, kind, inputs, outputs, batch)


def _unique(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        _require(name not in seen, f"{what} {name!r} occurs twice")
        seen.add(name)


def _check_tensor(what: str, tensor: Input | Output, batch: int | None) -> None:
    _require(bool(tensor.name), f"an {what} has no name")
    _require(
        tensor.dtype in _DTYPES,
        f"{what} {tensor.name!r} has element type {tensor.dtype!r}, not one of {', '.join(sorted(_DTYPES))}",
    )
    for position, size in enumerate(tensor.shape):
        good = size == BATCH if isinstance(size, str) else 0 <= size < 1 << 48
        _require(good, f"{what} {tensor.name!r}: size {size!r} is neither a number nor {BATCH!r}")
        if size == BATCH:
            alright = isinstance(tensor, Input) and tensor.role is Role.DATA and position == 0
            _require(alright, f"{what} {tensor.name!r}: only the first size of data may be {BATCH!r}")
            _require(batch is None, f"{what} {tensor.name!r} has a {BATCH!r} size, the plan a fixed batch")


def _check_input(i: Input, whole: Signature) -> None:
    _check_tensor("input", i, whole.batch)
    _require(i.role in _INPUT_ROLES, f"input {i.name!r} cannot have the role {i.role.value!r}")
    if i.role is Role.DATA:
        _require(len(i.shape) > 0, f"data {i.name!r} has no dimension for the examples")
        if whole.batch is not None:
            _require(
                i.shape[0] == whole.batch, f"data {i.name!r} holds {i.shape[0]} examples, not {whole.batch}"
            )
        else:
            _require(i.shape[0] == BATCH, f"data {i.name!r}: its first size must be {BATCH!r}")
    _require(i.default is None or i.role is Role.HYPER, f"input {i.name!r}: only hypers have defaults")
    if i.role is Role.HYPER:
        _require(i.shape == (), f"hyper {i.name!r} is not a single number")
        _require(i.default is None or math.isfinite(i.default), f"hyper {i.name!r}: its default is not finite")
    _require((i.of is not None) == (i.role is Role.ANCHOR), f"input {i.name!r}: exactly anchors say `of`")
    if i.of is not None:
        target = next((j for j in whole.inputs if j.name == i.of), None)
        known = target is not None and target.role in (Role.PARAMETER, Role.PRIVATE)
        _require(known, f"anchor {i.name!r} belongs to {i.of!r}, which is no parameter")
        assert target is not None
        same = (i.dtype, i.shape) == (target.dtype, target.shape)
        _require(same, f"anchor {i.name!r} and its parameter {i.of!r} differ in type or shape")
    if i.range is not None:
        _require(i.role is Role.DATA and "int" in i.dtype, f"input {i.name!r}: only integer data has a range")
        _require(i.range[0] <= i.range[1], f"data {i.name!r}: its range {list(i.range)} is empty")


def _check_output(o: Output, whole: Signature) -> None:
    _check_tensor("output", o, whole.batch)
    _require(o.role in _OUTPUT_ROLES, f"output {o.name!r} cannot have the role {o.role.value!r}")
    carried = o.role in CARRIED
    _require(carried == (o.replaces is not None), f"output {o.name!r}: exactly carried roles say `replaces`")
    _require(carried or not o.in_place, f"output {o.name!r} replaces nothing, so it cannot be in place")
    metric = o.role is Role.METRIC
    complete = metric == (o.metric is not None) == (o.part is not None)
    _require(complete, f"output {o.name!r}: exactly metrics say `metric` and `part`")
    if o.replaces is not None:
        target = next((i for i in whole.inputs if i.name == o.replaces), None)
        _require(target is not None, f"output {o.name!r} replaces {o.replaces!r}, which is no input")
        assert target is not None
        _require(
            target.role is o.role,
            f"output {o.name!r} is a {o.role.value}, but {o.replaces!r}, which it replaces, is a "
            f"{target.role.value}",
        )
        _require(
            (o.dtype, o.shape) == (target.dtype, target.shape),
            f"output {o.name!r} is {o.dtype}{list(o.shape)}, but {o.replaces!r}, which it replaces, is "
            f"{target.dtype}{list(target.shape)}",
        )
    else:
        _require(o.shape == (), f"output {o.name!r} is not a single number")


def _check_metrics(whole: Signature) -> None:
    parts: dict[str, list[str]] = {}
    for o in whole.outputs:
        if o.metric is not None and o.part is not None:
            parts.setdefault(o.metric, []).append(o.part)
    for metric, found in parts.items():
        _require(sorted(found) == ["count", "sum"], f"metric {metric!r} has {found}, not one sum and one count")
