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
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Literal

from devicelab.errors import PlanError

__all__ = ["BATCH", "METADATA_KEY", "VERSION", "Input", "Kind", "Output", "Role", "Signature"]

METADATA_KEY: Final = "devicelab.signature"
VERSION: Final = 1
BATCH: Final = "batch"
_DTYPES: Final = frozenset({"float32", "float64", "int64", "int32", "bool"})
_MAX_JSON: Final = 16 << 20

Kind = Literal["train", "evaluate"]
Shape = tuple[int | str, ...]


class Role(StrEnum):
    """What an input or output is for."""

    PARAMETER = "parameter"
    PRIVATE = "private"  # a parameter that never leaves its device
    BUFFER = "buffer"  # running statistics
    STATE = "state"  # the optimizer's, zero at first
    ANCHOR = "anchor"  # the global value of a parameter, for FedProx; input only
    DATA = "data"  # input only, first dimension = examples
    HYPER = "hyper"  # input only, a number
    LOSS = "loss"  # output only, mean over the batch
    METRIC = "metric"  # output only, one part (sum or count) of a metric


CARRIED: Final = frozenset({Role.PARAMETER, Role.PRIVATE, Role.BUFFER, Role.STATE})
_INPUT_ROLES: Final = CARRIED | {Role.ANCHOR, Role.DATA, Role.HYPER}
_OUTPUT_ROLES: Final = CARRIED | {Role.LOSS, Role.METRIC}


@dataclass(frozen=True, slots=True)
class Input:
    """One graph input.

    Attributes:
        name: Its name in the graph.
        role: What it is for.
        dtype: numpy's name of the element type.
        shape: Sizes; ``"batch"`` as the first size of data.
        default: A hyper's value unless the experiment says otherwise.
        of: The parameter input that an anchor is the global value of.
        range: Smallest and largest value of integer data in the example batch (both included).
    """

    name: str
    role: Role
    dtype: str
    shape: Shape
    default: float | int | None = None
    of: str | None = None
    range: tuple[int, int] | None = None

    @property
    def label(self) -> str:
        """The name without its prefix: ``user.weight`` of ``param/user.weight``."""
        return self.name.partition("/")[2] or self.name


@dataclass(frozen=True, slots=True)
class Output:
    """One graph output.

    Attributes:
        name: Its name in the graph.
        role: What it is for.
        dtype: numpy's name of the element type.
        shape: Sizes.
        replaces: The input whose place it takes in the next step.
        in_place: Whether it may share that input's memory.
        metric: Name of the metric it is part of.
        part: Which part of it; the metric is all sums over all counts.
    """

    name: str
    role: Role
    dtype: str
    shape: Shape
    replaces: str | None = None
    in_place: bool = False
    metric: str | None = None
    part: Literal["sum", "count"] | None = None


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

    def as_dict(self) -> dict[str, Any]:
        """What :meth:`to_json` writes, with the keys in a fixed order."""
        return {
            "version": VERSION,
            "name": self.name,
            "kind": self.kind,
            "batch": self.batch,
            "inputs": [_plain(i) for i in self.inputs],
            "outputs": [_plain(o) for o in self.outputs],
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
        fields = _Fields(document, "the signature")
        fields.take("version", int)
        name = fields.take("name", str)
        kind = fields.take("kind", str)
        batch = fields.take("batch", int, type(None), default=None)
        inputs = tuple(_parse_input(item, n) for n, item in enumerate(fields.take("inputs", list)))
        outputs = tuple(_parse_output(item, n) for n, item in enumerate(fields.take("outputs", list)))
        fields.done()
        return cls(name, kind, inputs, outputs, batch)


def _require(truth: bool, reason: str) -> None:  # noqa: FBT001 - reads as an assertion
    if not truth:
        raise PlanError(reason)


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


def _plain(tensor: Input | Output) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "name": tensor.name,
        "role": tensor.role.value,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
    }
    optional = ("default", "of", "range") if isinstance(tensor, Input) else ("replaces", "metric", "part")
    for key in optional:
        value = getattr(tensor, key)
        if value is not None:
            plain[key] = list(value) if isinstance(value, tuple) else value
    if isinstance(tensor, Output) and tensor.in_place:
        plain["in_place"] = True
    return plain


class _Fields:
    """Takes typed fields out of a JSON object, and refuses what is missing, mistyped or left over."""

    def __init__(self, document: object, where: str) -> None:
        if not isinstance(document, dict):
            raise PlanError(f"{where} is not a JSON object")
        self._left: dict[str, Any] = dict(document)
        self._where = where

    def take(self, key: str, *kinds: type, default: Any = ...) -> Any:  # noqa: ANN401 - JSON has any type
        if key not in self._left:
            if default is ...:
                raise PlanError(f"{self._where} lacks {key!r}")
            return default
        value = self._left.pop(key)
        wrong = not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)
        if wrong:
            raise PlanError(f"{self._where}: {key!r} is {value!r:.80}, not {kinds[0].__name__}")
        return value

    def done(self) -> None:
        if self._left:
            raise PlanError(f"{self._where} has unknown fields: {', '.join(sorted(map(str, self._left)))}")


def _parse_common(fields: _Fields, where: str) -> tuple[str, Role, str, Shape]:
    name, role_name, dtype = (fields.take(key, str) for key in ("name", "role", "dtype"))
    try:
        role = Role(role_name)
    except ValueError:
        known = ", ".join(r.value for r in Role)
        raise PlanError(f"{where} has the unknown role {role_name!r}; known: {known}") from None
    shape = fields.take("shape", list)
    for size in shape:
        good = isinstance(size, int | str) and not isinstance(size, bool)
        _require(good, f"{where}: size {size!r:.80} is neither a number nor {BATCH!r}")
    return name, role, dtype, tuple(shape)


def _parse_input(document: object, position: int) -> Input:
    where = f"input {position} of the signature"
    fields = _Fields(document, where)
    name, role, dtype, shape = _parse_common(fields, where)
    default = fields.take("default", float, int, default=None)
    of = fields.take("of", str, default=None)
    limits = fields.take("range", list, default=None)
    fields.done()
    if limits is not None:
        whole = len(limits) == 2 and all(type(v) is int for v in limits)
        _require(whole, f"{where}: `range` is {limits!r:.80}, not two whole numbers")
        limits = (limits[0], limits[1])
    return Input(name, role, dtype, shape, default, of, limits)


def _parse_output(document: object, position: int) -> Output:
    where = f"output {position} of the signature"
    fields = _Fields(document, where)
    name, role, dtype, shape = _parse_common(fields, where)
    replaces = fields.take("replaces", str, default=None)
    in_place = fields.take("in_place", bool, default=False)
    metric = fields.take("metric", str, default=None)
    part = fields.take("part", str, default=None)
    fields.done()
    _require(part in (None, "sum", "count"), f"{where}: part {part!r} is neither 'sum' nor 'count'")
    return Output(name, role, dtype, shape, replaces, in_place, metric, part)
