"""Several traces of one function, at other sizes each, read as one :class:`Graph` whose sizes follow them."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, fx

from devicelab.errors import PlanError, RowsError
from devicelab.plans.functional import pure_twin
from devicelab.plans.graph import Arg, Graph, Node, Rows, Term, Value
from devicelab.plans.signature import Input, Role

__all__ = ["Resized", "Unifier", "batch_error", "open_tables", "rows_error"]


def batch_error(reason: str) -> PlanError:
    """The error for a model that is another program at another batch size."""
    return PlanError(
        f"the model is another program for another number of examples: {reason}",
        hint="set `fixed_batch = True` in the plan to export it for batches as long as the example batch only",
    )


def rows_error(table: str, reason: str) -> RowsError:
    """The error for a model that is another program for another number of a table's rows."""
    return RowsError(
        f"the model is another program for another number of rows of table {table!r}: {reason}",
        hint="of a table that the plan declares, only rows that the data name may be read and changed; without "
        f"{table!r} in the plan's `tables` it is sent whole",
    )


_TRANSPARENT: Final = frozenset(
    {
        "aten.alias.default",
        "aten.alias_copy.default",
        "aten.clone.default",
        "aten.contiguous.default",
        "aten.detach.default",
        "aten.detach_copy.default",
        "aten.lift_fresh.default",
        "aten.lift_fresh_copy.default",
        "aten.lift.default",
    }
)


def open_tables(inputs: Iterable[Input]) -> list[Rows | None]:
    """For each input the table whose rows it has, as :func:`~devicelab.plans.tracing.trace` takes it."""
    return [None if i.rows is None or i.role is Role.DATA else Rows(i.rows, int(i.shape[0])) for i in inputs]


@dataclass(frozen=True, slots=True)
class Resized:
    """The function's graph where a table has another number of rows than it really has.

    Attributes:
        rows: The table, and its real number.
        count: The other number.
        module: The graph, at the first of the batch sizes.
    """

    rows: Rows
    count: int
    module: fx.GraphModule


class Unifier:
    """Reads the graphs of one function at several batch sizes and table sizes, in step, as one.

    Args:
        modules: The graphs at one or two batch sizes.
        sizes: These sizes.
        resized: One graph for each table.
    """

    def __init__(
        self, modules: Sequence[fx.GraphModule], sizes: Sequence[int], resized: Sequence[Resized] = ()
    ) -> None:
        self._modules = [*modules, *(each.module for each in resized)]
        self._sizes = sizes
        self._resized = resized
        self._values: dict[fx.Node, Value | list[Value]] = {}
        self._owners: dict[fx.Node, fx.Node] = {}  # of the results of in-place operators
        self._graph = Graph()
        self.terms: list[Term] = []
        self.guessed = False

    def graph(self) -> Graph:
        """The one graph.

        Raises:
            PlanError: They are different programs.
        """
        listed = [list(module.graph.nodes) for module in self._modules]
        self._alike([len(nodes) for nodes in listed], "it has {} operations")
        for nodes in zip(*listed, strict=True):
            self._read(nodes)
        return self._graph

    def _alike(self, items: Sequence[Any], reason: str) -> None:
        """Refuse what is not the same in all graphs; the reason has a place for what it is."""
        for position, item in enumerate(items):
            if item != items[0]:
                raise self._error(position, reason.format(f"{items[0]} or {item}"))

    def _error(self, position: int, reason: str) -> PlanError:
        """The error for what is something else in the graph at a position."""
        if position < len(self._sizes):
            return batch_error(reason)
        return rows_error(self._resized[position - len(self._sizes)].rows.table, reason)

    def _read(self, nodes: tuple[fx.Node, ...]) -> None:
        node = nodes[0]
        where = f" at {node.meta['where']}" if node.meta.get("where") else ""
        self._alike([n.op for n in nodes], f"it has a {{}}{where}")
        self._alike([str(n.target) for n in nodes], f"it calls {{}}{where}")
        if node.op == "placeholder":
            value = self._value(nodes, [n.meta["val"] for n in nodes])
            self._values[node] = value
            self._graph.inputs.append(value)
        elif node.op == "get_attr":
            self._constant(nodes)
        elif node.op == "call_function":
            self._call(nodes)
        elif node.op == "output":
            outputs = self._argument([n.args[0] for n in nodes], nodes)
            self._graph.outputs = list(outputs)
        else:
            raise PlanError(f"the traced model calls {node.target}, which is no operator")

    def _value(self, nodes: tuple[fx.Node, ...], tensors: list[Tensor], suffix: str = "") -> Value:
        shapes = [list(tensor.shape) for tensor in tensors]
        self._alike([len(shape) for shape in shapes], f"a result of {nodes[0].target} has {{}} dimensions")
        shape = tuple(self._number(list(sizes)) for sizes in zip(*shapes, strict=True))
        return Value(f"{nodes[0].name}{suffix}", shape, tensors[0].dtype)

    def _constant(self, nodes: tuple[fx.Node, ...]) -> None:
        tensors = [
            operator.attrgetter(str(n.target))(module) for n, module in zip(nodes, self._modules, strict=True)
        ]
        if not all(isinstance(t, Tensor) for t in tensors):
            raise PlanError(f"the traced model holds {nodes[0].target}, which is no tensor")
        for position, tensor in enumerate(tensors):
            if tensor.shape != tensors[0].shape or not torch.equal(tensor, tensors[0]):
                raise self._error(position, f"its constant {nodes[0].target} is another one")
        value = Value(nodes[0].name, tuple(tensors[0].shape), tensors[0].dtype)
        self._values[nodes[0]] = value
        self._graph.constants[value.name] = (value, tensors[0].detach())

    def _call(self, nodes: tuple[fx.Node, ...]) -> None:
        node = nodes[0]
        if node.target is operator.getitem:
            source, position = node.args
            outputs = self._values[source]  # type: ignore[index] # getitem's first argument is always a node
            assert isinstance(outputs, list)
            assert isinstance(position, int)
            self._values[node] = outputs[position]
            return
        args = tuple(self._argument(list(items), nodes) for items in zip(*(n.args for n in nodes), strict=True))
        kwargs = {key: self._argument([n.kwargs[key] for n in nodes], nodes) for key in node.kwargs}
        op = str(node.target)
        pure = pure_twin(node.target)
        if pure is not None:
            op = str(pure)
        if op in _TRANSPARENT:
            self._values[node] = args[0]
            return
        made = Node(op, args, kwargs, [], node.meta.get("where"))
        made.outputs = self._results(nodes, made)
        self._graph.nodes.append(made)
        if pure is not None:  # from here on, whoever reads the changed tensor reads the new one
            changed = node.args[0]
            assert isinstance(changed, fx.Node)
            owner = self._owners.get(changed, changed)
            self._owners[node] = owner
            for alias in [owner, *(n for n, o in self._owners.items() if o is owner)]:
                self._values[alias] = made.output

    def _results(self, nodes: tuple[fx.Node, ...], made: Node) -> list[Value]:
        node = nodes[0]
        results = [n.meta.get("val") for n in nodes]
        if isinstance(results[0], list | tuple):
            outputs = []
            for position, parts in enumerate(zip(*results, strict=True)):
                if isinstance(parts[0], Tensor):
                    outputs.append(self._value(nodes, list(parts), f"_{position}"))
                else:  # an operator may leave out a result (a mask says so)
                    outputs.append(Value(f"{node.name}_{position}", (), torch.float32))
            self._values[node] = outputs
        elif all(isinstance(result, Tensor) for result in results):
            outputs = [self._value(nodes, [r for r in results if isinstance(r, Tensor)])]
            self._values[node] = outputs[0]
        else:
            where = f" at {made.where}" if made.where else ""
            raise PlanError(f"the operator {made.op}{where} yields {type(results[0]).__name__}, not a tensor")
        for output in outputs:
            output.node = made
        return outputs

    def _argument(self, items: list[Any], nodes: tuple[fx.Node, ...]) -> Arg:
        first = items[0]
        if isinstance(first, fx.Node):
            return self._values[first]
        if isinstance(first, list | tuple):
            self._alike([len(item) for item in items], f"{nodes[0].target} takes a list of {{}}")
            return [self._argument(list(parts), nodes) for parts in zip(*items, strict=True)]
        if isinstance(first, bool) or not isinstance(first, int | float):
            self._alike(items, f"{nodes[0].target} takes {{}}")
            return first
        return self._number(items)

    def _number(self, items: list[Any]) -> Any:  # noqa: ANN401 - int, float or Term
        if len(items) == 1 or all(item == items[0] for item in items[1:]):
            return items[0]
        if any(isinstance(i, float) and math.isnan(i) for i in items):
            return items[0]
        others = items[len(self._sizes) :]
        moved = [each for each, item in zip(self._resized, others, strict=True) if item != items[0]]
        term = self._rows_term(items, moved) if moved else self._term(items[0], items[1])
        self.terms.append(term)
        return term

    def _rows_term(self, items: list[Any], moved: list[Resized]) -> Term:
        """A multiple of one table's number of rows, or of that times the batch; nothing else is known."""
        rows, count = moved[0].rows, moved[0].count
        first, other = items[0], items[len(self._sizes) + self._resized.index(moved[0])]
        refused = rows_error(
            rows.table, f"a number in it is {first} for {rows.count} rows and {other} for {count}"
        )
        if len(moved) > 1 or not isinstance(first, int) or first % rows.count:
            raise refused
        factor, power = first // rows.count, 0
        expected = [first] * len(self._sizes)
        if items[: len(self._sizes)] != expected:
            low, high = self._sizes
            factor, left = divmod(factor, low)
            power, expected = 1, [first, factor * high * rows.count]
            if left or items[:2] != expected:
                raise refused
        if factor * self._sizes[0] ** power * count != other:
            raise refused
        return Term(factor, power, rows=rows)

    def _term(self, a: float, b: float) -> Term:
        low, high = self._sizes
        whole = isinstance(a, int) and isinstance(b, int)
        if whole:
            for power in (1, 2, 3):
                if a % low**power == 0 and a // low**power * high**power == b:
                    return Term(int(a) // low**power, power)
            if (b - a) % (high - low) == 0:
                self.guessed = True
                factor = (int(b) - int(a)) // (high - low)
                return Term(factor, 1, int(a) - factor * low)
        for power in (1, -1, 2, -2):
            factor_ = a / low**power
            if math.isclose(factor_ * high**power, b, rel_tol=1e-12):
                return Term(float(factor_), power)
        raise batch_error(f"a number in it is {a} for {low} examples and {b} for {high}")
