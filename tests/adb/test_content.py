"""What a push reads: files, memory, pipes."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devicelab.adb.content import BytesContent, Content, FileContent, StreamContent, open_content


class Trickle(io.RawIOBase):
    """A pipe that gives a few bytes at a time."""

    def __init__(self, data: bytes, step: int) -> None:
        self._rest = data
        self._step = step

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        count = min(size, self._step) if size >= 0 else self._step
        data, self._rest = self._rest[:count], self._rest[count:]
        return data


def _drain(content: Content, sizes: list[int]) -> bytes:
    slots = [memoryview(bytearray(size)) for size in sizes]
    got = b""
    with content:
        while count := content.fill(slots):
            got += b"".join(slots)[:count]
    return got


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str, bytes], Content]:
    def make(kind: str, data: bytes) -> Content:
        path = tmp_path / "file"
        path.write_bytes(data)
        kinds: dict[str, Callable[[], Content]] = {
            "file": lambda: open_content(path),
            "bytes": lambda: open_content(data),
            "view": lambda: open_content(memoryview(bytearray(data))),
            "stream": lambda: open_content(io.BytesIO(data)),
            "trickle": lambda: StreamContent(Trickle(data, 77)),
        }
        return kinds[kind]()

    return make


KINDS = pytest.mark.parametrize("kind", ["file", "bytes", "view", "stream", "trickle"])


@KINDS
@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 250, 300, 1000])
def test_everything_is_read_once_and_in_order(
    kind: str, size: int, make: Callable[[str, bytes], Content]
) -> None:
    data = os.urandom(size)
    assert _drain(make(kind, data), [100, 50, 100]) == data


@KINDS
@pytest.mark.parametrize("size", [0, 10, 40_000, 100_000, 1_000_000])
def test_a_sample_takes_nothing_away(kind: str, size: int, make: Callable[[str, bytes], Content]) -> None:
    data = os.urandom(size)
    content = make(kind, data)
    sample = content.sample()
    assert bool(sample) == bool(data)
    assert len(sample) <= 3 << 15
    assert content.sample() == sample
    assert _drain(content, [65536] * 4) == data


def test_a_sample_looks_into_the_middle_and_the_end() -> None:
    data = bytes(1_000_000) + b"m" * 100_000 + bytes(1_000_000) + b"e" * 10
    sample = BytesContent(data).sample()
    assert b"m" in sample
    assert sample.endswith(b"e" * 10)


@given(st.binary(max_size=500), st.lists(st.integers(1, 90), min_size=1, max_size=6), st.integers(1, 60))
def test_slots_of_any_size(data: bytes, sizes: list[int], step: int) -> None:
    assert _drain(BytesContent(data), sizes) == data
    assert _drain(StreamContent(Trickle(data, step)), sizes) == data


def test_numbers_are_sent_as_their_bytes() -> None:
    numbers = memoryview(b"\1\0\0\0\2\0\0\0").cast("I")
    assert _drain(BytesContent(numbers), [3, 4]) == b"\1\0\0\0\2\0\0\0"


def test_a_file_is_closed_and_a_stream_is_left_to_its_owner(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    file = FileContent(tmp_path / "file")
    with file:
        pass
    with pytest.raises(ValueError, match="closed file"):
        file.fill([memoryview(bytearray(1))])
    stream = io.BytesIO(b"x")
    with StreamContent(stream):
        pass
    assert not stream.closed


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_content(tmp_path / "none")
