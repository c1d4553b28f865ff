"""Android's system properties, as ``getprop`` without arguments prints them."""

from __future__ import annotations

import re

from devicelab.devices.text import lines

__all__ = ["parse_getprop"]

_START = re.compile(r"\[([^\[\]\s]{1,256})\]: \[")


def parse_getprop(text: str) -> dict[str, str]:
    r"""Read ``[key]: [value]`` lines.

    A value may be empty, may hold ``]`` and may span lines (boot histories do). A property therefore reaches up
    to the next line that starts one, and its value up to the last ``]`` at the end of a line in between; what
    follows that, or comes before the first property, is noise (a linker's warning) and is dropped. A property
    without any closing bracket was cut off: it is left out, since no value is better than half of one. Of two
    properties with one name the later counts.

    Args:
        text: The output; line ends may be ``\n``, ``\r\n`` or ``\r\r\n``.

    Returns:
        Values as the phone gave them, not cleaned. Empty for text that holds no property.
    """
    properties: dict[str, str] = {}
    key: str | None = None
    value: list[str] = []
    end = 0  # how many of the lines in `value` are known to belong to it

    def store() -> None:
        if key is not None and end:
            properties[key] = "\n".join(value[:end])[:-1]

    for line in lines(text):
        start = _START.match(line)
        if start:
            store()
            key, value, end = start[1], [line[start.end() :]], 0
        elif key is not None:
            value.append(line)
        if key is not None and line.endswith("]"):
            end = len(value)
    store()
    return properties
