"""Plans traced once a process, and a bench for every test."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from devicelab.plans.signature import Kind
from devicelab.plans.zoo import ZOO
from tests.runner.native.bench import Bench, Exported, export
from tests.runner.native.plans import PLANS


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
    # pytest listens to all loggers, and PyTorch tells whoever listens about every traced tensor, for minutes.
    logging.getLogger("torch.__trace").setLevel(logging.CRITICAL)


@cache
def _exported(name: str, kind: Kind) -> Exported:
    return export((ZOO.get(name) or PLANS[name])(), kind)


@pytest.fixture
def exported() -> Callable[..., Exported]:
    """A plan of the zoo or of these tests, by name."""

    def get(name: str, kind: Kind = "train") -> Exported:
        return _exported(name, kind)

    return get


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)
