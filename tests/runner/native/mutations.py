"""Damaging inputs: at random, but the same every time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from random import Random

_NUMBER = re.compile(rb"-?\d+(\.\d+)?([eE][+-]?\d+)?")
_STRING = re.compile(rb'"[^"\\]{0,40}"')
_INTERESTING = (
    b"0 -1 1 2 8 9 255 256 65535 65536 2147483647 2147483648 4294967295 4294967296 9223372036854775807 "
    b"9223372036854775808 18446744073709551615 18446744073709551616 1e308 1e999 -0 0.5 1E400 null true [] {} "
    b'"" "\\u0000" "\\ud800" "\\ud83d\\ude00" "batch" 00 01 1. .5 NaN Infinity'
).split(b" ")


def _flip(data: bytearray, random: Random) -> None:
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _overwrite(data: bytearray, random: Random) -> None:
    data[random.randrange(len(data))] = random.randrange(256)


def _delete(data: bytearray, random: Random) -> None:
    start = random.randrange(len(data))
    del data[start : start + random.randint(1, 8)]


def _truncate(data: bytearray, random: Random) -> None:
    del data[random.randrange(len(data)) :]


def _insert(data: bytearray, random: Random) -> None:
    at = random.randrange(len(data) + 1)
    data[at:at] = random.randbytes(random.randint(1, 8))


def _repeat(data: bytearray, random: Random) -> None:
    start = random.randrange(len(data))
    piece = data[start : start + random.randint(1, 64)]
    at = random.randrange(len(data) + 1)
    data[at:at] = piece * random.choice((1, 2, 50))


def _swap(data: bytearray, random: Random) -> None:
    start, other = sorted(random.randrange(len(data)) for _ in range(2))
    length = random.randint(1, 24)
    data[start : start + length], data[other : other + length] = (
        data[other : other + length],
        data[start : start + length],
    )


def _replace(pattern: re.Pattern[bytes]) -> Callable[[bytearray, Random], None]:
    def replace(data: bytearray, random: Random) -> None:
        found = list(pattern.finditer(data))
        if found:
            start, end = random.choice(found).span()
            data[start:end] = random.choice(_INTERESTING)

    return replace


def _nest(data: bytearray, random: Random) -> None:
    at = random.randrange(len(data) + 1)
    data[at:at] = random.choice((b"[", b'{"a":', b"{")) * random.choice((1, 9, 5000))


_MUTATIONS = (
    _flip,
    _overwrite,
    _delete,
    _truncate,
    _insert,
    _repeat,
    _swap,
    _replace(_NUMBER),
    _replace(_NUMBER),
    _replace(_STRING),
    _nest,
)


def mutants(seeds: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """Damaged versions of the seeds, mostly with one fault, some with many."""
    random = Random(seed)
    for _ in range(count):
        data = bytearray(random.choice(seeds))
        for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
            if data:
                random.choice(_MUTATIONS)(data, random)
        yield bytes(data)
