"""``devicelab verify``: whether what phones computed is right."""

from __future__ import annotations

from typing import Annotated

import typer

from devicelab.cli.options import ExperimentArgument, JsonOption, StateDirOption
from devicelab.cli.output import console, print_json

__all__ = ["verify"]


def verify(
    experiment: ExperimentArgument,
    run: Annotated[
        str | None,
        typer.Option(
            "--run",
            metavar="RUN",
            help="Which run: the beginning of its id, or the directory of one that was copied.  "
            "[default: the experiment's newest run]",
            show_default=False,
        ),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            "--tolerance",
            metavar="X",
            min=0.0,
            max=1e6,
            help="How far off a number may be, relative to what it is on this host.",
        ),
    ] = 1e-3,
    as_json: JsonOption = False,
    state_dir: StateDirOption = None,
) -> None:
    """Do a run's rounds again on this machine, and hold what the phones computed against it.

    Every client is trained again from the model that its round began with, by ONNX Runtime in Python: no phone
    is asked. Compared are the averaged models, each client's losses and the length of its update, and what was
    measured. The exit code is 4 if a number differs.
    """
    from devicelab.config import load_experiment
    from devicelab.files import state_dir as resolve
    from devicelab.report.verification import verification_document, verification_table
    from devicelab.rounds.verifying import verify_run

    def tell(what: str) -> None:
        console(stderr=True).print(what, markup=False)

    loaded = load_experiment(experiment)
    found = verify_run(resolve(state_dir), loaded, run=run, tolerance=tolerance, tell=tell)
    if as_json:
        print_json(verification_document(found))
    else:
        console().print(verification_table(found))
    if not found.right:
        raise typer.Exit(4)
