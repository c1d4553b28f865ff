"""What all settings have in common: strict, frozen models, and the types that YAML has no word for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainSerializer,
    StringConstraints,
    Tag,
    ValidationInfo,
)
from pydantic_core import PydanticCustomError

__all__ = [
    "DIRECTORY",
    "ROUNDS_MAX",
    "Contradiction",
    "DottedPath",
    "FilePath",
    "Name",
    "Positive",
    "Seconds",
    "Settings",
    "Share",
    "choice",
    "choice_of_keys",
    "contradict",
    "format_duration",
    "is_tag",
    "parse_duration",
    "tag",
]

DIRECTORY: Final = "directory"
"""Key of the validation context: the directory that relative paths start from."""

ROUNDS_MAX: Final = 1_000_000
"""Rounds that a run has at most."""

_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s*(ms|s|min|m|h|d)\s*")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


class Settings(BaseModel):
    """Base of all settings: nothing is converted silently, nothing unknown is accepted, nothing changes."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )


def parse_duration(value: object) -> object:
    """Seconds from ``90s``, ``5m``, ``1h 30m``, ``250ms``; other values are left to the type's own check.

    Raises:
        ValueError: It is text, but no duration.
    """
    if not isinstance(value, str):
        return value
    text = value.strip()
    parts = list(_PART.finditer(text))
    if not parts or "".join(part[0] for part in parts) != text:
        raise ValueError(f"{value!r} is no duration; write 90s, 5m or 1h 30m, or a number of seconds")
    return sum(float(part[1]) * _UNITS[part[2]] for part in parts)


def format_duration(seconds: float) -> str | float:
    """The duration in the largest unit that leaves no rest; else the bare number of seconds."""
    for unit in ("d", "h", "m", "s"):
        number = seconds / _UNITS[unit]
        if number >= 1 and number == int(number):
            return f"{int(number)}{unit}"
    return seconds


def _resolved(path: Path, info: ValidationInfo) -> Path:
    path = path.expanduser()
    context: object = info.context
    if isinstance(context, dict) and DIRECTORY in context:
        return Path(context[DIRECTORY]) / path
    return path


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""Something that files are named after."""

DottedPath = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")
]
"""Where something is in Python: ``package.module:Name``."""

FilePath = Annotated[Path, AfterValidator(_resolved)]
"""A file or directory; relative ones start at the YAML file. Whether it exists is found out when it is used."""

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Seconds = Annotated[
    float,
    BeforeValidator(parse_duration),
    Field(gt=0),
    PlainSerializer(format_duration, when_used="json"),
]
"""A duration in seconds; in YAML also ``90s``, ``5m``, ``1h 30m``."""


def choice(key: str, names: Iterable[str], default: str | None = None) -> Discriminator:
    """Chooses among variants, each with its :func:`tag`, by what their mapping says under ``key``.

    Args:
        key: The key, which each variant declares as a literal.
        names: The variants' names.
        default: Which variant it is where the key is left out; None makes the key necessary.
    """

    def named(value: object) -> str:
        said = value.get(key, default) if isinstance(value, dict) else getattr(value, key, None)
        return f"<{key}={said}>"

    return _discriminator(named, key, names)


def choice_of_keys(*keys: str) -> Discriminator:
    """Chooses among variants, tagged ``tag(key, "")``, by which of the keys is there; the first one wins."""

    def present(value: object) -> str:
        said: Iterable[str] = value if isinstance(value, dict) else ()
        if isinstance(value, Settings):
            said = [field.alias or name for name, field in type(value).model_fields.items()]
        return next((f"<{key}=>" for key in keys if key in said), "<=>")

    return _discriminator(present, "", keys)


def tag(key: str, name: str = "") -> Tag:
    """Marks a variant; see :func:`choice` and :func:`choice_of_keys`."""
    return Tag(f"<{key}={name}>")


def is_tag(part: object) -> bool:
    """Whether part of an error's location is a variant's tag, and so no key of the file."""
    return isinstance(part, str) and part.startswith("<") and part.endswith(">") and "=" in part


def _discriminator(choose: Callable[[Any], str], key: str, names: Iterable[str]) -> Discriminator:
    # What can be chosen is told in the message, for devicelab.config.problems to take apart: with a context
    # the discriminator could not be hashed, and so not be part of a union.
    message = f"{key}: {', '.join(names)}"
    return Discriminator(choose, custom_error_type="choice", custom_error_message=message)


Contradiction = tuple[tuple[str, ...], str]
"""Where, from the settings that say it, and what."""


def contradict(found: list[Contradiction]) -> None:
    """Raise what is wrong between settings that are each fine by themselves, all at once.

    Raises:
        PydanticCustomError: Something was found; the loader knows how to take it apart.
    """
    if found:
        text = "; ".join(f"{'.'.join(at)}: {message}" if at else message for at, message in found)
        raise PydanticCustomError("contradiction", "{text}", {"text": text, "found": found})
