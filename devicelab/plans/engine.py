"""Running a plan on this machine with the ONNX Runtime that phones run, one thread, nothing kept between steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime

from devicelab.errors import PlanError

__all__ = ["Engine"]

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
