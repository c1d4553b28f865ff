"""What is known of plan files, as plain records: what one holds and needs, and what an export came to.

Neither PyTorch nor ONNX is needed to pass them around.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from devicelab.plans.signature import Signature

__all__ = ["ExportedFile", "Inspection", "TableFacts"]


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """One file that an export makes.

    Attributes:
        name: Its file name.
        content: Its bytes.
        kind: What it is: a plan that trains, one that evaluates, or the plan's first values.
        tensor: The result that agreed least with the reference when it was checked; None for first values.
        relative: By how much it differed, of its largest number or 1.
    """

    name: str
    content: bytes
    kind: Literal["train", "evaluate", "initial"]
    tensor: str | None = None
    relative: float | None = None


@dataclass(frozen=True, slots=True)
class TableFacts:
    """One table of a plan; sizes in bytes.

    Attributes:
        rows: How many there are in all.
        row_bytes: What a row is in the model: what goes to a client that needs it, and comes back.
        carried_row_bytes: What it is in memory from step to step, second buffers included.
        data: Labels of the data whose values are row numbers.
    """

    rows: int
    row_bytes: int
    carried_row_bytes: int
    data: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Inspection:
    """A plan at a glance; sizes in bytes.

    Attributes:
        signature: The plan's.
        file_bytes: Size of the ONNX file.
        opset: Version of ONNX's operator set.
        needs_runtime: Oldest ONNX Runtime that runs it as (major, minor); None if it is newer than we know.
        tables: Those of which a client needs no more rows than its data name.
        roles: For each role how many inputs there are and how large they are together.
        operators: How often each operator occurs, the most frequent first.
        carried_bytes: What stays in memory from step to step, second buffers included.
        step_bytes: Largest sum of intermediate results alive at a time, for a batch of ``examples``.
        examples: See ``step_bytes``.
        single_threaded: Whether the runner must use one thread: ONNX Runtime's adding scatter loses updates of
            the same row where several threads share it.
    """

    signature: Signature
    file_bytes: int
    opset: int
    needs_runtime: tuple[int, int] | None
    tables: dict[str, TableFacts]
    roles: dict[str, dict[str, int]]
    operators: dict[str, int]
    carried_bytes: int
    step_bytes: int
    examples: int
    single_threaded: bool

    def runs_on(self, engine: str) -> bool:
        """Whether an ONNX Runtime of that version ("1.29.0") knows all that the plan uses."""
        if self.needs_runtime is None:
            return False
        major, minor = engine.split(".")[:2]
        return (int(major), int(minor)) >= self.needs_runtime

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        document = asdict(self)
        needed = self.needs_runtime
        document["needs_runtime"] = None if needed is None else f"{needed[0]}.{needed[1]}"
        document["signature"] = self.signature.as_dict()
        return document
