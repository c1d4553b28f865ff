"""Building an ONNX graph node by node: names, constants, and sizes that follow the batch and tables' rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from devicelab.errors import PlanError
from devicelab.plans.graph import Arg, Graph, Node, Rows, Size, Term, Value
from devicelab.plans.signature import METADATA_KEY, Signature

__all__ = [
    "IR_VERSION",
    "OPSET",
    "Call",
    "Port",
    "Translator",
    "Writer",
    "operator_error",
    "sources_of_sizes",
    "write_graph",
    "write_onnx",
]

OPSET: Final = 18
IR_VERSION: Final = 8  # the oldest that allows opset 18; ONNX Runtime 1.14 and newer read it
_ONNX_TYPES: Final[dict[torch.dtype, int]] = {
    torch.float32: TensorProto.FLOAT,
    torch.float64: TensorProto.DOUBLE,
    torch.float16: TensorProto.FLOAT16,
    torch.int64: TensorProto.INT64,
    torch.int32: TensorProto.INT32,
    torch.int8: TensorProto.INT8,
    torch.uint8: TensorProto.UINT8,
    torch.bool: TensorProto.BOOL,
}
_LARGEST_INITIALIZER: Final = 4096  # elements; larger fills are made when the step runs

Array = np.ndarray[Any, Any]
Translator = Callable[["Writer", "Call"], str | Sequence[str]]


class Port(Protocol):
    """An input or output as a file describes it."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def dtype(self) -> str:
        """Its element type, by NumPy's name."""

    @property
    def shape(self) -> Sequence[int | str]:
        """Its sizes; words where they are open."""


def operator_error(node: Node, reason: str) -> PlanError:
    """The error for an operator that cannot be written as ONNX; names it and the model's line."""
    where = f" at {node.where}" if node.where else ""
    return PlanError(
        f"the operator {node.op}{where} cannot be written as ONNX: {reason}",
        hint="write that line with other operators, or leave it out of the plan",
    )


class Call:
    """One node's arguments by the names in its operator's schema, defaults included."""

    def __init__(self, node: Node) -> None:
        self.node = node
        namespace, name, overload = node.op.split(".")
        schema = getattr(getattr(getattr(torch.ops, namespace), name), overload)._schema
        self._arguments: dict[str, Arg] = {}
        for position, argument in enumerate(schema.arguments):
            if position < len(node.args):
                self._arguments[argument.name] = node.args[position]
            elif argument.name in node.kwargs:
                self._arguments[argument.name] = node.kwargs[argument.name]
            else:
                self._arguments[argument.name] = argument.default_value

    def __getitem__(self, name: str) -> Arg:
        return self._arguments[name]

    def get(self, name: str) -> Arg:
        """An argument, None if the operator has none of that name."""
        return self._arguments.get(name)

    def value(self, name: str) -> Value:
        """An argument that must be a tensor."""
        value = self._arguments[name]
        if not isinstance(value, Value):
            raise operator_error(self.node, f"its argument {name} is {value!r}, not a tensor")
        return value

    def number(self, name: str) -> int | float:
        """An argument that must be a number whatever the batch and the tables."""
        value = self._arguments[name]
        if not isinstance(value, int | float):
            raise operator_error(
                self.node, f"its argument {name} depends on the number of examples or of a table's rows"
            )
        return value

    def integers(self, name: str, length: int | None = None) -> list[int]:
        """A list of whole numbers; a single one stands for all ``length``."""
        items = self._arguments[name]
        items = [items] if isinstance(items, int) else list(items or [])
        if any(not isinstance(item, int) for item in items):
            raise operator_error(
                self.node, f"its argument {name} depends on the number of examples or of a table's rows"
            )
        return items * length if length is not None and len(items) == 1 else items

    def dimension(self, name: str, rank: int) -> int:
        """A dimension, counted from the front."""
        return int(self.number(name)) % max(rank, 1)

    @property
    def output(self) -> Value:
        """The node's first output."""
        return self.node.output


class Writer:
    """Collects ONNX nodes and initializers; every method that makes something returns its name."""

    def __init__(self, graph: Graph, input_names: Sequence[str]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self._names: dict[Value, str] = dict(zip(graph.inputs, input_names, strict=True))
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._emitted: dict[Any, list[str]] = {}
        self._sources = sources_of_sizes(graph)
        self._count = 0
        self._readers = graph.readers()
        self._outputs = set(graph.outputs)
        for value, tensor in graph.constants.values():
            self._names[value] = self.constant(tensor.numpy())

    def emit(self, op: str, inputs: Sequence[str], *, outputs: int = 1, **attributes: Any) -> list[str]:  # noqa: ANN401 - ONNX attributes
        """Add a node (or find the equal one that is there) and name its outputs."""
        attributes = {key: value for key, value in attributes.items() if value is not None}
        key = (op, tuple(inputs), outputs, repr(sorted(attributes.items(), key=lambda item: item[0])))
        if key not in self._emitted:
            self._count += 1
            stem = f"{op.lower()}_{self._count}"
            names = [stem] if outputs == 1 else [f"{stem}_{n}" for n in range(outputs)]
            self.nodes.append(helper.make_node(op, list(inputs), names, **attributes))
            self._emitted[key] = names
        return self._emitted[key]

    def one(self, op: str, *inputs: str, **attributes: Any) -> str:  # noqa: ANN401 - ONNX attributes
        """Add a node with one output."""
        return self.emit(op, inputs, **attributes)[0]

    def name(self, value: Value) -> str:
        """The ONNX name of a value that has been written."""
        return self._names[value]

    def readers(self, value: Value) -> list[Node]:
        """The nodes that read a value."""
        return self._readers.get(value, [])

    def is_output(self, value: Value) -> bool:
        """Whether it is a result of the whole graph."""
        return value in self._outputs

    def bind(self, node: Node, names: str | Sequence[str]) -> None:
        """Say which ONNX names are a node's outputs."""
        listed = [names] if isinstance(names, str) else list(names)
        for value, name in zip(node.outputs, listed, strict=False):
            self._names[value] = name

    def constant(self, array: Array) -> str:
        """An initializer, shared by all equal ones."""
        array = np.ascontiguousarray(array).reshape(array.shape)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"const_{len(self._constants)}"
            self._constants[key] = name
            self.initializers[name] = numpy_helper.from_array(array, name)
        return self._constants[key]

    def ints(self, *values: int) -> str:
        """A one-dimensional int64 constant."""
        return self.constant(np.array(values, dtype=np.int64))

    def scalar(self, number: Arg, dtype: torch.dtype) -> str:
        """A number as a scalar of that type."""
        if isinstance(number, Term):
            vector = self._term(number, dtype)
            return self.one("Squeeze", vector, self.ints(0))
        return self.constant(torch.tensor(number, dtype=dtype).numpy())

    def operand(self, arg: Arg, dtype: torch.dtype) -> str:
        """A tensor or number, cast to that type if it has another."""
        if not isinstance(arg, Value):
            return self.scalar(arg, dtype)
        return self.cast(self.name(arg), arg.dtype, dtype)

    def cast(self, name: str, old: torch.dtype, new: torch.dtype) -> str:
        """The tensor in another element type."""
        return name if old == new else self.one("Cast", name, to=onnx_type(new))

    def sizes(self, shape: Sequence[Size]) -> str:
        """A shape as a one-dimensional int64 tensor."""
        if all(isinstance(size, int) for size in shape):
            return self.ints(*(int(size) for size in shape if isinstance(size, int)))
        parts: list[str] = []
        run: list[int] = []
        for size in shape:
            if isinstance(size, Term):
                parts += ([self.ints(*run)] if run else []) + [self._term(size, torch.int64)]
                run = []
            else:
                run.append(size)
        parts += [self.ints(*run)] if run else []
        return parts[0] if len(parts) == 1 else self.emit("Concat", parts, axis=0)[0]

    def _term(self, term: Term, dtype: torch.dtype) -> str:
        """A number that depends on open sizes as a tensor of shape [1]."""

        def number(value: float) -> str:
            return self.constant(torch.tensor([value], dtype=dtype).numpy())

        sizes = [None] * abs(term.power) + ([] if term.rows is None else [term.rows])
        result, *others = (self._size(size, dtype) for size in sizes)
        for other in others:
            result = self.one("Mul", result, other)
        if term.power < 0:
            result = self.one("Div", number(term.factor), result)
        elif term.factor != 1:
            result = self.one("Mul", result, number(term.factor))
        return self.one("Add", result, number(term.offset)) if term.offset else result

    def _size(self, rows: Rows | None, dtype: torch.dtype) -> str:
        """The number of a table's rows, or of examples, as a tensor of shape [1]."""
        if rows not in self._sources:
            what = "examples" if rows is None else f"rows of table {rows.table!r}"
            raise PlanError(f"no input's size tells the number of {what}, but the step depends on it")
        source, dimension = self._sources[rows]
        name = self.one("Shape", self._names[source], start=dimension, end=dimension + 1)
        return self.cast(name, torch.int64, dtype)

    def filled(self, shape: Sequence[Size], number: Arg, dtype: torch.dtype) -> str:
        """A tensor of one value: small ones are initializers, larger ones are made when the step runs."""
        fixed = [size for size in shape if isinstance(size, int)]
        if isinstance(number, Term):
            scalar = self.scalar(number, dtype)
            return self.one("Expand", scalar, self.sizes(shape)) if shape else scalar
        if len(fixed) == len(shape) and np.prod(fixed, initial=1) <= _LARGEST_INITIALIZER:
            return self.constant(torch.full(fixed, number, dtype=dtype).numpy())
        value = numpy_helper.from_array(torch.tensor([number], dtype=dtype).numpy())
        return self.one("ConstantOfShape", self.sizes(shape), value=value)

    def reshape(self, name: str, shape: Sequence[Size]) -> str:
        """The tensor in another shape; at most one size that is open needs no arithmetic."""
        moving = [size for size in shape if isinstance(size, Term)]
        if len(moving) == 1 and 0 not in shape:
            target = self.ints(*(-1 if isinstance(size, Term) else size for size in shape))
        else:
            target = self.sizes(shape)
        return self.one("Reshape", name, target)

    def model(
        self, graph: Graph, name: str, inputs: Sequence[Port], outputs: Sequence[Port]
    ) -> onnx.ModelProto:
        """The finished file, outputs renamed to what they shall be called."""
        output_names = [o.name for o in outputs]
        renamed: dict[str, str] = {}
        taken = {i.name for i in inputs} | set(self.initializers)
        for value, wanted in zip(graph.outputs, output_names, strict=True):
            made = self._names[value]
            if made in taken or made in renamed:
                self.nodes.append(helper.make_node("Identity", [made], [wanted]))
            else:
                renamed[made] = wanted
        for node in self.nodes:
            node.input[:] = [renamed.get(each, each) for each in node.input]
            node.output[:] = [renamed.get(each, each) for each in node.output]
        nodes = _alive(self.nodes, set(output_names))
        for node in nodes:  # ONNX Runtime 1.18 makes names of its own out of these, and trips over empty ones
            node.name = f"make/{node.output[0]}"
        body = helper.make_graph(
            nodes,
            name,
            [_described(i.name, i.dtype, i.shape) for i in inputs],
            [_described(o.name, o.dtype, o.shape) for o in outputs],
            [i for i in self.initializers.values() if any(i.name in node.input for node in nodes)],
        )
        return helper.make_model(
            body,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="devicelab",
        )


def sources_of_sizes(graph: Graph) -> dict[Rows | None, tuple[Value, int]]:
    """For each table the input, and its dimension, that tells the number of its rows; for None, of examples."""
    found: dict[Rows | None, tuple[Value, int]] = {}
    for value in graph.inputs:
        for dimension, size in enumerate(value.shape):
            if isinstance(size, Term) and size in (Term(1, 1), Term(1, 0, rows=size.rows)):
                found.setdefault(size.rows, (value, dimension))
    return found


def _alive(nodes: Sequence[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """The nodes that the wanted results depend on, in order: a transposition that became a flag is not."""
    kept = []
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted |= set(node.input)
            kept.append(node)
    return kept[::-1]


def onnx_type(dtype: torch.dtype) -> int:
    """ONNX's number for an element type.

    Raises:
        PlanError: It has none that plans use.
    """
    if dtype not in _ONNX_TYPES:
        raise PlanError(f"the step computes with {dtype}, which plans do not know")
    return _ONNX_TYPES[dtype]


def _described(name: str, dtype: str, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, onnx_type(getattr(torch, dtype)), list(shape))


def write_onnx(graph: Graph, signature: Signature) -> onnx.ModelProto:
    """Write a graph as an ONNX model with its signature.

    Args:
        graph: Its inputs and outputs in the signature's order.
        signature: Names and roles.

    Raises:
        PlanError: An operator has no translation; names it and the model's line.
    """
    model = write_graph(graph, signature.name, signature.graph_inputs, signature.graph_outputs)
    helper.set_model_props(model, {METADATA_KEY: signature.to_json()})
    return model


def write_graph(graph: Graph, name: str, inputs: Sequence[Port], outputs: Sequence[Port]) -> onnx.ModelProto:
    """Write a graph as a plain ONNX model.

    Args:
        graph: The graph.
        name: What it is called.
        inputs: Its inputs, in order.
        outputs: Its outputs, in order.

    Raises:
        PlanError: An operator has no translation; names it and the model's line.
    """
    from devicelab.plans.operators import TRANSLATORS  # noqa: PLC0415 - the translators import this module

    writer = Writer(graph, [i.name for i in inputs])
    for node in graph.nodes:
        translator = TRANSLATORS.get(node.op)
        if translator is None:
            raise operator_error(node, "there is no translation for it")
        try:
            writer.bind(node, translator(writer, Call(node)))
        except PlanError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise operator_error(node, f"{type(error).__name__}: {error}") from error
    return writer.model(graph, name, inputs, outputs)
