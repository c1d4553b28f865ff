"""A traced step as a small graph of ATen operators, in which sizes may depend on the batch and on tables' rows.

The graph is pure: no operator changes its inputs, every value is made once. It is what the clean-up rewrites
and what the ONNX and TorchScript writers read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from devicelab.plans.tables import open_rows

__all__ = ["Arg", "Graph", "Node", "Rows", "Term", "Value", "broadcast", "map_arg", "values_in"]


@dataclass(frozen=True, slots=True)
class Rows:
    """How many rows a table has, which is open: whoever runs the step may give it some of them.

    Attributes:
        table: Which table.
        count: How many rows it has in all.
    """

    table: str
    count: int


@dataclass(frozen=True, slots=True)
class Term:
    """A number in the traced code that depends on the number of examples B, or of a table's rows R.

    It is ``factor * B**power + offset``, or ``factor * B**power * R`` where there are rows. ``factor`` and
    ``offset`` are ints where the number is a size, floats where it is, say, 1/B.
    """

    factor: int | float
    power: int
    offset: int = 0
    rows: Rows | None = None

    def at(self, batch: int) -> int | float:
        """Its value for so many examples, and all rows."""
        scale: int | float = batch**self.power
        return self.factor * scale * (self.rows.count if self.rows else 1) + self.offset

    @property
    def integral(self) -> bool:
        """Whether it is a whole number for every batch."""
        return isinstance(self.factor, int) and self.power >= 0

    def __str__(self) -> str:
        parts = [] if self.factor == 1 else [f"{self.factor}"]
        if self.power:
            parts.append("B" if self.power == 1 else f"B**{self.power}")
        if self.rows:
            parts.append(open_rows(self.rows.table))
        return f"{'*'.join(parts)}{self.offset:+d}" if self.offset else "*".join(parts)


Size: TypeAlias = int | Term
Arg: TypeAlias = Any  # Value | Term | int | float | bool | str | None | dtype | … | list of these


@dataclass(eq=False, slots=True)
class Value:
    """A tensor in the graph; compared by identity.

    Attributes:
        name: Unique in the graph.
        shape: Its sizes.
        dtype: Its element type.
        node: What makes it; None for inputs and constants.
    """

    name: str
    shape: tuple[Size, ...]
    dtype: torch.dtype
    node: Node | None = None

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def __repr__(self) -> str:
        return f"%{self.name}"


@dataclass(eq=False, slots=True)
class Node:
    """One application of an ATen operator.

    Attributes:
        op: The operator with its overload: ``aten.add.Tensor``.
        args: Positional arguments as the schema orders them.
        kwargs: The rest.
        outputs: What it makes.
        where: File, line and code in the model that called it, if known.
    """

    op: str
    args: tuple[Arg, ...]
    kwargs: dict[str, Arg]
    outputs: list[Value]
    where: str | None = None

    @property
    def output(self) -> Value:
        """The first, often the only output."""
        return self.outputs[0]

    @property
    def inputs(self) -> Iterator[Value]:
        """All values among the arguments, repeated as they occur."""
        yield from values_in(self.args)
        yield from values_in(self.kwargs)


@dataclass(slots=True)
class Graph:
    """A step: nodes in an order in which they can be run."""

    inputs: list[Value] = field(default_factory=list)
    constants: dict[str, tuple[Value, Tensor]] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)

    def replace(self, mapping: dict[Value, Value]) -> None:
        """Put other values in place of some, wherever they are read; chains are followed."""
        if not mapping:
            return

        def final(value: Value) -> Value:
            while value in mapping:
                value = mapping[value]
            return value

        for node in self.nodes:
            node.args = map_arg(node.args, final)
            node.kwargs = map_arg(node.kwargs, final)
        self.outputs = [final(value) for value in self.outputs]

    def readers(self) -> dict[Value, list[Node]]:
        """For each value the nodes that read it, each once."""
        found: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for value in dict.fromkeys(node.inputs):
                found.setdefault(value, []).append(node)
        return found


def map_arg(arg: Arg, change: Callable[[Value], Arg]) -> Arg:
    """Apply a change to every value in a nest of tuples, lists and dicts."""
    if isinstance(arg, Value):
        return change(arg)
    if isinstance(arg, tuple):
        return tuple(map_arg(item, change) for item in arg)
    if isinstance(arg, list):
        return [map_arg(item, change) for item in arg]
    if isinstance(arg, dict):
        return {key: map_arg(item, change) for key, item in arg.items()}
    return arg


def values_in(arg: Arg) -> Iterator[Value]:
    """All values in a nest of tuples, lists and dicts."""
    if isinstance(arg, Value):
        yield arg
    elif isinstance(arg, list | tuple):
        for item in arg:
            yield from values_in(item)
    elif isinstance(arg, dict):
        for item in arg.values():
            yield from values_in(item)


def broadcast(shapes: list[tuple[Size, ...]]) -> tuple[Size, ...] | None:
    """The shape that these broadcast to, or None if they do not."""
    rank = max(len(shape) for shape in shapes)
    result: list[Size] = [1] * rank
    for shape in shapes:
        for n, size in enumerate(shape, start=rank - len(shape)):
            if size == 1 or size == result[n]:
                continue
            if result[n] != 1:
                return None
            result[n] = size
    return tuple(result)
