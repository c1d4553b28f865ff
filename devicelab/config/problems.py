"""What is wrong with a file, in words: each problem with its line and the way to it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from types import UnionType
from typing import Annotated, Union, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError
from pydantic_core import ErrorDetails

from devicelab.config.base import is_tag
from devicelab.config.document import Document, Location
from devicelab.errors import ConfigError

__all__ = ["config_error"]


def config_error(error: ValidationError, document: Document, model: type[BaseModel]) -> ConfigError:
    """All that a validation found, in the order of the file.

    Args:
        error: What pydantic says.
        document: The file.
        model: What the file was to become; its keys are suggested for unknown ones.
    """
    problems = sorted({(document.line(at), _path(at), text) for at, text in _problems(error, model)})
    lines = [
        f"line {line}: {path}: {text}" if path else f"line {line}: {text}" for line, path, text in problems
    ]
    if len(lines) == 1:
        return ConfigError(f"{document.name}: {lines[0]}")
    listed = "\n".join(f"  {line}" for line in lines)
    return ConfigError(f"{document.name} has {len(lines)} errors:\n{listed}")


def _problems(error: ValidationError, model: type[BaseModel]) -> Iterator[tuple[Location, str]]:
    for details in error.errors(include_url=False):
        at = tuple(part for part in details["loc"] if not is_tag(part))
        if details["type"] == "contradiction":
            for inner, text in details["ctx"]["found"]:
                yield (*at, *inner), text
        elif details["type"] == "extra_forbidden":
            yield at, f"unknown key{_nearest(str(at[-1]), _keys(model, details['loc'][:-1]))}"
        elif details["type"] == "choice":
            key = details["msg"].partition(": ")[0]
            told = isinstance(details["input"], dict) and key in details["input"]
            yield (*at, key) if told else at, _text(details)
        else:
            yield at, _text(details)


def _text(details: ErrorDetails) -> str:
    """Pydantic's message, shorter and about YAML."""
    kind, said, context = details["type"], details["input"], details.get("ctx", {})
    if kind == "missing":
        return "is missing"
    if kind == "choice":
        key, _, choices = details["msg"].partition(": ")
        return _choice(said, key, choices.split(", "))
    if kind == "literal_error":
        known = str(context["expected"])
        words = known.replace("'", "").replace(" or ", ", ").split(", ")
        return f"{said!r:.80} is not {known}{_nearest(str(said), words)}"
    if kind == "value_error":
        return str(context["error"])
    if kind == "string_pattern_mismatch":
        return f"{said!r:.80} does not match {context['pattern']}"
    message = details["msg"].removeprefix("Input ").replace("dictionary", "mapping").replace("tuple", "list")
    return f"{message}, not {said!r:.80}" if not isinstance(said, dict | list) else message


def _choice(said: object, key: str, choices: Sequence[str]) -> str:
    if not isinstance(said, dict):
        return f"should be a mapping, not {said!r:.80}"
    if not key:
        return f"needs one of the keys {', '.join(f'`{name}`' for name in choices)}"
    if key not in said:
        return f"`{key}` is missing: {', '.join(choices)}"
    return f"{str(said[key])!r:.80} is none of {', '.join(choices)}{_nearest(str(said[key]), choices)}"


def _path(at: Location) -> str:
    text = ""
    for part in at:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _nearest(word: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def _keys(model: type[BaseModel], location: Location) -> list[str]:
    """The keys that a mapping at a location may have, the tags of variants included in the way to it."""
    found: object = model
    for part in location:
        found = _inner(found, part)
    models = [kind for kind in _alternatives(found) if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return [field.alias or name for kind in models for name, field in kind.model_fields.items()]


def _inner(annotation: object, part: str | int) -> object:
    """The type of what is under a key, at an index, or behind a tag."""
    for kind in _alternatives(annotation):
        if is_tag(part):
            if any(isinstance(mark, Tag) and mark.tag == part for mark in get_args(kind)[1:]):
                return get_args(kind)[0]
        elif isinstance(kind, type) and issubclass(kind, BaseModel):
            fields = {field.alias or name: field.annotation for name, field in kind.model_fields.items()}
            if part in fields:
                return fields[str(part)]
        elif get_args(kind):  # a mapping or a list
            values = [value for value in get_args(kind) if value is not Ellipsis]
            return values[-1]
    return None


def _alternatives(annotation: object) -> Iterator[object]:
    """The members of a union, with their marks; the type itself if it is none."""
    bare = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    if get_origin(bare) in (Union, UnionType):
        for member in get_args(bare):
            yield from _alternatives(member)
    else:
        yield annotation
