"""From a pure function to a :class:`Graph` whose sizes follow the batch.

The function is traced twice, at two batch sizes, with fake tensors (no arithmetic is done). Wherever the two
graphs hold different numbers, the number depends on the batch, and the pair says how: 11 and 13 is B, 220 and
260 is 20·B, 1/11 and 1/13 is 1/B. Unlike symbolic shapes this cannot mistake a layer's width for the batch that
happens to be as large, and takes a tenth of the time. A graph that is not the same at both sizes has a fixed
batch. For each table whose number of rows is open it is traced once more, with two rows more.
"""

from __future__ import annotations

import logging
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
from devicelab.plans.functional import is_simply_mutating
from devicelab.plans.graph import Graph, Rows
from devicelab.plans.randomness import plain_attention
from devicelab.plans.unifying import Resized, Unifier, batch_error, rows_error

__all__ = ["trace"]

_SIZES: Final = (11, 13, 17)
_MORE_ROWS: Final = 2
_LOGGER: Final = logging.getLogger("torch._subclasses.fake_tensor")
_TORCH: Final = str(Path(torch.__file__).parent)
_HERE: Final = str(Path(__file__).parent)
_STEP: Final = str(Path(__file__).with_name("step.py"))
_ZOO: Final = str(Path(__file__).parent / "zoo")


def trace(
    function: Callable[..., Sequence[Tensor]],
    arguments: Callable[[int], list[Tensor]],
    *,
    fixed_batch: int | None = None,
    tables: Sequence[Rows | None] = (),
) -> Graph:
    """Trace a pure function of tensors.

    Args:
        function: What to trace; returns tensors.
        arguments: Makes example arguments for a batch of so many examples.
        fixed_batch: Trace at this one size only; the graph then fits no other.
        tables: For each argument the table whose rows it has; its first size is then open. None for the others,
            and nothing at all where there are no tables.

    Raises:
        PlanError: It cannot be traced, or is another program at another batch size.
        RowsError: It is another program for another number of rows.
    """
    sizes = _SIZES[:2] if fixed_batch is None else (fixed_batch,)
    modules = [_trace_once(function, arguments(size)) for size in sizes]
    resized = [
        _trace_resized(function, arguments(sizes[0]), tables, rows)
        for rows in dict.fromkeys(rows for rows in tables if rows is not None)
    ]
    unifier = Unifier(modules, sizes, resized)
    graph = unifier.graph()
    if unifier.guessed:  # a*B + c fits any two points: a third one must agree
        third = _trace_once(function, arguments(_SIZES[2]))
        again = Unifier([modules[0], third], [_SIZES[0], _SIZES[2]], resized)
        again.graph()
        if again.terms != unifier.terms:
            raise batch_error("sizes in it depend on the number of examples in a way that is not linear")
    return graph


def _trace_resized(
    function: Callable[..., Sequence[Tensor]],
    arguments: list[Tensor],
    tables: Sequence[Rows | None],
    rows: Rows,
) -> Resized:
    count = rows.count + _MORE_ROWS
    changed = [
        tensor.new_zeros((count, *tensor.shape[1:])) if table == rows else tensor
        for tensor, table in zip(arguments, tables, strict=True)
    ]
    try:
        return Resized(rows, count, _trace_once(function, changed))
    except PlanError as error:
        raise rows_error(rows.table, f"for {count} rows instead of {rows.count}, {error.message}") from error


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
    """Have PyTorch choose operators that every engine knows: no fused attention, no oneDNN, no fast paths.

    What it would write to stderr of sizes that do not fit is told by the error that follows.
    """
    fastpath = torch.backends.mha.get_fastpath_enabled()
    onednn = torch._C._get_mkldnn_enabled()  # its public twin warns about TF32 on Intel's graphics cards
    with ExitStack() as stack:
        stack.enter_context(enable_python_dispatcher())
        stack.enter_context(plain_attention())
        torch._C._set_mkldnn_enabled(False)  # noqa: FBT003 - PyTorch's signature
        torch.backends.mha.set_fastpath_enabled(False)
        told, _LOGGER.disabled = _LOGGER.disabled, True
        try:
            yield
        finally:
            _LOGGER.disabled = told
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
