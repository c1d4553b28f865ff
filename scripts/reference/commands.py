"""Every command with its arguments and options, from what ``--help`` knows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, Literal, get_args, get_origin

import typer.main

from devicelab.cli import app
from scripts.reference.markdown import table

__all__ = ["command_reference", "every_command"]

_DEFAULT: Final = re.compile(r"\s*\[default: (.+)\]$")


def every_command() -> Iterator[tuple[str, Any]]:
    """All commands that do something, with the words that name them."""
    yield from _walk("devicelab", typer.main.get_command(app))


def _walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
        return
    for word, each in inner.items():
        yield from _walk(f"{name} {word}", each)


def command_reference() -> str:
    """A section a command: what it does, and a table of what it takes."""
    return "\n\n".join(_section(name, command) for name, command in every_command())


def _section(name: str, command: Any) -> str:
    words = [name, "[OPTIONS]", *(_metavar(each) for each in command.params if not _is_option(each))]
    told = "\n\n".join(" ".join(part.split()) for part in (command.help or "").split("\n\n"))
    rows = [_row(parameter) for parameter in command.params]
    parts = [f"## {name}", told, f"```text\n{' '.join(words)}\n```"]
    return "\n\n".join([*parts, table(["option", "meaning", "default"], rows)])


def _row(parameter: Any) -> list[str]:
    told = getattr(parameter, "help", None) or ""
    said = _DEFAULT.search(told)
    told = _DEFAULT.sub("", told)
    name = f"`{', '.join([*parameter.opts, *parameter.secondary_opts])}`" if _is_option(parameter) else ""
    takes = "" if getattr(parameter, "is_flag", False) else f"`{_metavar(parameter)}`"
    return [" ".join(filter(None, [name, takes])), told, said[1] if said else _default(parameter)]


def _default(parameter: Any) -> str:
    if parameter.required:
        return "needed"
    value = parameter.default
    return "" if value in (None, False) or callable(value) or not parameter.show_default else f"`{value}`"


def _is_option(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "option")


def _metavar(parameter: Any) -> str:
    """What stands for a value: its name, or the words to choose from."""
    kind = parameter.type_descriptor.annotation
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    if _is_option(parameter):
        return str(parameter.metavar or ("N" if kind is int else "VALUE"))
    name = str(parameter.metavar or parameter.name.upper()).strip("[]")
    return name if parameter.required else f"[{name}]{'...' if parameter.nargs != 1 else ''}"
