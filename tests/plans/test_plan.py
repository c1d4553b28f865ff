"""What a plan says of itself is looked at before anything is traced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from devicelab.errors import PlanError
from devicelab.plans.plan import NamedRows
from devicelab.plans.zoo import MatrixFactorization


def test_tables_that_fail_are_the_plans_failure() -> None:
    class Broken(MatrixFactorization):
        @property
        def tables(self) -> Mapping[str, NamedRows]:
            raise RuntimeError("no idea")

    with pytest.raises(PlanError, match=r"plan mf: its `tables` failed: .*no idea"):
        Broken().tables_of_parameters(["item.weight"])


def test_an_optimizer_is_one() -> None:
    wrong: Any = {"weight_decay": 0.1}
    plan = MatrixFactorization(optimizer=wrong)
    with pytest.raises(PlanError, match="plan mf: its `optimizer` is a dict, no Optimizer"):
        plan.tables_of_parameters(["item.weight", "item_bias.weight"])
