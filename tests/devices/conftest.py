"""Invented phones whose answers follow the real formats, one directory a phone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from devicelab.devices.facts import RawFacts

# A loaded machine is no reason to fail, nor is a checkout that this user may not write to.
settings.register_profile("patient", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

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
