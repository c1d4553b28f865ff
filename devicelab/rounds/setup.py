"""What an experiment comes to on this host: the plan's files and the shards. No phone is asked anything."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devicelab.config import Experiment
from devicelab.config.document import read_document
from devicelab.config.plan import ClassPlan, FilePlan
from devicelab.data.prepare import prepare
from devicelab.data.shards import ShardSet
from devicelab.errors import ConfigError, DataError, PlanError
from devicelab.files import require_regular
from devicelab.plans.build import PlanFile, PlanFiles, plan_files, script_files
from devicelab.plans.counting import with_counts
from devicelab.plans.fitting import check_data
from devicelab.plans.signature import Role, Signature
from devicelab.rounds.checks import check_hyper, check_subtables, check_training_loss
from devicelab.rounds.guarantee import check_privacy

__all__ = ["Setup", "plans_of", "set_up"]

Tell = Callable[[str], None]
_SHARED = (Role.PARAMETER, Role.BUFFER)


@dataclass(frozen=True)
class Setup:
    """An experiment, ready for phones.

    Attributes:
        experiment: What a person says.
        plans: The plan's files.
        shards: Everybody's data.
    """

    experiment: Experiment
    plans: PlanFiles
    shards: ShardSet

    @property
    def model(self) -> dict[str, NDArray[Any]]:
        """The initial global model: every parameter and buffer that the plans share, by input name."""
        roles = _roles(self.plans)
        return {name: np.asarray(array) for name, array in self.plans.initial.items() if roles[name] in _SHARED}

    @property
    def private(self) -> dict[str, NDArray[Any]]:
        """First values of the private parameters."""
        roles = _roles(self.plans)
        return {
            name: np.asarray(array) for name, array in self.plans.initial.items() if roles[name] is Role.PRIVATE
        }

    @property
    def keeps(self) -> bool:
        """Whether clients keep something on their devices from round to round."""
        train = self.plans.train.signature
        state = self.experiment.round.state == "keep" and bool(train.with_role(Role.STATE))
        return state or bool(train.with_role(Role.PRIVATE))


def _roles(plans: PlanFiles) -> dict[str, Role]:
    files = [file for file in (plans.evaluate, plans.train) if file is not None]
    return {i.name: i.role for file in files for i in file.signature.inputs}


def set_up(experiment: Experiment, tell: Tell = lambda _: None) -> Setup:
    """Build the plan and the shards, or find them where they were kept, and see that they fit each other.

    Args:
        experiment: What to build.
        tell: Told what is going on, in a few words.

    Raises:
        ConfigError, PlanError, DataError: Something is missing, cannot be built, or does not fit.
    """
    plans = plans_of(experiment, tell)
    check_hyper(experiment, plans)
    shards = prepare(experiment)
    check_data(plans.train.signature, shards.tensors)
    if plans.evaluate is not None and shards.evaluation:
        check_data(plans.evaluate.signature, shards.evaluation)
    check_training_loss(experiment, plans)
    check_subtables(experiment, plans, shards)
    if not shards.clients:
        raise DataError("the data have no client", hint="look at data.partition, and at its min_examples")
    check_privacy(experiment, plans.train.signature, len(shards.clients))
    if isinstance(experiment.plan, ClassPlan):
        plans = with_counts(plans, experiment.plan.counts, shards)
    return Setup(experiment, plans, shards)


def plans_of(experiment: Experiment, tell: Tell = lambda _: None) -> PlanFiles:
    """The files of an experiment's plan: exported from its class, converted from TorchScript, or read.

    Raises:
        ConfigError: There is no such class or file.
        PlanError: It is no plan, or its numbers are wrong.
    """
    plan = experiment.plan
    if isinstance(plan, ClassPlan):
        identity = {"class": plan.class_path, "args": dict(plan.args)}
        if _beside(experiment.directory, {plan.class_path, *_classes(plan.args)}):
            identity["directory"] = str(experiment.directory.resolve())
        return plan_files(identity, lambda: _class_plan(experiment), progress=tell)
    initial = _tensors(plan.parameters)
    train = _content(plan.file, "plan.file")
    evaluate = _content(plan.evaluation, "plan.evaluation") if plan.evaluation is not None else None
    if plan.file.suffix == ".pt":
        scripts = evaluate if plan.evaluation is not None and plan.evaluation.suffix == ".pt" else None
        files = script_files(train, scripts, roles=_roles_file(plan), initial=initial, progress=tell)
        if evaluate is None or scripts is not None:
            return files
        return PlanFiles(files.train, _onnx_plan(evaluate, plan.evaluation, "evaluate"), files.initial)
    files = PlanFiles(
        _onnx_plan(train, plan.file, "train"),
        _onnx_plan(evaluate, plan.evaluation, "evaluate") if evaluate is not None else None,
        initial,
    )
    _check_initial(files, plan.parameters)
    return files


def _classes(value: object) -> Iterator[str]:
    """The dotted paths in a class's arguments."""
    if isinstance(value, Mapping):
        if isinstance(path := value.get("class"), str):
            yield path
        for part in value.values():
            yield from _classes(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _classes(part)


def _beside(directory: Path, paths: Iterable[str]) -> bool:
    """Whether one of the modules may be the one beside the experiment, and another elsewhere."""
    tops = {path.partition(":")[0].partition(".")[0] for path in paths}
    return any((directory / top).is_dir() or (directory / f"{top}.py").exists() for top in tops)


def _class_plan(experiment: Experiment) -> Any:  # noqa: ANN401 - a TrainingPlan, whose module loads PyTorch
    from devicelab.plans.loading import load_plan  # noqa: PLC0415

    return load_plan(experiment)


def _onnx_plan(content: bytes, path: Path | None, kind: str) -> PlanFile:
    from devicelab.plans.reader import read_plan_bytes  # noqa: PLC0415 - loads ONNX

    plan = read_plan_bytes(content)
    if plan.signature.kind != kind:
        raise PlanError(f"{path} is a plan that is to {plan.signature.kind}, not to {kind}")
    return PlanFile(content, plan.signature)


def _content(path: Path, key: str) -> bytes:
    require_regular(path, key)
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{key}: {path} cannot be read: {error.strerror or error}") from error


def _roles_file(plan: FilePlan) -> Signature | None:
    if plan.roles is None:
        return None
    return Signature.from_json(json.dumps(read_document(plan.roles).root))


def _tensors(path: Path) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError  # noqa: PLC0415 - only for plans that come as files
    from safetensors.numpy import load  # noqa: PLC0415

    try:
        return load(_content(path, "plan.parameters"))
    except SafetensorError as error:
        raise PlanError(f"plan.parameters: {path} is no safetensors file: {error}") from error


def _check_initial(files: PlanFiles, path: Path) -> None:
    roles = (Role.PARAMETER, Role.PRIVATE, Role.BUFFER)
    for file in (files.train, files.evaluate):
        for i in file.signature.with_role(*roles) if file is not None else ():
            found = files.initial.get(i.name)
            if found is None or (found.dtype.name, found.shape) != (i.dtype, i.shape):
                what = "missing" if found is None else f"{found.dtype.name}{list(found.shape)}"
                raise PlanError(
                    f"plan.parameters: in {path} {i.name!r} is {what}, the plan wants {i.dtype}{list(i.shape)}"
                )
