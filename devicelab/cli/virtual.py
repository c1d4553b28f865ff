"""``devicelab virtual``: phones that are not there, for trying things and for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from devicelab.cli import completing
from devicelab.cli.group import Group
from devicelab.cli.options import JsonOption, StateDirOption
from devicelab.cli.output import console, print_json

if TYPE_CHECKING:
    from devicelab.virtual.client import VirtualPhone

__all__ = ["app"]

app = typer.Typer(
    cls=Group,
    help="Virtual phones: Google's own adbd in a sandbox on this machine, with faults on demand.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_DEFAULT_PROFILE = "pixel"


@app.command("up")
def up(
    phones: Annotated[
        int | None,
        typer.Option("--phones", min=1, max=200, help="How many; profiles repeat.  [default: one a profile]"),
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            "--profile",
            metavar="NAME|FILE",
            help="Which phone: a name from `virtual profiles`, or a YAML file. Repeatable.  [default: pixel]",
            show_default=False,
            autocompletion=completing.profiles,
        ),
    ] = None,
    body: Annotated[
        Literal["auto", "namespaces", "proot", "python"],
        typer.Option("--body", help="What they run in; auto: the fullest that this machine allows."),
    ] = "auto",
    as_json: JsonOption = False,
    state_dir: StateDirOption = None,
) -> None:
    """Start virtual phones. They keep running until `virtual down`."""
    from devicelab.files import state_dir as resolve
    from devicelab.virtual.desk import VirtualDesk

    names = profile or [_DEFAULT_PROFILE]
    count = phones if phones is not None else len(names)
    wanted = [names[index % len(names)] for index in range(count)]
    err = console(stderr=True)
    with err.status("starting virtual phones") as status:
        started = VirtualDesk(resolve(state_dir)).up(
            wanted, body=None if body == "auto" else body, progress=status.update
        )
    _show(started, as_json=as_json)


@app.command("list")
def list_phones(as_json: JsonOption = False, state_dir: StateDirOption = None) -> None:
    """List the virtual phones that run, and how they do."""
    from devicelab.files import state_dir as resolve
    from devicelab.virtual.desk import VirtualDesk

    phones = VirtualDesk(resolve(state_dir)).list()
    _show(phones, as_json=as_json)


@app.command("down")
def down(
    name: Annotated[
        list[str] | None,
        typer.Argument(
            help="Which ones; all if none is named.",
            show_default=False,
            autocompletion=completing.virtual_phones,
        ),
    ] = None,
    as_json: JsonOption = False,
    state_dir: StateDirOption = None,
) -> None:
    """End virtual phones and remove all they kept."""
    from devicelab.lab import take_down

    ended = take_down(state_dir, name)
    if as_json:
        print_json({"ended": ended})
    else:
        console().print(f"ended: {', '.join(ended)}" if ended else "no virtual phone was running")


@app.command("profiles")
def profiles(as_json: JsonOption = False) -> None:
    """List the phones that can be imitated."""
    from devicelab.report.tables import plain_table
    from devicelab.virtual.profile import load_profile, profile_names

    known = [load_profile(name) for name in profile_names()]
    if as_json:
        print_json({"profiles": [{"name": each.name, "title": each.title} for each in known]})
    else:
        console().print(
            plain_table(("NAME", "PHONE"), ([each.name, each.title] for each in known), keep={"NAME"})
        )


@app.command("fault")
def fault(
    name: Annotated[
        str | None,
        typer.Argument(help="The phone's name, from `virtual list`.", autocompletion=completing.virtual_phones),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Argument(metavar="FAULT", help="What happens to it.", autocompletion=completing.faults),
    ] = None,
    value: Annotated[
        str | None, typer.Argument(help="How much or how long, where the fault takes a value.")
    ] = None,
    as_json: JsonOption = False,
    state_dir: StateDirOption = None,
) -> None:
    """Do something to a virtual phone, or undo it. Without arguments: list what can be done."""
    from devicelab.files import state_dir as resolve
    from devicelab.report.tables import plain_table
    from devicelab.virtual.desk import VirtualDesk
    from devicelab.virtual.faults import FAULTS, require_fault

    if name is None or kind is None:
        if as_json:
            known = [{"fault": key, "help": each.help, "value": each.argument} for key, each in FAULTS.items()]
            print_json({"faults": known})
        else:
            rows = ([key, each.help, each.argument] for key, each in FAULTS.items())
            console().print(plain_table(("FAULT", "WHAT IT DOES", "VALUE"), rows, keep={"FAULT"}))
        return
    wanted = require_fault(kind)
    phone = VirtualDesk(resolve(state_dir)).find(name)
    wanted.run(phone, value)
    if as_json:
        print_json({"name": name, "fault": kind, "value": value, "status": phone.status()})
    else:
        console().print(f"{name}: {kind}{f' {value}' if value else ''}", markup=False)


def _show(phones: Sequence[VirtualPhone], *, as_json: bool) -> None:
    from devicelab.report.tables import plain_table

    documents = [_document(phone) for phone in phones]
    if as_json:
        print_json({"phones": documents})
        return
    if not documents:
        console().print("no virtual phone is running; start some: devicelab virtual up --phones 3")
        return
    headings = ("NAME", "ADDRESS", "PROFILE", "POWER", "CABLE", "BODY")
    rows = (
        [
            one["name"],
            one["address"],
            one["profile"],
            one["power"],
            "in" if one["plugged"] else "out",
            one["body"],
        ]
        for one in documents
    )
    console().print(plain_table(headings, rows, keep={"NAME", "ADDRESS"}))
    for limit in sorted({limit for one in documents for limit in one["limits"]}):
        console().print(f"note: {limit}", markup=False)


def _document(phone: VirtualPhone) -> dict[str, Any]:
    return {
        "name": phone.name,
        "address": phone.address,
        "serial": phone.serial,
        "profile": phone.profile,
        "body": phone.body,
        "limits": list(phone.limits),
        "pid": phone.pid,
        **phone.status(),
    }
