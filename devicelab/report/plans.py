"""Plan files, for people and for scripts: what an export wrote, and what is in a file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from devicelab.plans.facts import ExportedFile, Inspection
from devicelab.report.figures import plural, size
from devicelab.report.tables import plain_table

__all__ = ["export_document", "export_table", "inspection_document", "inspection_view"]

_KINDS: Final = {"train": "trains", "evaluate": "evaluates", "initial": "first values"}


def export_document(files: Sequence[ExportedFile], paths: Sequence[Path]) -> dict[str, Any]:
    """The JSON document of ``export-plan --json``."""
    return {
        "files": [
            {
                "path": str(path),
                "kind": file.kind,
                "bytes": len(file.content),
                "sha256": hashlib.sha256(file.content).hexdigest(),
                "worst_tensor": file.tensor,
                "worst_difference": file.relative,
            }
            for file, path in zip(files, paths, strict=True)
        ]
    }


def export_table(files: Sequence[ExportedFile], paths: Sequence[Path]) -> Table:
    """One row a file; the last columns say which result agreed least with PyTorch, and by how much."""
    rows = [
        [
            str(path),
            _KINDS[file.kind],
            size(len(file.content)),
            "" if file.relative is None else f"{file.relative:.1e}",
            file.tensor or "",
        ]
        for file, path in zip(files, paths, strict=True)
    ]
    return plain_table(["file", "", "size", "off by at most", "in"], rows, keep=["file"])


def inspection_document(path: Path, seen: Inspection, engines: Mapping[str, str]) -> dict[str, Any]:
    """The JSON document of ``export-plan --inspect FILE --json``.

    Args:
        path: The file.
        seen: What is in it.
        engines: Version of the engine that each target gets.
    """
    rows = [
        {"target": target, "engine": version, "runs": seen.runs_on(version)}
        for target, version in engines.items()
    ]
    return {"file": str(path), **seen.as_dict(), "engines": rows}


def inspection_view(path: Path, seen: Inspection, engines: Mapping[str, str]) -> RenderableType:
    """What a plan is, holds, needs and runs on, one block each."""
    signature = seen.signature
    verb = "trains" if signature.kind == "train" else "evaluates"
    batches = "batches of any size" if signature.batch is None else f"batches of {signature.batch}"
    title = Text(f"{path}: the plan {signature.name}, which {verb} on {batches}", style="bold")
    roles = [[role, str(entry["inputs"]), size(entry["bytes"])] for role, entry in seen.roles.items()]
    needed = [[target, version, _verdict(seen, version)] for target, version in engines.items()]
    return Group(
        title,
        "",
        _facts(path, seen),
        "",
        plain_table(["role", "inputs", "together"], roles),
        "",
        *_tables(seen),
        plain_table(["target", "ONNX Runtime", "runs it"], needed),
    )


def _tables(seen: Inspection) -> list[RenderableType]:
    """The tables of which a client needs the rows that its data name, if there are any."""
    if not seen.tables:
        return []
    rows = [
        [name, f"{facts.rows:,}", size(facts.row_bytes), size(facts.carried_row_bytes), ", ".join(facts.data)]
        for name, facts in seen.tables.items()
    ]
    return [plain_table(["table", "rows", "a row", "in memory", "rows named by"], rows), ""]


def _verdict(seen: Inspection, version: str) -> str:
    if seen.runs_on(version):
        return "yes"
    return "no, it is newer than any engine known here" if seen.needs_runtime is None else "no, too old"


def _facts(path: Path, seen: Inspection) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    needed = seen.needs_runtime
    oldest = "unknown" if needed is None else f"{needed[0]}.{needed[1]}"
    what = "TorchScript, translated to " if path.suffix == ".pt" else ""
    operators = ", ".join(f"{op} {count}" for op, count in seen.operators.items())
    for name, words in (
        ("file", f"{what}{size(seen.file_bytes)} of ONNX, operator set {seen.opset}"),
        ("oldest engine", f"ONNX Runtime {oldest}"),
        (
            "memory",
            f"{size(seen.carried_bytes)} kept, and {size(seen.step_bytes)} in a step of {_examples(seen)}",
        ),
        ("threads", "one: it adds up rows of a table" if seen.single_threaded else "any number"),
        ("operators", operators),
    ):
        table.add_row(name, Text(words))
    return table


def _examples(seen: Inspection) -> str:
    return plural(seen.examples, "example")
