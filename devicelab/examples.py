"""The experiments that come with devicelab, copied to where somebody without a checkout can change them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from devicelab.errors import ConfigError
from devicelab.files import host_error, require_directory, write_atomically

__all__ = ["Example", "write_examples"]

_PACKAGE: Final = Path(__file__).parent
# The wheel has them inside the package (scripts/build_runners.py), a checkout beside it.
_PLACES: Final = (_PACKAGE / "configs", _PACKAGE.parent / "configs")


@dataclass(frozen=True, slots=True)
class Example:
    """One experiment's file.

    Attributes:
        path: Where it is now.
        title: Its first words.
        written: Whether it was not there before.
    """

    path: Path
    title: str
    written: bool


def write_examples(directory: Path) -> list[Example]:
    """Have a copy of every example in a directory, made if need be; one that is there already stays.

    Raises:
        ConfigError: Another file has the name of one of them (then none is written), or this host cannot write
            them, or this devicelab was installed without them.
    """
    contents = _shipped()
    require_directory(directory)
    try:
        # a link that leads nowhere is in the way, too
        there = {name for name in contents if os.path.lexists(directory / name)}
        for name in sorted(there):
            path = directory / name
            if not path.is_file() or path.read_bytes() != contents[name]:
                raise ConfigError(
                    f"{directory / name} is there already, and not the example of that name",
                    hint="name another directory: devicelab examples DIRECTORY",
                )
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            if name not in there:
                write_atomically(directory / name, content)
    except OSError as error:
        raise host_error(f"the examples cannot be written to {directory}", error) from error
    return [Example(directory / name, _title(content), name not in there) for name, content in contents.items()]


def _shipped() -> dict[str, bytes]:
    """Content by file name."""
    for place in _PLACES:
        if files := sorted(place.glob("*.yaml")):
            return {path.name: path.read_bytes() for path in files}
    raise ConfigError(
        f"this devicelab holds no examples: {_PLACES[0]} is missing", hint="install devicelab from its wheel"
    )


def _title(content: bytes) -> str:
    """What the comment at its beginning says before the first colon."""
    return content.decode().partition("\n")[0].removeprefix("#").partition(":")[0].strip()
