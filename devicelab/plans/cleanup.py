"""Tidying a traced graph. Every rewrite keeps each result's bits.

General-purpose ONNX optimizers are not used: one takes ``x + 1e-8`` for ``x``, which turns Adam into NaN, and
folds tables of zeros into the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

from devicelab.plans.graph import Arg, Graph, Node, Size, Term, Value, broadcast

__all__ = ["PERMUTES", "alive_nodes", "clean", "drop_dead_nodes", "filled_with", "only_reader", "size_at"]

_VIEWS: Final = frozenset(
    {
        "aten.view.default", "aten.view_copy.default", "aten._unsafe_view.default", "aten.expand.default",
        "aten.expand_copy.default", "aten.slice.Tensor", "aten.slice_copy.Tensor",
    }
)  # fmt: skip
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
        plain = [size_at(sizes[n + 1 :], 11) for n in range(len(sizes))]
        given = [s.at(11) if isinstance(s, Term) else s for s in strides]
        if plain == given and size_at(sizes, 11) == size_at(source.shape, 11):
            node.op, node.args = "aten.view.default", (source, sizes)


def size_at(sizes: Sequence[Size], batch: int) -> float:
    """How many numbers a tensor of these sizes has, for a batch of so many."""
    return math.prod(size.at(batch) if isinstance(size, Term) else size for size in sizes)


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
            if not isinstance(kept, Value) or isinstance(number, Term | None) or number != 1:
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
        if not only_reader(wide, readers, outputs) or forward is None or forward.args[0] is not x:
            continue
        narrow: Value = pool.args[0]
        made = Node(node.op, (narrow, forward.output, threshold), {}, [], node.where)
        masked = Value(f"{node.output.name}_narrow", narrow.shape, narrow.dtype, made)
        made.outputs = [masked]
        pool.args = (masked, *pool.args[1:])
        graph.nodes.insert(graph.nodes.index(pool), made)
        mapping[node.output] = wide
    graph.replace(mapping)


PERMUTES: Final = frozenset({"aten.permute.default", "aten.permute_copy.default"})


def _turn_products(graph: Graph) -> None:
    """The transpose of A·B is Bᵀ·Aᵀ: the same sums, and transposed operands cost a product nothing."""
    readers = graph.readers()
    outputs = set(graph.outputs)
    nodes: list[Node] = []
    for node in graph.nodes:
        nodes.append(node)
        source = node.args[0] if node.op in PERMUTES else None
        if not isinstance(source, Value) or source.node is None or source.rank != 2:
            continue
        product = source.node
        turned = [d % 2 for d in node.args[1]] == [1, 0]
        if not turned or product.op != "aten.mm.default" or not only_reader(source, readers, outputs):
            continue
        left, right = (_transposed(value, nodes) for value in product.args[:2])
        node.op, node.args = "aten.mm.default", (right, left)
    graph.nodes = nodes


def _transposed(value: Value, nodes: list[Node]) -> Value:
    """A matrix's transpose: what it was made from if it is one itself, else a new node before the last."""
    maker = value.node
    if maker is not None and maker.op in PERMUTES and [d % 2 for d in maker.args[1]] == [1, 0]:
        source: Value = maker.args[0]
        return source
    made = Node("aten.permute.default", (value, [1, 0]), {}, [], None)
    output = Value(f"{value.name}_t{len(nodes)}", value.shape[::-1], value.dtype, made)
    made.outputs = [output]
    nodes.insert(len(nodes) - 1, made)
    return output


def only_reader(value: Value, readers: dict[Value, list[Node]], outputs: set[Value]) -> bool:
    """Whether one node reads a value, once and for all: it may then be merged with what makes it."""
    return len(readers.get(value, [])) == 1 and value not in outputs
