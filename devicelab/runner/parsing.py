"""Reading what the runner prints: hostile until checked.

A line comes from a phone, so nothing in it is believed: its length, its types, its ranges, that numbers are
finite, that a file has the one name it may have. What this module does not know in a message it ignores.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, NoReturn

from devicelab.devices.text import clean
from devicelab.runner.messages import (
    LINE_LIMIT,
    ClientResult,
    CommitResult,
    EvaluateResult,
    Failure,
    Hello,
    MalformedMessageError,
    Message,
    Metric,
    OutputFile,
    Progress,
    Result,
    RunResult,
    TrainResult,
)

__all__ = ["parse_message"]

_MAX_CLIENTS: Final = 100_000
_MAX_METRICS: Final = 64
_COUNT: Final = (1 << 63) - 1
_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_WORD: Final = re.compile(r"[A-Za-z0-9._+-]{1,64}", re.ASCII)


def parse_message(line: bytes) -> Message:
    """Read one line.

    Raises:
        MalformedMessageError: It is no line of a runner.
    """
    if len(line) > LINE_LIMIT:
        raise MalformedMessageError(f"a line of more than {LINE_LIMIT} bytes")
    try:
        document = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise MalformedMessageError(f"{line[:60]!r} is not JSON: {error}") from error
    fields = _Fields(document, "a line")
    kind = fields.text("type", 16)
    if kind == "hello":
        return _hello(fields)
    if kind == "progress":
        return _progress(fields)
    if kind == "done":
        return _done(fields)
    if kind == "error":
        client = fields.word("client") if fields.has("client") else None
        return Failure(fields.word("code"), clean(fields.text("message", 65536), 1000), client)
    raise MalformedMessageError(f"a message of the unknown type {kind!r}")


class _Fields:
    """Typed values out of a JSON object. ``null`` is as good as absent."""

    def __init__(self, document: object, where: str) -> None:
        if not isinstance(document, dict):
            raise MalformedMessageError(f"{where} is no JSON object")
        self._document: dict[str, Any] = document
        self._where = where

    def has(self, key: str) -> bool:
        return self._document.get(key) is not None

    def text(self, key: str, limit: int) -> str:
        value = self._document.get(key)
        if not isinstance(value, str) or len(value) > limit:
            self._refuse(key, "text")
        return value

    def word(self, key: str) -> str:
        value = self.text(key, 64)
        if _WORD.fullmatch(value) is None:
            self._refuse(key, "a word")
        return value

    def whole(self, key: str, *, most: int = _COUNT) -> int:
        value = self._document.get(key)
        if type(value) is not int or not 0 <= value <= most:
            self._refuse(key, f"a whole number from 0 to {most}")
        return value

    def number(self, key: str, *, least: float = -math.inf) -> float:
        value = self._document.get(key)
        if type(value) not in (int, float):
            self._refuse(key, "a number")
        try:
            found = float(value)  # type: ignore[arg-type] # just checked
        except OverflowError:
            found = math.inf
        if not math.isfinite(found) or found < least:
            self._refuse(key, "a number within bounds")
        return found

    def optional(self, key: str, *, least: float = -math.inf) -> float | None:
        return self.number(key, least=least) if self.has(key) else None

    def truth(self, key: str) -> bool:
        value = self._document.get(key)
        if not isinstance(value, bool):
            self._refuse(key, "true or false")
        return value

    def items(self, key: str, limit: int) -> list[Any]:
        value = self._document.get(key)
        if not isinstance(value, list) or len(value) > limit:
            self._refuse(key, f"a list of at most {limit}")
        return value

    def within(self, key: str) -> _Fields:
        return _Fields(self._document.get(key), f"{self._where}: {key!r}")

    def names(self, limit: int) -> list[str]:
        names = list(self._document)
        if len(names) > limit or any(not 0 < len(name) <= 200 for name in names):
            raise MalformedMessageError(f"{self._where} has {len(names)} names, or one that is too long")
        return names

    def _refuse(self, key: str, expected: str) -> NoReturn:
        value = self._document.get(key)
        raise MalformedMessageError(f"{self._where}: {key!r} is {value!r:.80} and not {expected}")


def _hello(fields: _Fields) -> Hello:
    words = {key: fields.word(key) for key in ("runner", "engine", "abi", "system")}
    return Hello(protocol=fields.whole("protocol"), pid=fields.whole("pid", most=1 << 31), **words)


def _progress(fields: _Fields) -> Progress:
    ms = fields.whole("ms")
    if not fields.has("client"):
        return Progress(ms)
    counts = {key: fields.whole(key) for key in ("index", "clients", "step", "steps", "examples")}
    return Progress(ms, fields.word("client"), loss=fields.optional("loss"), **counts)


def _done(fields: _Fields) -> Result | CommitResult:
    job, peak = fields.word("job"), fields.whole("peak_rss_kb")
    if fields.has("committed"):
        return CommitResult(job, fields.whole("committed"))
    parts = fields.within("ms")
    ms = {name: parts.whole(name) for name in parts.names(_MAX_METRICS)}
    if fields.has("outputs"):
        return RunResult(job, peak, ms, _output_file(fields.within("outputs"), "outputs.safetensors"))
    found = enumerate(fields.items("clients", _MAX_CLIENTS))
    clients = tuple(_client(_Fields(each, f"client {index}")) for index, each in found)
    examples = fields.whole("examples")
    if not fields.has("update"):
        return EvaluateResult(job, examples, peak, ms, clients)
    update = _output_file(fields.within("update"), "update.safetensors")
    weight, steps = fields.number("weight", least=0.0), fields.whole("steps")
    return TrainResult(job, examples, weight, steps, peak, ms, update, clients)


def _client(fields: _Fields) -> ClientResult:
    measured = fields.within("metrics") if fields.has("metrics") else _Fields({}, "metrics")
    metrics = {}
    for name in measured.names(_MAX_METRICS):
        parts = measured.within(name)
        if not parts.has("sum"):
            continue  # it was not finite
        metrics[name] = Metric(parts.number("sum"), parts.number("count", least=0.0))
    losses = ("loss_first", "loss_last", "loss_before", "loss_after")
    return ClientResult(
        client=fields.word("client"),
        examples=fields.whole("examples"),
        ms=fields.whole("ms"),
        metrics=metrics,
        weight=fields.optional("weight", least=0.0),
        steps=fields.whole("steps") if fields.has("steps") else None,
        norm=fields.optional("norm", least=0.0),
        clipped=fields.truth("clipped") if fields.has("clipped") else False,
        **{name: fields.optional(name) for name in losses},
    )


def _output_file(fields: _Fields, name: str) -> OutputFile:
    found = OutputFile(fields.text("file", 64), fields.whole("bytes"), fields.text("sha256", 64))
    if found.file != name or _SHA256.fullmatch(found.sha256) is None:
        raise MalformedMessageError(
            f"its file is {found.file!r} with the hash {found.sha256!r:.80}, not {name}"
        )
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
