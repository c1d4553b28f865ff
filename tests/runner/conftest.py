"""Exports are quiet here: pytest listens to all loggers, and PyTorch tells whoever listens too much."""

from __future__ import annotations

import logging

import pytest


@pytest.fixture(autouse=True, scope="session")
def _quiet_tracing() -> None:
    logging.getLogger("torch.__trace").setLevel(logging.CRITICAL)
