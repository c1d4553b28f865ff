"""The reference of a YAML file, from the models that validate it: each section a table of its keys."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import JsonValue
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from devicelab.config.base import DottedPath, FilePath, Name, Seconds, Settings, format_duration, is_tag
from devicelab.config.explain import flow, ordered_fields
from scripts.reference.markdown import slug, table

__all__ = ["settings_reference"]

_NAMED: Final = {
    id(DottedPath): "`module:Name`",
    id(FilePath): "file",
    id(JsonValue): "any value",
    id(Name): "name",
    id(Seconds): "duration",
}
_WORDS: Final = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "`true` or `false`",
    NoneType: "`null`",
}
_ROLE: Final = re.compile(r":\w+:`~?([^`]+)`")


def settings_reference(model: type[Settings]) -> str:
    """Every section of a file, the file itself first.

    Args:
        model: What the file becomes.
    """
    return "\n\n".join(_sections("", model))


def _sections(path: str, model: type[Settings]) -> Iterator[str]:
    """A mapping's section, and those of the mappings in it."""
    yield from _titled(path, _told(model), [_row(path, model, *each) for each in ordered_fields(model)])
    for name, field in ordered_fields(model):
        yield from _inner_sections(_joined(path, _key(name, field)), _hint(model, name))


def _inner_sections(path: str, hint: Any, of: str = "") -> Iterator[str]:
    """The sections of what is under a key; ``of`` tells them from those of another variant's key of that name."""
    variants = _variants(hint)
    if len(variants) > 1:
        yield from _choice(path + of, variants)
    elif variants:
        yield from _sections(_title(path, hint) + of, variants[0][1])


def _choice(path: str, variants: list[tuple[str, type[Settings]]]) -> Iterator[str]:
    """What can stand under a key that chooses, then what all choices have in common."""
    titles = [f"{path} ({_said(tag)})" for tag, _ in variants]
    chosen = [f"- [`{_said(tag)}`](#{slug(title)})" for title, (tag, _) in zip(titles, variants, strict=True)]
    yield from _titled(path, "One of:\n\n" + "\n".join(chosen), [])
    base = _common_base([model for _, model in variants])
    shared = {name: field for name, field in ordered_fields(base) if not _chooses(name, variants)}
    if shared:
        yield "Each of them also takes:"
        yield table(_HEADINGS, [_row(path, base, *each) for each in shared.items()])
    for title, (tag, model) in zip(titles, variants, strict=True):
        own = [
            (name, field)
            for name, field in ordered_fields(model)
            if not _chooses(name, [(tag, model)]) and (name not in shared or name in _annotations(model))
        ]
        of = f" ({_said(tag)})"
        yield from _titled(
            title, _told(model), [_row(path, model, *each, "" if each[0] in shared else of) for each in own]
        )
        for name, _ in own:
            if name not in shared:
                yield from _inner_sections(f"{path}.{name}", _hint(model, name), of)
    for name in shared:
        yield from _inner_sections(f"{path}.{name}", _hint(base, name))


def _common_base(models: list[type[Settings]]) -> type[Settings]:
    """The nearest class that all of them inherit from."""
    return next(base for base in models[0].__mro__[1:] if all(issubclass(each, base) for each in models))


def _chooses(name: str, variants: list[tuple[str, type[Settings]]]) -> bool:
    """Whether a key only says which variant it is, so that its value is in the section's title already."""
    return any(tag.partition("=")[0] == name and not tag.endswith("=") for tag, _ in variants)


def _titled(title: str, told: str, rows: list[list[str]]) -> Iterator[str]:
    if title:
        yield f"## {title}"
    yield told
    if rows:
        yield table(_HEADINGS, rows)


_HEADINGS: Final = ["key", "value", "default", "meaning"]


def _row(path: str, model: type[Settings], name: str, field: FieldInfo, of: str = "") -> list[str]:
    hint = _hint(model, name)
    inner = _variants(hint)
    kind = _kind(hint, field.metadata)
    if inner:
        title = _title(_joined(path, _key(name, field)), hint) + of
        kind = f"[{'mapping of these' if _is_mapping(hint) else 'see below'}](#{slug(title)})"
        if NoneType in _members(hint):
            kind += " or `null`"
    return [f"`{_key(name, field)}`", kind, _default(hint, field), field.description or ""]


def _default(hint: Any, field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return "needed"
    if isinstance(value, Settings):
        chosen = value.model_dump(mode="json", exclude_defaults=True)
        return f"`{flow(chosen)}`" if chosen else "its own"
    if id(hint) == id(Seconds):
        return f"`{format_duration(value)}`"
    return f"`{flow(to_jsonable_python(value))}`"


def _kind(hint: Any, outer: list[Any] | tuple[Any, ...] = ()) -> str:
    """What a value looks like, in a few words."""
    if id(hint) in _NAMED:
        return _NAMED[id(hint)]
    bounds = list(outer)
    if get_origin(hint) is Annotated:
        hint, *marks = get_args(hint)
        bounds += [inner for mark in marks for inner in getattr(mark, "metadata", [mark])]
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_kind(member, bounds if member is not NoneType else ()) for member in get_args(hint))
    if get_origin(hint) is not None:
        return _compound(hint)
    return _WORDS.get(hint, "mapping") + _bounds(bounds)


def _compound(hint: Any) -> str:
    """Words to choose from, a list or a mapping."""
    if get_origin(hint) is Literal:
        *first, last = (f"`{value}`" for value in get_args(hint))
        return f"{', '.join(first)} or {last}" if first else last
    if get_origin(hint) is tuple:
        return f"list of {_kind(get_args(hint)[0])}"
    return f"mapping of {' to '.join(_kind(each) for each in get_args(hint))}"


def _bounds(marks: list[Any]) -> str:
    if any(getattr(mark, "gt", None) is not None for mark in marks):
        marks = [mark for mark in marks if getattr(mark, "ge", None) is None]  # more than 0 is at least 0, too
    said = [
        f"{sign} {_number(limit)}"
        for sign, name in ((">", "gt"), ("≥", "ge"), ("<", "lt"), ("≤", "le"))
        for limit in dict.fromkeys(
            getattr(mark, name) for mark in marks if getattr(mark, name, None) is not None
        )
    ]
    return f" {' and '.join(said)}" if said else ""


def _number(limit: float) -> str:
    whole = int(limit)
    large = whole == limit and whole >= 1 << 20 and whole.bit_count() == 1
    return f"2^{whole.bit_length() - 1}" if large else f"{limit:,}"


def _variants(hint: Any) -> list[tuple[str, type[Settings]]]:
    """The mappings with settings that a value may be, each with what chooses it; values of mappings, too."""
    if get_origin(hint) is Annotated:
        bare, *marks = get_args(hint)
        names = [mark.tag for mark in marks if is_tag(getattr(mark, "tag", None))]
        return [(names[0][1:-1] if names else tag, model) for tag, model in _variants(bare)]
    if _is_mapping(hint):
        return _variants(get_args(hint)[1])
    if get_origin(hint) in (Union, UnionType):
        return [found for member in get_args(hint) for found in _variants(member)]
    return [("", hint)] if inspect.isclass(hint) and issubclass(hint, Settings) else []


def _title(path: str, hint: Any) -> str:
    return f"{path}.NAME" if _is_mapping(hint) else path


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _is_mapping(hint: Any) -> bool:
    bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    return inspect.isclass(get_origin(bare)) and issubclass(get_origin(bare), Mapping)


def _said(tag: str) -> str:
    """How a file chooses a variant: `source: csv`, or the key that only this one has."""
    key, _, value = tag.partition("=")
    return f"{key}: {value}" if value else key


def _hint(model: type[Settings], name: str) -> Any:
    return get_type_hints(model, include_extras=True)[name]


def _annotations(model: type[Settings]) -> dict[str, str]:
    return dict(vars(model).get("__annotations__", {}))


def _key(name: str, field: FieldInfo) -> str:
    return field.alias or name


def _joined(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _told(model: type[Settings]) -> str:
    """The class's own docstring, as Markdown."""
    return _ROLE.sub(r"`\1`", inspect.cleandoc(vars(model).get("__doc__") or ""))
