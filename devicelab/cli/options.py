"""The options that commands share, declared once so that they mean and say the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from devicelab.cli import completing

__all__ = [
    "ConnectOption",
    "DeviceOption",
    "EngineOption",
    "ExperimentArgument",
    "ExplainOption",
    "JsonOption",
    "LabOption",
    "StateDirOption",
    "TransportOption",
    "WhyOption",
]


JsonOption = Annotated[
    bool,
    typer.Option("--json", help="One JSON document on stdout instead of a table; progress goes to stderr."),
]
StateDirOption = Annotated[
    Path | None,
    typer.Option(
        "--state-dir",
        metavar="DIR",
        help="Where the lab keeps its state.  [default: $DEVICELAB_HOME, else the platform's data directory]",
        show_default=False,
    ),
]
LabOption = Annotated[
    Path | None,
    typer.Option(
        "--lab",
        metavar="FILE",
        help="What is known of the phones here: names, labels, limits.  [default: lab.yaml in the state "
        "directory, if there is one]",
        show_default=False,
    ),
]
TransportOption = Annotated[
    Literal["auto", "server", "direct"] | None,
    typer.Option(
        "--transport",
        help="How to reach phones: through the adb server, directly, or (auto) the server if there is an adb.  "
        "[default: as the lab file says, else auto]",
        show_default=False,
    ),
]
DeviceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--device",
        metavar="SELECTOR",
        help="Only these: a serial, a name, or conditions such as 'sdk>=29,label=fast'. Repeat for more.",
        show_default=False,
    ),
]
ConnectOption = Annotated[
    list[str] | None,
    typer.Option(
        "--connect",
        metavar="HOST:PORT",
        help="Also look for a phone on TCP at this address. Repeat for more.",
        show_default=False,
    ),
]
EngineOption = Annotated[
    Path | None,
    typer.Option(
        "--engine",
        metavar="FILE",
        help="ONNX Runtime's library for the phones (.so or .aar), instead of the published one.",
        show_default=False,
    ),
]
ExperimentArgument = Annotated[
    Path,
    typer.Argument(
        metavar="EXPERIMENT",
        help="The experiment's YAML file.",
        show_default=False,
        autocompletion=completing.experiments,
    ),
]
ExplainOption = Annotated[
    bool,
    typer.Option("--explain", help="Print the experiment with every default and what each setting means."),
]
WhyOption = Annotated[
    bool, typer.Option("--why", help="Say for each phone that is left out why it is, and touch none.")
]
