"""The inputs and outputs of a plan one by one, as objects and as JSON; a signature has all of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Literal

from devicelab.errors import PlanError

__all__ = [
    "BATCH",
    "CARRIED",
    "Fields",
    "Input",
    "Kind",
    "Output",
    "Role",
    "Shape",
    "parse_input",
    "parse_output",
    "plain_port",
    "require",
]

BATCH: Final = "batch"

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
        rows: The table that it belongs to: a parameter, its anchor or its state has one row for each of the
            table's; integer data hold numbers of such rows.
    """

    name: str
    role: Role
    dtype: str
    shape: Shape
    default: float | int | None = None
    of: str | None = None
    range: tuple[int, int] | None = None
    rows: str | None = None

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


def require(truth: bool, reason: str) -> None:  # noqa: FBT001 - reads as an assertion
    """Refuse a signature for a reason.

    Raises:
        PlanError: Unless the truth is told.
    """
    if not truth:
        raise PlanError(reason)


def plain_port(tensor: Input | Output) -> dict[str, Any]:
    """An input or output as JSON has it, with the keys in a fixed order."""
    plain: dict[str, Any] = {
        "name": tensor.name,
        "role": tensor.role.value,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
    }
    optional = (
        ("default", "of", "range", "rows") if isinstance(tensor, Input) else ("replaces", "metric", "part")
    )
    for key in optional:
        value = getattr(tensor, key)
        if value is not None:
            plain[key] = list(value) if isinstance(value, tuple) else value
    if isinstance(tensor, Output) and tensor.in_place:
        plain["in_place"] = True
    return plain


class Fields:
    """Takes typed fields out of a JSON object, and refuses what is missing, mistyped or left over."""

    def __init__(self, document: object, where: str) -> None:
        if not isinstance(document, dict):
            raise PlanError(f"{where} is not a JSON object")
        self._left: dict[str, Any] = dict(document)
        self._where = where

    def take(self, key: str, *kinds: type, default: Any = ...) -> Any:  # noqa: ANN401 - JSON has any type
        """The field, which is then no longer left.

        Raises:
            PlanError: It is missing and has no default, or is of none of the kinds.
        """
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
        """Refuse what is left.

        Raises:
            PlanError: There are fields that nobody took.
        """
        if self._left:
            raise PlanError(f"{self._where} has unknown fields: {', '.join(sorted(map(str, self._left)))}")


def _parse_common(fields: Fields, where: str) -> tuple[str, Role, str, Shape]:
    name, role_name, dtype = (fields.take(key, str) for key in ("name", "role", "dtype"))
    try:
        role = Role(role_name)
    except ValueError:
        known = ", ".join(r.value for r in Role)
        raise PlanError(f"{where} has the unknown role {role_name!r}; known: {known}") from None
    shape = fields.take("shape", list)
    for size in shape:
        good = isinstance(size, int | str) and not isinstance(size, bool)
        require(good, f"{where}: size {size!r:.80} is neither a number nor {BATCH!r}")
    return name, role, dtype, tuple(shape)


def parse_input(document: object, position: int) -> Input:
    """An input from JSON; whether it agrees with the others is not looked at.

    Raises:
        PlanError: A field is missing, unknown or of the wrong type.
    """
    where = f"input {position} of the signature"
    fields = Fields(document, where)
    name, role, dtype, shape = _parse_common(fields, where)
    default = fields.take("default", float, int, default=None)
    of = fields.take("of", str, default=None)
    limits = fields.take("range", list, default=None)
    rows = fields.take("rows", str, default=None)
    fields.done()
    if limits is not None:
        whole = len(limits) == 2 and all(type(v) is int for v in limits)
        require(whole, f"{where}: `range` is {limits!r:.80}, not two whole numbers")
        limits = (limits[0], limits[1])
    return Input(name, role, dtype, shape, default, of, limits, rows)


def parse_output(document: object, position: int) -> Output:
    """An output from JSON; as :func:`parse_input`."""
    where = f"output {position} of the signature"
    fields = Fields(document, where)
    name, role, dtype, shape = _parse_common(fields, where)
    replaces = fields.take("replaces", str, default=None)
    in_place = fields.take("in_place", bool, default=False)
    metric = fields.take("metric", str, default=None)
    part = fields.take("part", str, default=None)
    fields.done()
    require(part in (None, "sum", "count"), f"{where}: part {part!r} is neither 'sum' nor 'count'")
    return Output(name, role, dtype, shape, replaces, in_place, metric, part)
