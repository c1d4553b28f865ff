"""Tidying a traced graph. Every rewrite keeps each result's bits, except the two of updates, which say so.

General-purpose ONNX optimizers are not used: one takes ``x + 1e-8`` for ``x``, which turns Adam into NaN, and
folds tables of zeros into the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

import torch

from devicelab.plans.graph import Arg, BatchTerm, Graph, Node, Size, Value, broadcast

__all__ = ["alive_nodes", "clean", "products_into_parameters", "sparse_table_updates"]

_VIEWS: Final = frozenset(
    {
        "aten.view.default", "aten.view_copy.default", "aten._unsafe_view.default", "aten.expand.default",
        "aten.expand_copy.default", "aten.slice.Tensor", "aten.slice_copy.Tensor",
    }
)  # fmt: skip
_USUAL_BATCH: Final = 32  # where it matters what is larger, a batch or a parameter
_EXPANDS: Final = frozenset({"aten.expand.default", "aten.expand_copy.default"})
_BROADCASTING: Final = frozenset(
    f"aten.{name}.Tensor" for name in ("add", "sub", "mul", "div", "eq", "ne", "lt", "le", "gt", "ge")
) | {"aten.where.self"}
_FILLS: Final = frozenset(
    {"aten.full.default", "aten.full_like.default", "aten.scalar_tensor.default", "aten.zeros.default",
     "aten.zeros_like.default", "aten.ones.default", "aten.ones_like.default", "aten.new_zeros.default"}
)  # fmt: skip


def clean(graph: Graph) -> None:
    """All rewrites that keep every bit, in an order in which they help each other."""
    _name_plain_strides(graph)
    _drop_unchanged(graph)
    _drop_sums_of_one(graph)
    _drop_ones(graph)
    _drop_expansions(graph)
    _mask_before_unpooling(graph)
    _turn_products(graph)
    share_equal_nodes(graph)
    drop_dead_nodes(graph)


def alive_nodes(nodes: Sequence[Node], outputs: Iterable[Value]) -> list[Node]:
    """The nodes whose results reach one of the outputs, in order."""
    wanted = set(outputs)
    kept = []
    for node in reversed(nodes):
        if any(output in wanted for output in node.outputs):
            wanted.update(node.inputs)
            kept.append(node)
    return kept[::-1]


def drop_dead_nodes(graph: Graph) -> None:
    """Remove nodes none of whose results reach an output."""
    graph.nodes = alive_nodes(graph.nodes, graph.outputs)


def share_equal_nodes(graph: Graph) -> None:
    """Compute the same thing once. All operators are pure, so equal arguments mean equal results."""
    seen: dict[Any, Node] = {}
    mapping: dict[Value, Value] = {}
    for node in graph.nodes:
        key = (node.op, _key(node.args, mapping), _key(node.kwargs, mapping))
        first = seen.setdefault(key, node)
        if first is not node:
            mapping.update(zip(node.outputs, first.outputs, strict=True))
    graph.replace(mapping)


def _key(arg: Arg, mapping: dict[Value, Value]) -> Any:  # noqa: ANN401 - something hashable
    if isinstance(arg, Value):
        return ("value", id(mapping.get(arg, arg)))
    if isinstance(arg, list | tuple):
        return tuple(_key(item, mapping) for item in arg)
    if isinstance(arg, dict):
        return tuple((key, _key(item, mapping)) for key, item in sorted(arg.items()))
    return (type(arg).__name__, repr(arg))


def _name_plain_strides(graph: Graph) -> None:
    """PyTorch's decompositions sometimes reshape by as_strided; with plain strides it is a view."""
    for node in graph.nodes:
        if node.op != "aten.as_strided.default" or (len(node.args) > 3 and node.args[3]):
            continue
        source, sizes, strides = node.args[:3]
        plain = [_at(sizes[n + 1 :], 11) for n in range(len(sizes))]
        given = [s.at(11) if isinstance(s, BatchTerm) else s for s in strides]
        if plain == given and _at(sizes, 11) == _at(source.shape, 11):
            node.op, node.args = "aten.view.default", (source, sizes)


def _at(sizes: Sequence[Size], batch: int) -> float:
    """How many numbers a tensor of these sizes has, for a batch of so many."""
    return math.prod(size.at(batch) if isinstance(size, BatchTerm) else size for size in sizes)


def _drop_unchanged(graph: Graph) -> None:
    """Views, casts and permutations that change nothing."""
    mapping: dict[Value, Value] = {}
    for node in graph.nodes:
        if not node.args or not isinstance(node.args[0], Value):
            continue
        source = node.args[0]
        same = source.shape == node.output.shape and source.dtype == node.output.dtype
        still = node.op == "aten._to_copy.default" or node.op in _VIEWS
        if same and still and not (node.op.startswith("aten.slice") and node.args[4:5] not in ((), (1,))):
            mapping[node.output] = source
    graph.replace(mapping)


def _drop_sums_of_one(graph: Graph) -> None:
    """A sum over dimensions of size 1 only changes the shape; recurrent layers are full of them."""
    for node in graph.nodes:
        if node.op != "aten.sum.dim_IntList" or not node.args[1]:
            continue
        source = node.args[0]
        alone = all(source.shape[d % source.rank] == 1 for d in node.args[1])
        if alone and source.dtype == node.output.dtype:
            node.op, node.args, node.kwargs = "aten.view.default", (source, list(node.output.shape)), {}


def filled_with(value: Arg) -> Arg:
    """The number that a tensor is full of, or None if it is not known to be full of one."""
    if not isinstance(value, Value) or value.node is None:
        return None
    node = value.node
    if node.op in _EXPANDS or node.op in _VIEWS:
        return filled_with(node.args[0])
    if node.op not in _FILLS:
        return None
    if "zeros" in node.op:
        return 0.0
    if "ones" in node.op:
        return 1.0
    return node.args[0] if node.op == "aten.scalar_tensor.default" else node.args[1]


def _drop_ones(graph: Graph) -> None:
    """x·1 and x/1 are x, to the last bit."""
    mapping: dict[Value, Value] = {}
    for node in graph.nodes:
        if node.op not in ("aten.mul.Tensor", "aten.div.Tensor", "aten.mul.Scalar", "aten.div.Scalar"):
            continue
        left, right = node.args[:2]
        choices = [(left, right)] if "div" in node.op else [(left, right), (right, left)]
        for kept, other in choices:
            number = other if isinstance(other, int | float) else filled_with(other)
            if not isinstance(kept, Value) or isinstance(number, BatchTerm | None) or number != 1:
                continue
            if kept.shape == node.output.shape and kept.dtype == node.output.dtype:
                mapping[node.output] = kept
                break
    graph.replace(mapping)


def _drop_expansions(graph: Graph) -> None:
    """An operator that broadcasts by itself needs no expanded operand, if another gives the shape."""
    for node in graph.nodes:
        if node.op not in _BROADCASTING:
            continue
        args = list(node.args)
        for position, arg in enumerate(args):
            if not (isinstance(arg, Value) and arg.node is not None and arg.node.op in _EXPANDS):
                continue
            source = arg.node.args[0]
            others = [a.shape for n, a in enumerate(args) if n != position and isinstance(a, Value)]
            if broadcast([source.shape, *others]) == node.output.shape:
                args[position] = source
        node.args = tuple(args)


def _mask_before_unpooling(graph: Graph) -> None:
    """ReLU, then max pooling: backwards, the mask may come first, where there are fewer numbers.

    A window's winner is above the threshold if the window's maximum is.
    """
    readers = graph.readers()
    outputs = set(graph.outputs)
    mapping: dict[Value, Value] = {}
    for node in list(graph.nodes):
        if node.op != "aten.threshold_backward.default":
            continue
        wide, x, threshold = node.args[:3]
        pool = wide.node
        if pool is None or pool.op != "aten.max_pool2d_with_indices_backward.default" or pool.args[1] is not x:
            continue
        forward = pool.args[7].node
        if not _only_reader(wide, readers, outputs) or forward is None or forward.args[0] is not x:
            continue
        narrow: Value = pool.args[0]
        made = Node(node.op, (narrow, forward.output, threshold), {}, [], node.where)
        masked = Value(f"{node.output.name}_narrow", narrow.shape, narrow.dtype, made)
        made.outputs = [masked]
        pool.args = (masked, *pool.args[1:])
        graph.nodes.insert(graph.nodes.index(pool), made)
        mapping[node.output] = wide
    graph.replace(mapping)


_PERMUTES: Final = frozenset({"aten.permute.default", "aten.permute_copy.default"})


def _turn_products(graph: Graph) -> None:
    """The transpose of A·B is Bᵀ·Aᵀ: the same sums, and transposed operands cost a product nothing."""
    readers = graph.readers()
    outputs = set(graph.outputs)
    nodes: list[Node] = []
    for node in graph.nodes:
        nodes.append(node)
        source = node.args[0] if node.op in _PERMUTES else None
        if not isinstance(source, Value) or source.node is None or source.rank != 2:
            continue
        product = source.node
        turned = [d % 2 for d in node.args[1]] == [1, 0]
        if not turned or product.op != "aten.mm.default" or not _only_reader(source, readers, outputs):
            continue
        left, right = (_transposed(value, nodes) for value in product.args[:2])
        node.op, node.args = "aten.mm.default", (right, left)
    graph.nodes = nodes


def _transposed(value: Value, nodes: list[Node]) -> Value:
    """A matrix's transpose: what it was made from if it is one itself, else a new node before the last."""
    maker = value.node
    if maker is not None and maker.op in _PERMUTES and [d % 2 for d in maker.args[1]] == [1, 0]:
        source: Value = maker.args[0]
        return source
    made = Node("aten.permute.default", (value, [1, 0]), {}, [], None)
    output = Value(f"{value.name}_t{len(nodes)}", value.shape[::-1], value.dtype, made)
    made.outputs = [output]
    nodes.insert(len(nodes) - 1, made)
    return output


def sparse_table_updates(graph: Graph) -> int:
    """Turn ``P - lr·index_put(0, rows, g)`` into ``index_put(P, rows, -lr·g)``: O(batch), not O(table).

    Sums are taken in another order, so results may differ in their last bits where rows repeat. Where they
    repeat a lot, in tables with fewer rows than a batch of 32 looks up, small updates would be lost one by one,
    and there is nothing to be gained: these stay as they are.

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
        if sum(_at(put.args[1][0].shape, _USUAL_BATCH) for put in puts) >= _at(table.shape[:1], _USUAL_BATCH):
            continue
        _scatter_into(graph, node, table, rate, puts)
        count += 1
    if count:
        drop_dead_nodes(graph)
    return count


def products_into_parameters(graph: Graph) -> None:
    """Turn ``P - lr·(A·B)`` into ``P + (-lr·A)·B``, which an engine computes without writing the gradient out.

    The rate goes to the smaller factor, so results may differ in their last bits.
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
        if product is None or product.op != "aten.mm.default" or not _only_reader(gradient, readers, outputs):
            continue
        if gradient.shape != parameter.shape:
            continue
        left, right = product.args[:2]
        new = _Additions(node)
        negative = new.add("aten.neg.default", (rate,), (), rate.dtype)
        if _at(left.shape, _USUAL_BATCH) <= _at(right.shape, _USUAL_BATCH):
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
    if maker is not None and maker.op in _PERMUTES:
        source = _times(maker.args[0], number, new)
        return new.add(maker.op, (source, *maker.args[1:]), matrix.shape, matrix.dtype)
    return new.add("aten.mul.Tensor", (matrix, number), matrix.shape, matrix.dtype)


def _only_reader(value: Value, readers: dict[Value, list[Node]], outputs: set[Value]) -> bool:
    return len(readers.get(value, [])) == 1 and value not in outputs


def _product(value: Arg, readers: dict[Value, list[Node]], outputs: set[Value]) -> tuple[Value, Value] | None:
    """The scalar and the tensor that a value, read once, is the product of."""
    if not isinstance(value, Value) or value.node is None or value.node.op != "aten.mul.Tensor":
        return None
    rate, gradient = value.node.args[:2]
    alone = _only_reader(value, readers, outputs)
    if not (alone and isinstance(rate, Value) and isinstance(gradient, Value) and rate.shape == ()):
        return None
    return rate, gradient


def _puts(value: Value, readers: dict[Value, list[Node]], outputs: set[Value]) -> list[Node] | None:
    """The accumulating index_puts into zeros that a value, read once, is the sum of."""
    node = value.node
    if node is None or not _only_reader(value, readers, outputs):
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
    """The sum of sizes that are all numbers, or all the same power of the batch."""
    if all(isinstance(size, int) for size in sizes):
        return sum(size for size in sizes if isinstance(size, int))
    terms = [size for size in sizes if isinstance(size, BatchTerm)]
    if len(terms) < len(sizes) or len({term.power for term in terms}) > 1:
        return None
    return BatchTerm(sum(t.factor for t in terms), terms[0].power, sum(t.offset for t in terms))
