"""``devicelab --version``: what this installation consists of."""

from __future__ import annotations

import typer

from devicelab.cli.output import print_json

__all__ = ["show_versions"]


def show_versions(*, as_json: bool) -> None:
    """Print them; the first line is the program's name and version, as other programs have it."""
    from devicelab.runner.versions import installed_versions

    found = installed_versions()
    if as_json:
        print_json(found.document())
        return
    runners = ", ".join(found.runners) or "none is here"
    typer.echo(f"devicelab {found.devicelab}")
    typer.echo(f"runner    protocol {found.protocol}; {runners}")
    typer.echo(
        f"engine    ONNX Runtime {found.engine_android} (Android), {found.engine_linux or 'none'} (Linux)"
    )
    typer.echo(f"python    {found.python}, {found.system}")
