"""From an experiment's ``plan`` section to the plan itself."""

from __future__ import annotations

from pathlib import Path

from devicelab.config import Experiment
from devicelab.config.plan import ClassPlan, FilePlan
from devicelab.dotted import build
from devicelab.errors import ConfigError, PlanError
from devicelab.plans.plan import TrainingPlan

__all__ = ["load_plan"]


def load_plan(experiment: Experiment) -> TrainingPlan | FilePlan:
    """The plan that an experiment trains.

    Args:
        experiment: Its directory is put on Python's path, so that a plan may be a module beside it.

    Returns:
        An instance of the class, or the files, once they are known to exist. What is in the files is not looked
        at.

    Raises:
        ConfigError: There is no such class or file, or the arguments do not fit.
        PlanError: The class is no training plan.
    """
    if isinstance(experiment.plan, ClassPlan):
        return _instance(experiment.plan, experiment.directory)
    for name in ("file", "evaluation", "roles", "parameters"):
        path: Path | None = getattr(experiment.plan, name)
        if path is not None and not path.is_file():
            what = "is no regular file" if path.exists() else "does not exist"
            raise ConfigError(f"plan.{name}: {path} {what}")
    return experiment.plan


def _instance(plan: ClassPlan, directory: Path) -> TrainingPlan:
    instance: object = build(plan.class_path, plan.args, directory, where="plan.class")
    if not isinstance(instance, TrainingPlan):
        raise PlanError(
            f"plan.class: {plan.class_path} is no TrainingPlan, but a {type(instance).__name__}",
            hint="a plan is a class derived from devicelab.plans.plan.TrainingPlan",
        )
    return instance
