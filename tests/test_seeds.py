from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devicelab.seeds import client_seed, draw

_WORDS = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=20)


def test_the_documented_hash_gives_the_same_numbers() -> None:
    digest = hashlib.sha256(b"devicelab/1\0client\x007\x003\x00ann").digest()
    assert draw(7, "client", 3, "ann") == int.from_bytes(digest[:8], "big")
    assert client_seed(7, 3, "ann") == int.from_bytes(digest[:8], "big") // 2


@given(st.integers(0, 2**63), st.integers(1, 10**6), _WORDS)
def test_client_seeds_fit_the_runner(seed: int, round_number: int, client: str) -> None:
    assert 0 <= client_seed(seed, round_number, client) < 1 << 63


@given(_WORDS, _WORDS, _WORDS, _WORDS)
def test_other_parts_give_another_number(a: str, b: str, c: str, d: str) -> None:
    assert ((a, b) == (c, d)) == (draw(1, "x", a, b) == draw(1, "x", c, d))


def test_parts_cannot_run_into_each_other() -> None:
    with pytest.raises(ValueError, match="NUL"):
        draw(1, "client", "a\0b")
