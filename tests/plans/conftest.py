"""What the tests of plans share: exports made once a process, and one thread, as on a busy phone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache

import pytest
import torch

from devicelab.plans.export import ExportedPlan, build_plan
from devicelab.plans.optimizers import SGD, Adagrad, Adam, AdamW, Optimizer
from devicelab.plans.signature import Kind
from devicelab.plans.zoo import ZOO

OPTIMIZERS: dict[str, Callable[[], Optimizer]] = {
    "sgd": lambda: SGD(lr=0.05),
    "momentum": lambda: SGD(lr=0.02, momentum=0.9),
    "nesterov": lambda: SGD(lr=0.02, momentum=0.9, nesterov=True, weight_decay=1e-4),
    "adam": lambda: Adam(lr=1e-3),
    "adamw": lambda: AdamW(lr=1e-3),
    "adagrad": lambda: Adagrad(lr=1e-2),
}


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
    # pytest listens to all loggers, and PyTorch tells whoever listens about every traced tensor, for minutes.
    logging.getLogger("torch.__trace").setLevel(logging.CRITICAL)


@cache
def exported(model: str, optimizer: str = "sgd", kind: Kind = "train") -> ExportedPlan:
    """A zoo plan, exported and checked once a process."""
    plan = ZOO[model]()
    plan.optimizer = OPTIMIZERS[optimizer]()
    return build_plan(plan, kind)


@pytest.fixture
def export() -> Callable[..., ExportedPlan]:
    return exported
