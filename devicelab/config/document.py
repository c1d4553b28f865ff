"""YAML as a person means it: YAML 1.2's core schema, no duplicate keys, and the line of every value.

PyYAML reads YAML 1.1, where ``on`` is true, ``1e-3`` is text and ``1:30`` is ninety. Only its parser is used
here; what a plain word stands for is decided by the core schema (YAML 1.2.2, 10.3.2).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import yaml

from devicelab.errors import ConfigError
from devicelab.files import require_regular

__all__ = ["Document", "Location", "Scalar", "Value", "parse_document", "read_document"]

Scalar = str | int | float | bool | None
Value = Scalar | list["Value"] | dict[str, "Value"]
Location = tuple[str | int, ...]
"""The keys and list indices that lead to a value: ``("round", "clients", "number")``."""

_MAX_BYTES: Final = 1 << 20
_MAX_VALUES: Final = 100_000
_MAX_DEPTH: Final = 32

_NULL: Final = re.compile(r"~|null|Null|NULL|")
_TRUE: Final = re.compile(r"true|True|TRUE")
_FALSE: Final = re.compile(r"false|False|FALSE")
_INT: Final = re.compile(r"[-+]?[0-9]+")
_OCTAL: Final = re.compile(r"0o[0-7]+")
_HEX: Final = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")
_MAX_DIGITS: Final = 400  # longer numbers are no numbers of ours, and slow to read

_CORE: Final = "tag:yaml.org,2002:"


class _Plain(yaml.SafeLoader):
    """Leaves plain words as text, so that the core schema can be applied to them."""

    yaml_implicit_resolvers: Mapping[str, object] = {}  # type: ignore[assignment]  # the stub says dict of lists


@dataclass(frozen=True, slots=True)
class Document:
    """A YAML file's content.

    Attributes:
        name: How the file is called in messages.
        root: The mapping at the top.
        lines: The line, from 1, of each value, by its location.
    """

    name: str
    root: dict[str, Value]
    lines: Mapping[Location, int]

    def line(self, location: Location) -> int:
        """The line of a value; of the nearest thing around it, where it is not there itself."""
        while location not in self.lines:
            location = location[:-1]
        return self.lines[location]


def read_document(path: Path) -> Document:
    """Read a YAML file whose top is a mapping.

    Raises:
        ConfigError: It cannot be read, is too large, is not YAML, or says something twice.
    """
    try:
        require_regular(path)
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(data) > _MAX_BYTES:
        raise ConfigError(f"{path} is larger than {_MAX_BYTES >> 20} MiB")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}: line {line}: not UTF-8") from error
    return parse_document(text, str(path))


def parse_document(text: str, name: str) -> Document:
    """Parse YAML whose top is a mapping.

    Args:
        text: The YAML.
        name: How the file is called in messages.

    Raises:
        ConfigError: It is not YAML, or says something twice.
    """
    try:
        node = yaml.compose(text, Loader=_Plain)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}: line {mark.line + 1}" if mark else name
        raise ConfigError(f"{where}: not YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{name}: not YAML: {' '.join(str(error).split())}") from error
    reader = _Reader(name)
    root: Value = {} if node is None else reader.value(node, ())
    if not isinstance(root, dict):
        raise ConfigError(f"{name}: the top must be a mapping of keys to values")
    reader.lines.setdefault((), 1)
    return Document(name, root, reader.lines)


@dataclass(slots=True)
class _Reader:
    """Turns nodes into values, and counts them: aliases of aliases grow without bounds."""

    name: str
    lines: dict[Location, int] = field(default_factory=dict)
    count: int = 0

    def value(self, node: yaml.Node, at: Location) -> Value:
        self.count += 1
        if self.count > _MAX_VALUES or len(at) > _MAX_DEPTH:
            raise self.error(node, f"more than {_MAX_VALUES} values, or deeper than {_MAX_DEPTH}")
        self.lines[at] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_CORE}map":
            return self.mapping(node, at)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_CORE}seq":
            return [self.value(item, (*at, i)) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and node.tag == f"{_CORE}str":
            return self.text(node) if node.style else core_scalar(self.text(node))
        raise self.error(node, f"the tag {node.tag.replace(_CORE, '!!')!r} has no meaning here")

    def mapping(self, node: yaml.MappingNode, at: Location) -> dict[str, Value]:
        content: dict[str, Value] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.error(key_node, "a key must be text")
            key = self.text(key_node)
            if key in content:
                first = self.lines[*at, key]
                raise self.error(key_node, f"the key {key!r} is there twice, first on line {first}")
            content[key] = self.value(value_node, (*at, key))
            self.lines[*at, key] = key_node.start_mark.line + 1
        return content

    def text(self, node: yaml.ScalarNode) -> str:
        text = str(node.value)
        if _SURROGATE.search(text):
            raise self.error(node, r"half a character; write it itself, or as \U0001F600")
        return text

    def error(self, node: yaml.Node, problem: str) -> ConfigError:
        return ConfigError(f"{self.name}: line {node.start_mark.line + 1}: {problem}")


def core_scalar(text: str) -> Scalar:
    """What a plain word stands for in the core schema; infinities and NaN stay text: nothing takes them."""
    readers: Sequence[tuple[re.Pattern[str], Scalar]] = ((_NULL, None), (_TRUE, True), (_FALSE, False))
    if len(text) > _MAX_DIGITS:
        return text
    for pattern, meaning in readers:
        if pattern.fullmatch(text):
            return meaning
    if _INT.fullmatch(text):
        return int(text)
    if _OCTAL.fullmatch(text) or _HEX.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
