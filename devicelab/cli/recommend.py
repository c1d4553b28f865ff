"""``devicelab recommend``: what a trained recommender says, for a client or of an item."""

from __future__ import annotations

from typing import Annotated

import typer

from devicelab.cli import completing
from devicelab.cli.options import (
    ConnectOption,
    DeviceOption,
    EngineOption,
    ExperimentArgument,
    JsonOption,
    StateDirOption,
    TransportOption,
)
from devicelab.cli.output import console, print_json
from devicelab.errors import ConfigError

__all__ = ["recommend"]


def recommend(
    experiment: ExperimentArgument,
    client: Annotated[
        str | None,
        typer.Option("--client", metavar="ID", help="Whom to recommend something.", show_default=False),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(
            "--like", metavar="TITLE", help="Instead: which items are most like this one.", show_default=False
        ),
    ] = None,
    top: Annotated[int, typer.Option("--top", metavar="N", min=1, max=1000, help="How many items.")] = 10,
    run: Annotated[
        str | None,
        typer.Option(
            "--run",
            metavar="ID",
            help="Whose model (the beginning of its id).  [default: the experiment's newest run]",
            show_default=False,
            autocompletion=completing.runs,
        ),
    ] = None,
    device: DeviceOption = None,
    connect: ConnectOption = None,
    transport: TransportOption = "auto",
    engine: EngineOption = None,
    as_json: JsonOption = False,
    state_dir: StateDirOption = None,
) -> None:
    """Ask the phone that holds a client's data for its best items, or this host for items like another.

    The ranking for a client is made on its phone, from its history and whatever it keeps there; the global
    model goes to the phone, and nothing but the numbers of the recommended items comes back. What the client
    has already is not recommended.
    """
    if (client is None) == (like is None):
        raise ConfigError("say either --client ID or --like TITLE")
    from devicelab.config import load_experiment
    from devicelab.lab import Lab
    from devicelab.report.recommendations import (
        neighbours_document,
        neighbours_table,
        recommendation_document,
        recommendation_table,
    )

    if like is not None:
        from devicelab.files import state_dir as state_directory
        from devicelab.rounds.recommending import neighbours

        loaded = load_experiment(experiment)
        found = neighbours(state_directory(state_dir), loaded, like, top=top, run=run)
        if as_json:
            print_json(neighbours_document(found))
        else:
            console().print(neighbours_table(found))
        return
    assert client is not None
    with Lab(state_dir, transport=transport, addresses=connect or ()) as lab:
        given = lab.recommend(experiment, client, top=top, run=run, devices=device or [], engine=engine)
    if as_json:
        print_json(recommendation_document(given))
    else:
        console().print(recommendation_table(given))
