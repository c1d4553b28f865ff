"""``devicelab run-round``: an experiment's rounds, from phones to an averaged model."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
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
from devicelab.cli.output import console, print_explained, print_json
from devicelab.errors import ConfigError

if TYPE_CHECKING:
    from devicelab.config import Experiment
    from devicelab.lab import Lab
    from devicelab.rounds.events import Event, Listener
    from devicelab.rounds.running import RunReport

__all__ = ["run_round", "show_considered"]


def run_round(
    experiment: ExperimentArgument,
    rounds: Annotated[
        int | None,
        typer.Option(
            "--rounds",
            metavar="N",
            help="How many rounds the run has in all.  [default: as the experiment says; with --resume, as was "
            "asked last]",
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
    from devicelab.config import load_experiment

    if run is not None and not resume:
        raise ConfigError("--run says which run to go on with", hint="add --resume")
    loaded = load_experiment(experiment)
    if explain:
        print_explained(loaded, as_json=as_json)
        return
    from devicelab.lab import Lab
    from devicelab.report.log import following
    from devicelab.rounds.running import check_rounds

    check_rounds(rounds)  # before an adb server is started for it
    same = _words(
        {
            "--device": device,
            "--connect": connect,
            "--transport": transport,
            "--lab": lab_file,
            "--engine": engine,
            "--state-dir": state_dir,
        }
    )

    def again(run: str) -> str:
        return shlex.join(["devicelab", "run-round", str(experiment), "--resume", "--run", run, *same])

    with Lab.open(state_dir, file=lab_file, transport=transport, addresses=connect or ()) as lab:
        if why:
            show_considered(lab, loaded, device or [], engine, as_json=as_json)
            return
        with following(as_json=as_json) as listener:
            heard = _Run(listener)
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
                if heard.run is not None:
                    console(stderr=True).print(f"interrupted; go on with: {again(heard.run)}", markup=False)
                raise
    if not done.rounds:
        from devicelab.report.figures import plural

        told = f"the run {done.run} has done all that it was asked for, {plural(done.total, 'round')}"
        more = f"for M rounds in all: {again(done.run)} --rounds M"
        console(stderr=True).print(f"{told}; {more}", markup=False)
    _tell(done, as_json=as_json)


def _tell(done: RunReport, *, as_json: bool) -> None:
    """Say what a run came to, once it has its report."""
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
    """Show which phones would take part, and why the others would not; exit code 3 if none would."""
    from devicelab.report.selection import considered_document, considered_table
    from devicelab.rounds.coordinator import no_device
    from devicelab.rounds.running import Options, consider

    found = consider(lab, experiment, Options(selectors, engine))
    if not found.clients and not found.excluded:
        raise no_device(())
    if as_json:
        print_json(considered_document(found))
    else:
        console().print(considered_table(found))
    if not found.clients:
        raise typer.Exit(3)


def _words(options: Mapping[str, Sequence[str] | Path | None]) -> list[str]:
    """The words of a command line that give these options again."""
    words = []
    for name, given in options.items():
        values = [given] if isinstance(given, str | Path) else given or []
        words += [word for value in values for word in (name, str(value))]
    return words


class _Run:
    """A listener that remembers which run it hears of."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self.run: str | None = None

    def __call__(self, event: Event, /) -> None:
        """Pass an event on."""
        from devicelab.rounds.events import RunStarted

        if isinstance(event, RunStarted):
            self.run = event.run
        self._listener(event)
