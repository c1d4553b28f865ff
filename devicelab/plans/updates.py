"""Updates of parameters that engines run fast: only in plain SGD, whose update is a product and a difference.

Unlike the clean-up, these rewrites take sums in another order, so results may differ in their last bits.
"""

from __future__ import annotations

from typing import Final

import torch

from devicelab.plans.cleanup import PERMUTES, drop_dead_nodes, filled_with, only_reader, size_at
from devicelab.plans.graph import Arg, Graph, Node, Size, Term, Value

__all__ = ["products_into_parameters", "sparse_table_updates"]

_USUAL_BATCH: Final = 32  # where it matters what is larger, a batch or a parameter


def sparse_table_updates(graph: Graph) -> int:
    """Turn ``P - lr·index_put(0, rows, g)`` into ``index_put(P, rows, -lr·g)``: O(batch), not O(table).

    Where rows repeat a lot, in tables with fewer rows than a batch of 32 looks up, small updates would be lost
    one by one, and there is nothing to be gained: these stay as they are.

    Returns:
        How many tables are now updated by scatter.
    """
    readers = graph.readers()
    outputs = set(graph.outputs)
    count = 0
    for node in list(graph.nodes):
        if node.op != "aten.sub.Tensor" or node.kwargs.get("alpha", 1) != 1:
            continue
        table, scaled = node.args[:2]
        if not (isinstance(table, Value) and table.node is None):
            continue
        factors = _product(scaled, readers, outputs)
        if factors is None:
            continue
        rate, gradient = factors
        puts = _puts(gradient, readers, outputs)
        if puts is None or any(put.output.shape != table.shape for put in puts):
            continue
        looked_up = sum(size_at(put.args[1][0].shape, _USUAL_BATCH) for put in puts)
        if looked_up >= size_at(table.shape[:1], _USUAL_BATCH):
            continue
        _scatter_into(graph, node, table, rate, puts)
        count += 1
    if count:
        drop_dead_nodes(graph)
    return count


def products_into_parameters(graph: Graph) -> None:
    """Turn ``P - lr·(A·B)`` into ``P + (-lr·A)·B``, which an engine computes without writing the gradient out.

    The rate goes to the smaller factor.
    """
    readers = graph.readers()
    outputs = set(graph.outputs)
    for node in list(graph.nodes):
        if node.op != "aten.sub.Tensor" or node.kwargs.get("alpha", 1) != 1:
            continue
        parameter, scaled = node.args[:2]
        factors = _product(scaled, readers, outputs)
        if factors is None or not isinstance(parameter, Value) or parameter.node is not None:
            continue
        rate, gradient = factors
        product = gradient.node
        if product is None or product.op != "aten.mm.default" or not only_reader(gradient, readers, outputs):
            continue
        if gradient.shape != parameter.shape:
            continue
        left, right = product.args[:2]
        new = _Additions(node)
        negative = new.add("aten.neg.default", (rate,), (), rate.dtype)
        if size_at(left.shape, _USUAL_BATCH) <= size_at(right.shape, _USUAL_BATCH):
            left = _times(left, negative, new)
        else:
            right = _times(right, negative, new)
        result = new.add("aten.addmm.default", (parameter, left, right), parameter.shape, parameter.dtype)
        new.put_before(graph, node)
        graph.replace({node.output: result})
    drop_dead_nodes(graph)


class _Additions:
    """New nodes that take another's place.

    Args:
        node: The other; names and places are taken from it.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._nodes: list[Node] = []

    def add(self, op: str, args: tuple[Arg, ...], shape: tuple[Size, ...], dtype: torch.dtype) -> Value:
        """A node with one output."""
        made = Node(op, args, {}, [], self._node.where)
        value = Value(f"{self._node.output.name}_new{len(self._nodes)}", shape, dtype, made)
        made.outputs = [value]
        self._nodes.append(made)
        return value

    def put_before(self, graph: Graph, node: Node) -> None:
        """Into the graph with them."""
        position = graph.nodes.index(node)
        graph.nodes[position:position] = self._nodes


def _times(matrix: Value, number: Value, new: _Additions) -> Value:
    """A matrix times a scalar; a transposed one is multiplied before it is transposed."""
    maker = matrix.node
    if maker is not None and maker.op in PERMUTES:
        source = _times(maker.args[0], number, new)
        return new.add(maker.op, (source, *maker.args[1:]), matrix.shape, matrix.dtype)
    return new.add("aten.mul.Tensor", (matrix, number), matrix.shape, matrix.dtype)


def _product(value: Arg, readers: dict[Value, list[Node]], outputs: set[Value]) -> tuple[Value, Value] | None:
    """The scalar and the tensor that a value, read once, is the product of."""
    if not isinstance(value, Value) or value.node is None or value.node.op != "aten.mul.Tensor":
        return None
    rate, gradient = value.node.args[:2]
    alone = only_reader(value, readers, outputs)
    if not (alone and isinstance(rate, Value) and isinstance(gradient, Value) and rate.shape == ()):
        return None
    return rate, gradient


def _puts(value: Value, readers: dict[Value, list[Node]], outputs: set[Value]) -> list[Node] | None:
    """The accumulating index_puts into zeros that a value, read once, is the sum of."""
    node = value.node
    if node is None or not only_reader(value, readers, outputs):
        return None
    if node.op == "aten.add.Tensor" and node.kwargs.get("alpha", 1) == 1:
        parts = [_puts(arg, readers, outputs) if isinstance(arg, Value) else None for arg in node.args[:2]]
        return None if parts[0] is None or parts[1] is None else parts[0] + parts[1]
    if node.op != "aten.index_put.default" or len(node.args) < 4 or not node.args[3]:
        return None
    base, indices = node.args[:2]
    return [node] if filled_with(base) == 0 and len(indices) == 1 else None


def _scatter_into(graph: Graph, node: Node, table: Value, rate: Value, puts: list[Node]) -> None:
    new = _Additions(node)
    indices = [put.args[1][0] for put in puts]
    rows = [put.args[2] for put in puts]
    index, row = indices[0], rows[0]
    if len(puts) > 1:
        lengths = [value.shape[0] for value in indices]
        total = _total(lengths)
        if total is None:
            return
        index = new.add("aten.cat.default", (indices, 0), (total,), index.dtype)
        row = new.add("aten.cat.default", (rows, 0), (total, *row.shape[1:]), row.dtype)
    negative = new.add("aten.neg.default", (rate,), (), rate.dtype)
    step = new.add("aten.mul.Tensor", (row, negative), row.shape, row.dtype)
    result = new.add("aten.index_put.default", (table, [index], step, True), table.shape, table.dtype)
    new.put_before(graph, node)
    graph.replace({node.output: result})


def _total(sizes: list[Size]) -> Size | None:
    """The sum of sizes that are all numbers, or all multiples of the same open size."""
    if all(isinstance(size, int) for size in sizes):
        return sum(size for size in sizes if isinstance(size, int))
    terms = [size for size in sizes if isinstance(size, Term)]
    if len(terms) < len(sizes) or len({(term.power, term.rows) for term in terms}) > 1:
        return None
    total = sum(t.offset for t in terms)
    return Term(sum(t.factor for t in terms), terms[0].power, total, rows=terms[0].rows)
