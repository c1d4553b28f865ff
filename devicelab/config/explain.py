"""Settings as YAML with nothing left out and a word on everything: what ``--explain`` prints.

The text can be loaded again and then means the same.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic.fields import FieldInfo

from devicelab.config.base import Settings

__all__ = ["explain", "explanation", "flow", "ordered_fields", "summary"]

_WIDTH: Final = 100
_COMMENT_COLUMN: Final = 40
_PLAIN: Final = re.compile(r"[A-Za-z_/][A-Za-z0-9_./*-]*(:[A-Za-z0-9_./*-]+)*|[0-9]+[smhd]")
_NOT_TEXT: Final = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})


def explain(settings: Settings) -> str:
    """YAML with every default filled in and the meaning of each key as a comment."""
    document = settings.model_dump(mode="json", by_alias=True)
    return "\n".join(_settings_lines(settings, document, 0)) + "\n"


def explanation(settings: Settings) -> dict[str, Any]:
    """The same as a document: ``settings`` with every default, ``meaning`` of each key by its dotted path."""
    document = settings.model_dump(mode="json", by_alias=True)
    return {"settings": document, "meaning": dict(_meanings(settings, ""))}


def _meanings(settings: Settings, above: str) -> Iterator[tuple[str, str]]:
    for name, field in ordered_fields(type(settings)):
        path = f"{above}{field.alias or name}"
        value = getattr(settings, name)
        yield path, field.description or summary(type(settings))
        if isinstance(value, Settings):
            yield from _meanings(value, f"{path}.")
        elif isinstance(value, Mapping):
            for inner, item in value.items():
                if isinstance(item, Settings):
                    yield from _meanings(item, f"{path}.{inner}.")


def _settings_lines(settings: Settings, document: Mapping[str, Any], depth: int) -> Iterator[str]:
    for name, field in ordered_fields(type(settings)):
        key = field.alias or name
        value = getattr(settings, name)
        comment = field.description or summary(type(settings))
        if isinstance(value, Settings):
            yield from _noted(f"{_indent(depth)}{key}:", comment, depth)
            yield from _settings_lines(value, document[key], depth + 1)
        elif isinstance(value, Mapping) and any(isinstance(item, Settings) for item in value.values()):
            yield from _noted(f"{_indent(depth)}{key}:", comment, depth)
            for inner, item in value.items():
                yield f"{_indent(depth + 1)}{scalar(inner)}:"
                yield from _settings_lines(item, document[key][inner], depth + 2)
        else:
            yield from _noted(f"{_indent(depth)}{key}: {flow(document[key])}", comment, depth)


def ordered_fields(cls: type[Settings]) -> list[tuple[str, FieldInfo]]:
    """A class's own fields, then those it shares with its kind: what was chosen comes first."""
    own = [name for name in cls.model_fields if name in vars(cls).get("__annotations__", {})]
    shared = [name for name in cls.model_fields if name not in own]
    return [(name, cls.model_fields[name]) for name in [*own, *shared]]


def summary(cls: type[Settings]) -> str:
    """What a variant is, for the key that chose it."""
    return (cls.__doc__ or "").strip().splitlines()[0].rstrip(".")


def _noted(line: str, comment: str, depth: int) -> Iterator[str]:
    """A line with its comment behind it, or before it where there is no room."""
    if len(line) < _COMMENT_COLUMN and len(comment) + _COMMENT_COLUMN + 2 <= _WIDTH:
        yield f"{line:<{_COMMENT_COLUMN}}# {comment}"
    else:
        yield from (f"{_indent(depth)}# {part}" for part in textwrap.wrap(comment, _WIDTH - 2 * depth - 2))
        yield line


def _indent(depth: int) -> str:
    return "  " * depth


def flow(value: object) -> str:
    """A value on one line, in YAML that versions 1.1 and 1.2 read alike."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{scalar(key)}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(flow, value)) + "]"
    return scalar(value)


def scalar(value: object) -> str:
    """A single value; text is quoted where it could be taken for something else."""
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and value.lower() not in _NOT_TEXT
        return value if plain else f'"{"".join(map(_escaped, value))}"'
    if isinstance(value, float):
        text = repr(value)
        return text.replace("e", ".0e") if "e" in text and "." not in text else text
    return json.dumps(value)


def _escaped(character: str) -> str:
    """A character between double quotes (YAML 1.2.2, 7.3.1)."""
    if character in '"\\':
        return f"\\{character}"
    return character if character.isprintable() else f"\\U{ord(character):08X}"
