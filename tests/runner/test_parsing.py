"""The runner's lines: what is right is read, everything else is one kind of error."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devicelab.runner.messages import (
    EvaluateResult,
    Failure,
    Hello,
    LineBuffer,
    MalformedMessageError,
    Metric,
    Progress,
    RunResult,
    TrainResult,
)
from devicelab.runner.parsing import parse_message

HASH = "0123456789abcdef" * 4
HELLO = {
    "type": "hello",
    "protocol": 1,
    "runner": "0.1.0",
    "engine": "1.32.0",
    "abi": "x86_64",
    "system": "linux",
    "pid": 4711,
}
PROGRESS = {
    "type": "progress",
    "client": "17",
    "index": 3,
    "clients": 200,
    "step": 12,
    "steps": 40,
    "loss": 0.53,
    "examples": 384,
    "ms": 1234,
}
CLIENT = {
    "client": "17",
    "examples": 301,
    "weight": 301.0,
    "steps": 10,
    "loss_first": 1.2,
    "loss_last": 0.9,
    "loss_before": None,
    "norm": 0.41,
    "clipped": True,
    "ms": 31,
    "metrics": {"accuracy": {"sum": 271.0, "count": 301.0}, "perplexity": {"sum": None, "count": 1}},
}
DONE: dict[str, Any] = {
    "type": "done",
    "job": "r3-ab12",
    "examples": 301,
    "weight": 301.0,
    "peak_rss_kb": 61234,
    "steps": 10,
    "ms": {"start": 12, "train": 904, "write": 8},
    "update": {"file": "update.safetensors", "bytes": 220312, "sha256": HASH},
    "clients": [CLIENT],
}
EVALUATED = {key: DONE[key] for key in ("type", "job", "examples", "peak_rss_kb", "ms", "clients")}
RAN = {
    **{key: DONE[key] for key in ("type", "job", "peak_rss_kb", "ms")},
    "outputs": {"file": "outputs.safetensors", "bytes": 1, "sha256": HASH},
}
ERROR = {"type": "error", "code": "not-finite", "message": "\x1b[31mloss", "client": "17"}
ALL = (HELLO, PROGRESS, DONE, EVALUATED, RAN, ERROR)


def line(document: object) -> bytes:
    return json.dumps(document).encode()


def test_every_message_is_read() -> None:
    assert parse_message(line(HELLO)) == Hello(1, "0.1.0", "1.32.0", "x86_64", "linux", 4711)
    assert parse_message(line(PROGRESS)) == Progress(1234, "17", 3, 200, 12, 40, 0.53, 384)
    assert parse_message(b'{"type":"progress","ms":5}') == Progress(5)
    assert parse_message(line(ERROR)) == Failure("not-finite", "loss", "17")
    done = parse_message(line(DONE))
    assert isinstance(done, TrainResult)
    assert (done.update.bytes, done.update.sha256, done.weight) == (220312, HASH, 301.0)
    [client] = done.clients
    assert (client.loss_first, client.loss_before, client.loss_after, client.clipped) == (1.2, None, None, True)
    assert client.metrics == {"accuracy": Metric(271.0, 301.0)}
    evaluated = parse_message(line(EVALUATED))
    assert isinstance(evaluated, EvaluateResult)
    assert evaluated.examples == 301
    ran = parse_message(line(RAN))
    assert isinstance(ran, RunResult)
    assert ran.outputs.file == "outputs.safetensors"


def test_what_is_new_is_ignored() -> None:
    assert parse_message(line({**PROGRESS, "temperature": [1]})) == parse_message(line(PROGRESS))


@pytest.mark.parametrize(
    "wrong",
    [
        {**HELLO, "pid": "4711"},
        {**HELLO, "protocol": True},
        {**HELLO, "runner": "../../etc"},
        {**HELLO, "abi": "x" * 65},
        {**PROGRESS, "step": -1},
        {**PROGRESS, "step": 1.5},
        {**PROGRESS, "examples": 1 << 63},
        {**PROGRESS, "client": "a b"},
        {**DONE, "update": {**DONE["update"], "file": "../../../home/user/.bashrc"}},
        {**DONE, "update": {**DONE["update"], "file": "outputs.safetensors"}},
        {**DONE, "update": {**DONE["update"], "sha256": HASH.upper()}},
        {**DONE, "weight": -1.0},
        {**DONE, "clients": {}},
        {**DONE, "clients": [CLIENT] * 100_001},
        {**DONE, "clients": [{**CLIENT, "clipped": 1}]},
        {**DONE, "clients": [{**CLIENT, "metrics": {str(n): {"sum": 1, "count": 1} for n in range(65)}}]},
        {**DONE, "ms": {"x" * 201: 1}},
        {"type": "farewell"},
        {},
        [],
        "done",
        None,
    ],
)
def test_what_is_wrong_is_refused(wrong: object) -> None:
    with pytest.raises(MalformedMessageError):
        parse_message(line(wrong))


@pytest.mark.parametrize(
    "text",
    [
        b'{"type":"progress","ms":NaN}',
        b'{"type":"progress","client":"1","index":0,"clients":1,"step":1,"steps":1,"loss":1e999,"examples":1,"ms":1}',
        b'{"type":"progress","ms":' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b"\xff\xfe",
        b"",
    ],
)
def test_tricks_of_json_are_refused(text: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        parse_message(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


def _replaced(document: Any, path: list[int], value: Any) -> Any:
    """The document with one part of it, found by walking along ``path``, replaced."""
    if not path or not isinstance(document, dict | list) or not document:
        return value
    keys = list(document) if isinstance(document, dict) else list(range(len(document)))
    key = keys[path[0] % len(keys)]
    changed = document.copy()
    changed[key] = _replaced(document[key], path[1:], value)
    return changed


@given(st.sampled_from(ALL), st.lists(st.integers(0, 20), max_size=5), JSON)
def test_no_value_anywhere_breaks_the_parser(document: Any, path: list[int], value: Any) -> None:
    try:
        parse_message(json.dumps(_replaced(document, path, value)).encode("utf-8", "surrogatepass"))
    except MalformedMessageError as error:
        assert len(str(error)) < 2000  # noqa: PT017 (either outcome is right, but no other error)


@given(st.sampled_from(ALL), st.integers(0, 600), st.binary(max_size=8))
def test_no_damage_breaks_the_parser(document: Any, at: int, noise: bytes) -> None:
    data = line(document)
    try:
        parse_message(data[:at] + noise + data[at + len(noise) :])
    except MalformedMessageError as error:
        assert str(error)  # noqa: PT017 (as above)


@given(
    st.lists(st.binary(min_size=1, max_size=20).map(lambda b: b.replace(b"\n", b" ").strip() or b"x")),
    st.data(),
)
def test_lines_are_cut_wherever_the_pieces_end(lines: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(each + b"\n" for each in lines)
    buffer, found = LineBuffer(), []
    at = 0
    while at < len(whole):
        size = data.draw(st.integers(1, 30))
        found += buffer.feed(whole[at : at + size])
        at += size
    assert found == [each.removesuffix(b"\r") for each in lines]


def test_a_line_without_end_is_refused() -> None:
    buffer = LineBuffer(100)
    assert buffer.feed(b"x" * 100) == []
    with pytest.raises(MalformedMessageError, match="more than 100 bytes"):
        buffer.feed(b"x")
    with pytest.raises(MalformedMessageError):
        LineBuffer(100).feed(b"y" * 101 + b"\n")
