from __future__ import annotations

from pathlib import Path

import pytest

from devicelab.config import Experiment
from devicelab.config.plan import FilePlan
from devicelab.errors import ConfigError, PlanError
from devicelab.plans.loading import load_plan
from devicelab.plans.optimizers import Adam
from devicelab.plans.zoo import MLP, MatrixFactorization


def _experiment(plan: object) -> Experiment:
    return Experiment.model_validate(
        {
            "name": "x",
            "plan": plan,
            "data": {"source": "digits", "partition": {"by": "iid", "clients": 2}},
            "round": {"rounds": 1},
        }
    )


def test_a_zoo_plan_with_an_optimizer() -> None:
    optimizer = {"class": "devicelab.plans.optimizers:Adam", "args": {"lr": 0.002}}
    plan = load_plan(_experiment({"class": "devicelab.plans.zoo:MLP", "args": {"optimizer": optimizer}}))
    assert isinstance(plan, MLP)
    assert plan.optimizer == Adam(lr=0.002)


def test_arguments_reach_the_plan() -> None:
    args = {"users": 1, "items": 12, "width": 4}
    plan = load_plan(_experiment({"class": "devicelab.plans.zoo:MatrixFactorization", "args": args}))
    assert isinstance(plan, MatrixFactorization)
    assert (plan.users, plan.items, plan.width) == (1, 12, 4)


@pytest.mark.parametrize(
    ("plan", "error", "message"),
    [
        ({"class": "devicelab.plans.zoo:MPL"}, ConfigError, "plan.class: devicelab.plans.zoo has no 'MPL'"),
        ({"class": "pathlib:Path"}, PlanError, "is no TrainingPlan, but a PosixPath"),
        ({"class": "devicelab.plans.plan:TrainingPlan"}, ConfigError, "abstract class"),
        (
            {"class": "devicelab.plans.zoo:MatrixFactorization", "args": {"user": 3}},
            ConfigError,
            "zoo:MatrixFactorization has no such argument; did you mean 'users'?",
        ),
        (
            {
                "class": "devicelab.plans.zoo:MLP",
                "args": {"optimizer": {"class": "devicelab.plans.optimizers:Adam", "args": {"lr": -1}}},
            },
            PlanError,
            "lr is -1, it must not be negative",
        ),
    ],
)
def test_plans_that_cannot_be(plan: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        load_plan(_experiment(plan))
    assert message in str(caught.value)


def test_files_must_exist(tmp_path: Path) -> None:
    for name in ("step.pt", "init.safetensors"):
        (tmp_path / name).touch()
    good = FilePlan(file=tmp_path / "step.pt", parameters=tmp_path / "init.safetensors")
    assert load_plan(_experiment(good)) == good
    missing = good.model_copy(update={"evaluation": tmp_path / "eval.pt"})
    with pytest.raises(ConfigError, match=r"plan.evaluation: .*eval.pt does not exist"):
        load_plan(_experiment(missing))
    directory = good.model_copy(update={"parameters": tmp_path})
    with pytest.raises(ConfigError, match=r"plan.parameters: .* is no regular file"):
        load_plan(_experiment(directory))
