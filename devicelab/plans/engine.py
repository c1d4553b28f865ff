"""Running a plan on this machine with ONNX Runtime, which is what phones run, in one thread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime

from devicelab.errors import PlanError
from devicelab.plans.signature import Signature

__all__ = ["BoundEngine", "Engine"]

Arrays = dict[str, np.ndarray[Any, Any]]


class Engine:
    """An ONNX Runtime session on one graph.

    Args:
        model: The file's content.
        threads: For a single operator; scatters into large tables are only right with one.

    Raises:
        PlanError: ONNX Runtime does not load it; its reason is in the message.
    """

    def __init__(self, model: bytes, *, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own exception classes share no base but this
            raise PlanError(
                f"ONNX Runtime {onnxruntime.__version__} does not load the graph: {error}"
            ) from error
        self.inputs = [i.name for i in self.session.get_inputs()]
        self.outputs = [o.name for o in self.session.get_outputs()]

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """All outputs by name.

        Raises:
            PlanError: An operator failed; ONNX Runtime's reason is in the message.
        """
        try:
            results = self.session.run(None, {name: feeds[name] for name in self.inputs})
        except Exception as error:  # as above
            raise PlanError(f"ONNX Runtime {onnxruntime.__version__} cannot run the graph: {error}") from error
        return dict(zip(self.outputs, map(np.asarray, results), strict=True))


class BoundEngine:
    """A training plan whose values stay in memory from step to step, as the runner on a phone keeps them.

    A value that may be updated in place has one buffer; the others have two, which take turns as input and
    output.

    Args:
        model: The file's content.
        signature: The plan's.
        feeds: The first value of every input.
    """

    def __init__(self, model: bytes, signature: Signature, feeds: Mapping[str, np.ndarray[Any, Any]]) -> None:
        self.session = Engine(model).session
        self._replacements = signature.replacements
        in_place = {o.replaces for o in signature.outputs if o.in_place}
        first = {name: _placed(array) for name, array in feeds.items()}
        second = {
            name: first[name] if name in in_place else _placed(feeds[name])
            for name in self._replacements.values()
        }
        rest = {
            o.name: _placed(np.zeros(tuple(int(s) for s in o.shape), dtype=o.dtype))
            for o in signature.outputs
            if o.replaces is None
        }
        self._values = first, first | second
        self._rest = rest
        self._bindings = tuple(
            self._binding(source, target) for source, target in (self._values, self._values[::-1])
        )
        self._steps = 0

    def _binding(self, source: Mapping[str, Any], target: Mapping[str, Any]) -> Any:  # noqa: ANN401 - ONNX Runtime's
        binding = self.session.io_binding()
        for name in (i.name for i in self.session.get_inputs()):
            binding.bind_ortvalue_input(name, source[name])
        for name in (o.name for o in self.session.get_outputs()):
            replaced = self._replacements.get(name)
            binding.bind_ortvalue_output(name, self._rest[name] if replaced is None else target[replaced])
        return binding

    def step(self) -> float:
        """Run one step and return the loss."""
        self.session.run_with_iobinding(self._bindings[self._steps % 2])
        self._steps += 1
        return float(self._rest["loss"].numpy())

    def values(self) -> Arrays:
        """The values now, by input name."""
        return {name: np.array(value.numpy()) for name, value in self._values[self._steps % 2].items()}


def _placed(array: np.ndarray[Any, Any]) -> Any:  # noqa: ANN401 - ONNX Runtime's own value
    return onnxruntime.OrtValue.ortvalue_from_numpy(np.array(array, order="C"))
