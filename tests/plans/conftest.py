"""What the tests of plans share: exports made once a process, and one thread, as on a busy phone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from devicelab.plans.export import ExportedPlan, build_plan
from devicelab.plans.signature import Kind, Role, Signature
from devicelab.plans.step import STEP_COUNT
from devicelab.plans.tables import renumbered
from devicelab.plans.zoo import OPTIMIZERS, ZOO


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
    # pytest listens to all loggers, and PyTorch tells whoever listens about every traced tensor, for minutes.
    logging.getLogger("torch.__trace").setLevel(logging.CRITICAL)


@cache
def exported(model: str, optimizer: str = "sgd", kind: Kind = "train") -> ExportedPlan:
    """A zoo plan, exported and checked once a process."""
    plan = ZOO[model]()
    plan.optimizer = OPTIMIZERS[optimizer]
    return build_plan(plan, kind)


def feeds_of(
    plan: ExportedPlan, examples: int, *, batch_seed: int = 0, seed: int = 0, step: int = 0
) -> dict[str, np.ndarray[Any, Any]]:
    """First values of all inputs, and a batch of so many examples."""
    batch = plan.traced.step.plan.random_batch(examples, torch.Generator().manual_seed(batch_seed))
    feeds = dict(plan.initial)
    for i in plan.signature.inputs:
        if i.role is Role.DATA:
            feeds[i.name] = batch[i.label].numpy()
        elif i.role is Role.ANCHOR:
            feeds[i.name] = plan.traced.step.initial[i.name].numpy()
        elif i.role is Role.HYPER:
            feeds[i.name] = np.asarray(seed if i.label == "seed" else i.default, dtype=i.dtype)
    if STEP_COUNT in feeds:
        feeds[STEP_COUNT] = np.asarray(step, dtype=np.int64)
    return feeds


def on_rows(
    signature: Signature, feeds: Mapping[str, np.ndarray[Any, Any]], rows: Mapping[str, np.ndarray[Any, Any]]
) -> dict[str, np.ndarray[Any, Any]]:
    """The same with nothing but some rows of each table, as a client has them."""
    part = dict(feeds)
    for i in signature.inputs:
        if i.rows is not None and i.name in part:
            mine = rows[i.rows]
            part[i.name] = renumbered(part[i.name], mine) if i.role is Role.DATA else part[i.name][mine]
    return part


@pytest.fixture
def export() -> Callable[..., ExportedPlan]:
    return exported
