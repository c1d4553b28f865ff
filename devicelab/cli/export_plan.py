"""``devicelab export-plan``: a training step as a file, checked against PyTorch; or what is in such a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from devicelab.cli import completing
from devicelab.cli.options import JsonOption
from devicelab.cli.output import console, print_json
from devicelab.errors import ConfigError

__all__ = ["export_plan"]


def export_plan(
    experiment: Annotated[
        Path | None,
        typer.Argument(
            metavar="[EXPERIMENT]",
            help="An experiment's YAML file; its `plan` is exported.",
            show_default=False,
            autocompletion=completing.experiments,
        ),
    ] = None,
    inspect: Annotated[
        Path | None,
        typer.Option("--inspect", metavar="FILE", help="Look at a plan file (.onnx or .pt) instead."),
    ] = None,
    format: Annotated[  # noqa: A002 - the option's name
        Literal["onnx", "torchscript", "both"], typer.Option("--format", help="Which files to write.")
    ] = "onnx",
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", metavar="DIR", help="Where to write them.  [default: here]", show_default=False
        ),
    ] = Path(),
    batch: Annotated[
        int,
        typer.Option(
            "--batch",
            metavar="N",
            min=1,
            max=1_000_000,
            help="Examples a step, for --inspect's estimate of memory.",
        ),
    ] = 32,
    as_json: JsonOption = False,
) -> None:
    """Export an experiment's training step and its evaluation as plan files, once their numbers are PyTorch's.

    Nothing is written before everything has been checked: every result of several steps, on batches of several
    sizes, against eager PyTorch. Exit code 5: the plan cannot be exported, its numbers disagree, or the file is
    no valid plan.
    """
    if (experiment is None) == (inspect is None):
        raise ConfigError("give an experiment to export, or --inspect a plan file; one of the two")
    if experiment is not None:
        _export(experiment, format, output, as_json=as_json)
    elif inspect is not None:
        _inspect(inspect, batch, as_json=as_json)


def _export(path: Path, kinds: Literal["onnx", "torchscript", "both"], output: Path, *, as_json: bool) -> None:
    from devicelab.config import load_experiment
    from devicelab.files import require_directory
    from devicelab.report.plans import export_document, export_table

    experiment = load_experiment(path)
    require_directory(output)
    out = console(stderr=True)
    out.print("loading PyTorch")
    from devicelab.plans.export import export_experiment, write_files

    files = export_experiment(experiment, format=kinds, progress=lambda words: out.print(words, markup=False))
    paths = write_files(files, output)
    if as_json:
        print_json(export_document(files, paths))
    else:
        console().print(export_table(files, paths))


def _inspect(path: Path, batch: int, *, as_json: bool) -> None:
    from devicelab.plans.inspection import inspect_file
    from devicelab.report.plans import inspection_document, inspection_view
    from devicelab.runner.packs import shipped_engines

    seen, engines = inspect_file(path, examples=batch), shipped_engines()
    if as_json:
        print_json(inspection_document(path, seen, engines))
    else:
        console().print(inspection_view(path, seen, engines))
