"""``devicelab run-round``: an experiment's rounds, from phones to an averaged model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from devicelab.cli import completing
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
from devicelab.cli.output import console, print_json
from devicelab.errors import ConfigError

if TYPE_CHECKING:
    from devicelab.config import Experiment
    from devicelab.lab import Lab
    from devicelab.rounds.events import Event, Listener

__all__ = ["run_round", "show_considered"]


def run_round(
    experiment: ExperimentArgument,
    rounds: Annotated[
        int | None,
        typer.Option(
            "--rounds",
            metavar="N",
            min=1,
            max=1_000_000,  # config.base.ROUNDS_MAX, which is not loaded for a command line
            help="How many rounds the run has in all.  [default: as the experiment says]",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the experiment's newest run instead of beginning one.")
    ] = False,
    run: Annotated[
        str | None,
        typer.Option(
            "--run",
            metavar="ID",
            help="With --resume: go on with this run (the beginning of its id).",
            show_default=False,
            autocompletion=completing.runs,
        ),
    ] = None,
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
    """Train an experiment's model: rounds of local training on the phones, averaged on this machine.

    Whatever ends it (Ctrl-C, a crash, a power cut), --resume goes on where it stood: what phones have finished
    is not trained again. The exit code is 6 if a round has too few updates.
    """
    from devicelab.config import explain as explained
    from devicelab.config import load_experiment

    if run is not None and not resume:
        raise ConfigError("--run says which run to go on with", hint="add --resume")
    loaded = load_experiment(experiment)
    if explain:
        typer.echo(explained(loaded), nl=False)
        return
    from devicelab.lab import Lab
    from devicelab.report.log import following

    with Lab.open(state_dir, file=lab_file, transport=transport, addresses=connect or ()) as lab:
        if why:
            show_considered(lab, loaded, device or [], engine, as_json=as_json)
            return
        with following(as_json=as_json) as listener:
            heard = _Run(listener, experiment)
            try:
                done = lab.run_round(
                    experiment,
                    rounds=rounds,
                    resume=resume,
                    run=run,
                    devices=device or [],
                    engine=engine,
                    listener=heard,
                )
            except KeyboardInterrupt:
                heard.say_how_to_resume()
                raise
    from devicelab.report.privacy import privacy_words
    from devicelab.report.runs import write_report

    report = write_report(done.directory)
    if as_json:
        print_json(
            {
                "run": done.run,
                "rounds": [each.document() for each in done.rounds],
                "privacy": done.privacy.document() if done.privacy else None,
                "checkpoint": str(done.checkpoint),
                "report": str(report),
            }
        )
    else:
        if done.privacy:
            typer.echo(f"privacy: {privacy_words(done.privacy)}")
        typer.echo(f"model:  {done.checkpoint}\nreport: {report}")


def show_considered(
    lab: Lab, experiment: Experiment, selectors: Sequence[str], engine: Path | None, *, as_json: bool
) -> None:
    """Show which phones would take part, and why the others would not."""
    from devicelab.report.selection import considered_document, considered_table
    from devicelab.rounds.running import Options, consider

    found = consider(lab, experiment, Options(selectors, engine))
    if as_json:
        print_json(considered_document(found))
    else:
        console().print(considered_table(found))


class _Run:
    """A listener that remembers which run it hears of."""

    def __init__(self, listener: Listener, experiment: Path) -> None:
        self._listener = listener
        self._experiment = experiment
        self._run: str | None = None

    def __call__(self, event: Event, /) -> None:
        """Pass an event on."""
        from devicelab.rounds.events import RunStarted

        if isinstance(event, RunStarted):
            self._run = event.run
        self._listener(event)

    def say_how_to_resume(self) -> None:
        """Say it on stderr, if there is something to resume."""
        if self._run is not None:
            again = f"devicelab run-round {self._experiment} --resume --run {self._run}"
            console(stderr=True).print(f"interrupted; go on with: {again}", markup=False)
