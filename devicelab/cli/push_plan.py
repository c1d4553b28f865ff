"""``devicelab push-plan``: everything that phones must hold for an experiment, sent once."""

from __future__ import annotations

import typer

from devicelab.cli.options import (
    ConnectOption,
    DeviceOption,
    EngineOption,
    ExperimentArgument,
    ExplainOption,
    JsonOption,
    LabOption,
    StateDirOption,
    TransportOption,
    WhyOption,
)
from devicelab.cli.output import console, print_explained, print_json

__all__ = ["push_plan"]


def push_plan(
    experiment: ExperimentArgument,
    device: DeviceOption = None,
    connect: ConnectOption = None,
    transport: TransportOption = None,
    lab_file: LabOption = None,
    engine: EngineOption = None,
    explain: ExplainOption = False,
    why: WhyOption = False,
    as_json: JsonOption = False,
    state_dir: StateDirOption = None,
) -> None:
    """Send an experiment's plan, the runner, its engine and everybody's data shards to the phones.

    Files go into a cache on each phone under their hash: what is there already is not sent again, and
    `run-round` finds it. The exit code is 4 if a phone could not be served; the others are.
    """
    from devicelab.config import load_experiment

    loaded = load_experiment(experiment)
    if explain:
        print_explained(loaded, as_json=as_json)
        return
    from devicelab.lab import Lab
    from devicelab.report.log import following

    with Lab.open(state_dir, file=lab_file, transport=transport, addresses=connect or ()) as lab:
        if why:
            from devicelab.cli.run_round import show_considered

            show_considered(lab, loaded, device or [], engine, as_json=as_json)
            return
        with following(as_json=as_json) as listener:
            done = lab.push_plan(loaded, devices=device or [], engine=engine, listener=listener)
    if as_json:
        from devicelab.report.deployment import deployment_document

        print_json(deployment_document(done))
    else:
        from devicelab.report.deployment import deployment_table

        console().print(deployment_table(done))
    if any(each.problem for each in done.devices):
        raise typer.Exit(4)
