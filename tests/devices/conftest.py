"""Invented phones whose answers follow the real formats, one directory a phone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from devicelab.devices.facts import RawFacts

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def phone() -> Callable[[str], RawFacts]:
    """What the phone of that name answers, byte for byte (no newline translation)."""

    def read(name: str) -> RawFacts:
        texts = {
            part.name: (FIXTURES / name / f"{part.name}.txt").read_bytes().decode() for part in fields(RawFacts)
        }
        return RawFacts(**texts)

    return read
