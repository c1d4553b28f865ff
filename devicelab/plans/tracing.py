"""From a pure function to a :class:`Graph` whose sizes follow the batch.

The function is traced twice, at two batch sizes, with fake tensors (no arithmetic is done). Wherever the two
graphs hold different numbers, the number depends on the batch, and the pair says how: 11 and 13 is B, 220 and
260 is 20·B, 1/11 and 1/13 is 1/B. Unlike symbolic shapes this cannot mistake a layer's width for the batch that
happens to be as large, and takes a tenth of the time. A graph that is not the same at both sizes has a fixed
batch.
"""

from __future__ import annotations

import math
import operator
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from devicelab.errors import PlanError
from devicelab.plans.decompositions import decomposition_table
from devicelab.plans.functional import is_simply_mutating, pure_twin
from devicelab.plans.graph import Arg, BatchTerm, Graph, Node, Value
from devicelab.plans.randomness import plain_attention

__all__ = ["trace"]

_SIZES: Final = (11, 13, 17)
_TORCH: Final = str(Path(torch.__file__).parent)
_HERE: Final = str(Path(__file__).parent)
_STEP: Final = str(Path(__file__).with_name("step.py"))
_ZOO: Final = str(Path(__file__).parent / "zoo")


def trace(
    function: Callable[..., Sequence[Tensor]],
    arguments: Callable[[int], list[Tensor]],
    *,
    fixed_batch: int | None = None,
) -> Graph:
    """Trace a pure function of tensors.

    Args:
        function: What to trace; returns tensors.
        arguments: Makes example arguments for a batch of so many examples.
        fixed_batch: Trace at this one size only; the graph then fits no other.

    Raises:
        PlanError: It cannot be traced, or is another program at another batch size.
    """
    if fixed_batch is not None:
        return _Unifier([_trace_once(function, arguments(fixed_batch))], [fixed_batch]).graph()
    first, second = (_trace_once(function, arguments(size)) for size in _SIZES[:2])
    unifier = _Unifier([first, second], list(_SIZES[:2]))
    graph = unifier.graph()
    if unifier.guessed:  # a*B + c fits any two points: a third one must agree
        third = _trace_once(function, arguments(_SIZES[2]))
        again = _Unifier([first, third], [_SIZES[0], _SIZES[2]])
        again.graph()
        if again.terms != unifier.terms:
            raise _batch_error("sizes in it depend on the number of examples in a way that is not linear")
    return graph


def _batch_error(reason: str) -> PlanError:
    return PlanError(
        f"the model is another program for another number of examples: {reason}",
        hint="set `fixed_batch = True` in the plan to export it for batches as long as the example batch only",
    )


class _Provenance(TorchDispatchMode):  # type: ignore[no-untyped-call] # its __init_subclass__ has no annotations
    """Writes on each traced node which line of the user's code it comes from.

    A backward node gets the line of the forward operator it belongs to, by autograd's sequence number.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # PyTorch does not annotate it
        self._lines: dict[int, str] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the operator returns
        node: torch.autograd.graph.Node | None = torch._C._current_autograd_node()
        if node is not None:
            line = self._lines.get(node._sequence_nr())
        else:
            line = _user_line()
            if line is not None:
                self._lines[torch._C._autograd._get_sequence_nr() - 1] = line
        try:
            result = func(*args, **(kwargs or {}))
        except (RuntimeError, NotImplementedError) as error:
            error.add_note(f"devicelab-operator {func}\ndevicelab-line {line or ''}")
            raise
        _label_new_nodes(line)
        return result


def _label_new_nodes(line: str | None) -> None:
    mode = get_proxy_mode()
    if mode is None:
        return
    node = mode.tracer.graph._root.prev
    while node.op == "call_function" and "where" not in node.meta:
        node.meta["where"] = line
        node = node.prev


def _user_line() -> str | None:
    """The innermost frame that is neither PyTorch's nor ours."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if _is_users(name):
            return f"{name}:{frame.f_lineno} in {frame.f_code.co_name}"
        if name == _STEP:  # our own arithmetic: the update, the clipping
            return None
        frame = frame.f_back
    return None


@contextmanager
def _plain_operators() -> Iterator[None]:
    """Have PyTorch choose operators that every engine knows: no fused attention, no oneDNN, no fast paths."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    onednn = torch._C._get_mkldnn_enabled()  # its public twin warns about TF32 on Intel's graphics cards
    with ExitStack() as stack:
        stack.enter_context(enable_python_dispatcher())
        stack.enter_context(plain_attention())
        torch._C._set_mkldnn_enabled(False)  # noqa: FBT003 - PyTorch's signature
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch._C._set_mkldnn_enabled(onednn)
            torch.backends.mha.set_fastpath_enabled(fastpath)


def _trace_once(function: Callable[..., Sequence[Tensor]], arguments: list[Tensor]) -> fx.GraphModule:
    def located(*tensors: Tensor) -> Sequence[Tensor]:
        with _Provenance():
            return list(function(*tensors))

    try:
        with _plain_operators():
            module = make_fx(
                located,
                decomposition_table=decomposition_table(),
                tracing_mode="fake",
                _allow_non_fake_inputs=True,
            )(*arguments)
            if not is_simply_mutating(module):
                module = _functionalized(module, arguments)
    except PlanError:
        raise
    except Exception as error:  # the model's own code may raise anything
        raise _trace_error(error) from error
    return module


def _trace_error(error: Exception) -> PlanError:
    operator_name, line = "", ""
    for note in getattr(error, "__notes__", []):
        for text in note.splitlines():
            if text.startswith("devicelab-operator ") and not operator_name:
                operator_name = text.split(" ", 1)[1]
            elif text.startswith("devicelab-line ") and not line:
                line = text.split(" ", 1)[1]
    line = line or _raised_at(error)
    reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else ""
    if not isinstance(error, RuntimeError):  # whose texts speak for themselves
        reason = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    where = f" at {line}" if line else ""
    what = f"the operator {operator_name}{where} " if operator_name else f"the model{where} "
    return PlanError(f"{what}cannot be traced: {reason}", hint=_hint(error))


def _raised_at(error: Exception) -> str:
    """The innermost line of the user's code that an error passed through."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_users(f.filename)]
    return f"{frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}" if frames else ""


def _is_users(name: str) -> bool:
    ours = name.startswith(_HERE) and not name.startswith(_ZOO)
    return not ours and not name.startswith((_TORCH, "<")) and not name.endswith("contextlib.py")


def _hint(error: Exception) -> str | None:
    name = type(error).__name__
    if "DataDependent" in name or "DynamicOutputShape" in name or "UnsupportedFakeTensor" in name:
        return (
            "the model reads a tensor's values in Python (`.item()`, `if x > 0`, boolean indexing): use "
            "torch.where or a fixed size instead"
        )
    return None


class _Replay(fx.Interpreter):
    """Runs a graph again so that the new nodes inherit the old ones' lines."""

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - as in fx
        result = super().run_node(n)
        if n.op == "call_function":
            _label_new_nodes(n.meta.get("where"))
        return result


def _functionalized(module: fx.GraphModule, arguments: list[Tensor]) -> fx.GraphModule:
    """The same graph with in-place operators and writes through views turned into pure ones."""
    pure = torch.func.functionalize(_Replay(module).run, remove="mutations_and_views")
    return make_fx(
        pure, tracing_mode="fake", decomposition_table=decomposition_table(), _allow_non_fake_inputs=True
    )(*arguments)


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


class _Unifier:
    """Reads the graphs of one function at several batch sizes, in step, as one."""

    def __init__(self, modules: list[fx.GraphModule], sizes: list[int]) -> None:
        self._modules = modules
        self._sizes = sizes
        self._values: dict[fx.Node, Value | list[Value]] = {}
        self._owners: dict[fx.Node, fx.Node] = {}  # of the results of in-place operators
        self._graph = Graph()
        self.terms: list[BatchTerm] = []
        self.guessed = False

    def graph(self) -> Graph:
        """The one graph.

        Raises:
            PlanError: They are different programs.
        """
        rows = [list(module.graph.nodes) for module in self._modules]
        if len({len(row) for row in rows}) != 1:
            raise _batch_error(f"it has {' or '.join(str(len(row)) for row in rows)} operations")
        for nodes in zip(*rows, strict=True):
            self._read(nodes)
        return self._graph

    def _read(self, nodes: tuple[fx.Node, ...]) -> None:
        node = nodes[0]
        if any((n.op, str(n.target)) != (node.op, str(node.target)) for n in nodes[1:]):
            other = next(n for n in nodes[1:] if str(n.target) != str(node.target))
            where = f" at {node.meta['where']}" if node.meta.get("where") else ""
            raise _batch_error(f"it calls {node.target} or {other.target}{where}")
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
        if len({len(shape) for shape in shapes}) != 1:
            raise _batch_error(f"a result of {nodes[0].target} has another number of dimensions")
        shape = tuple(self._number(list(sizes)) for sizes in zip(*shapes, strict=True))
        return Value(f"{nodes[0].name}{suffix}", shape, tensors[0].dtype)

    def _constant(self, nodes: tuple[fx.Node, ...]) -> None:
        tensors = [
            operator.attrgetter(str(n.target))(module) for n, module in zip(nodes, self._modules, strict=True)
        ]
        if not all(isinstance(t, Tensor) for t in tensors):
            raise PlanError(f"the traced model holds {nodes[0].target}, which is no tensor")
        if any(t.shape != tensors[0].shape or not torch.equal(t, tensors[0]) for t in tensors[1:]):
            raise _batch_error(f"its constant {nodes[0].target} is another one")
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
            if len({len(item) for item in items}) != 1:
                raise _batch_error(f"{nodes[0].target} takes a list of another length")
            return [self._argument(list(parts), nodes) for parts in zip(*items, strict=True)]
        if isinstance(first, bool) or not isinstance(first, int | float):
            if any(item != first for item in items[1:]):
                raise _batch_error(f"{nodes[0].target} takes {' or '.join(map(str, items))}")
            return first
        return self._number(items)

    def _number(self, items: list[Any]) -> Any:  # noqa: ANN401 - int, float or BatchTerm
        if len(items) == 1 or all(item == items[0] for item in items[1:]):
            return items[0]
        if any(isinstance(i, float) and math.isnan(i) for i in items):
            return items[0]
        term = self._term(items[0], items[1])
        self.terms.append(term)
        return term

    def _term(self, a: float, b: float) -> BatchTerm:
        low, high = self._sizes
        whole = isinstance(a, int) and isinstance(b, int)
        if whole:
            for power in (1, 2, 3):
                if a % low**power == 0 and a // low**power * high**power == b:
                    return BatchTerm(int(a) // low**power, power)
            if (b - a) % (high - low) == 0:
                self.guessed = True
                factor = (int(b) - int(a)) // (high - low)
                return BatchTerm(factor, 1, int(a) - factor * low)
        for power in (1, -1, 2, -2):
            factor_ = a / low**power
            if math.isclose(factor_ * high**power, b, rel_tol=1e-12):
                return BatchTerm(float(factor_), power)
        raise _batch_error(f"a number in it is {a} for {low} examples and {b} for {high}")
