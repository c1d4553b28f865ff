"""All that a phone needs of a plan: the graphs that train and evaluate, and the first values; built once.

Building means tracing, writing and checking, which takes seconds; what comes out is kept in the cache. Neither
importing this module nor finding a plan in the cache loads PyTorch or ONNX.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from devicelab.errors import PlanError
from devicelab.plans.cache import Cache, Entry, recorded_reads
from devicelab.plans.signature import Role, Signature

if TYPE_CHECKING:
    from devicelab.plans.plan import TrainingPlan

__all__ = ["PlanFile", "PlanFiles", "plan_files", "script_files"]

Array = np.ndarray[Any, Any]
Progress = Callable[[str], None]

_KEPT_ROLES = (Role.PARAMETER, Role.PRIVATE, Role.BUFFER)


@dataclass(frozen=True, slots=True)
class PlanFile:
    """One ONNX plan.

    Attributes:
        content: The file's bytes.
        signature: What its inputs and outputs are for.
    """

    content: bytes
    signature: Signature

    @property
    def sha256(self) -> str:
        """The content's hash, by which a phone's cache knows the file."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True, slots=True)
class PlanFiles:
    """A plan as phones take it.

    Attributes:
        train: The training step.
        evaluate: Its twin that measures; None if the plan came without one.
        initial: First value of every parameter, private parameter and buffer of both, by input name. Optimizer
            state is zero at first, so it is not here.
    """

    train: PlanFile
    evaluate: PlanFile | None
    initial: Mapping[str, Array]

    def initial_for(self, file: PlanFile) -> dict[str, Array]:
        """The first values that one of the two graphs asks for, in its order."""
        return {i.name: self.initial[i.name] for i in file.signature.with_role(*_KEPT_ROLES)}


def plan_files(
    identity: Mapping[str, Any],
    load: Callable[[], TrainingPlan],
    *,
    cache: Cache | None = None,
    progress: Progress = lambda _: None,
) -> PlanFiles:
    """The files of a plan, from the cache if nothing that they depend on has changed.

    Args:
        identity: Which plan it is, as JSON can hold it: the module or file, the class, its arguments.
        load: Makes the plan; not called if the cache has it.
        cache: Where built plans are kept.
        progress: Told what is going on, in a few words.

    Raises:
        PlanError: The plan cannot be exported, or its numbers disagree with eager PyTorch.
    """
    cache = cache or Cache()
    question = {"plan": dict(identity)}
    entry = cache.get(question)
    if entry is not None:
        return _from_entry(entry)
    with recorded_reads() as reads:
        files = _built(load(), progress)
    hashes = reads.hashes()
    if hashes is not None:
        cache.put(question, _to_entry(files), hashes)
    return files


def script_files(
    train: bytes,
    evaluate: bytes | None = None,
    *,
    roles: Signature | None = None,
    evaluate_roles: Signature | None = None,
    initial: Mapping[str, Array] | None = None,
    cache: Cache | None = None,
    progress: Progress = lambda _: None,
) -> PlanFiles:
    """The files of a plan that comes as TorchScript.

    Args:
        train: The script that trains.
        evaluate: The one that evaluates, if there is one.
        roles: What the training script's inputs and outputs are for, if the file does not say so itself.
        evaluate_roles: The same for the other.
        initial: First values by input name; by default those that the training script brings along.
        cache: Where built plans are kept.
        progress: Told what is going on, in a few words.

    Raises:
        PlanError: It cannot be converted, the numbers disagree, or a first value is missing or does not fit.
    """
    cache = cache or Cache()
    question = {
        "scripts": [hashlib.sha256(data).hexdigest() for data in (train, evaluate) if data is not None],
        "roles": [r.to_json() if r is not None else None for r in (roles, evaluate_roles)],
    }
    entry = cache.get(question)
    if entry is not None:
        built = _from_entry(entry)
    else:
        progress("converting the TorchScript plan and checking it")
        built = _converted(train, evaluate, roles, evaluate_roles)
        cache.put(question, _to_entry(built), {})
    if initial is not None:
        built = PlanFiles(built.train, built.evaluate, {**built.initial, **initial})
    for file in (built.train, built.evaluate):
        if file is not None:
            _check_initial(file.signature, built.initial)
    return built


def _converted(
    train: bytes, evaluate: bytes | None, roles: Signature | None, evaluate_roles: Signature | None
) -> PlanFiles:
    from devicelab.plans.importing import import_torchscript  # noqa: PLC0415 - loads PyTorch

    trained = import_torchscript(train, roles=roles)
    measured = None if evaluate is None else import_torchscript(evaluate, roles=evaluate_roles)
    return PlanFiles(
        PlanFile(trained.onnx, trained.signature),
        None if measured is None else PlanFile(measured.onnx, measured.signature),
        trained.initial,
    )


def _check_initial(signature: Signature, initial: Mapping[str, Array]) -> None:
    for i in signature.with_role(*_KEPT_ROLES):
        array = initial.get(i.name)
        if array is None:
            raise PlanError(
                f"plan {signature.name}: there is no first value for {i.name!r}",
                hint="give the plan's first values as a safetensors file",
            )
        if (array.dtype.name, array.shape) != (i.dtype, i.shape):
            raise PlanError(
                f"plan {signature.name}: the first value of {i.name!r} is {array.dtype.name}"
                f"{list(array.shape)}, the plan wants {i.dtype}{list(i.shape)}"
            )


def _built(plan: TrainingPlan, progress: Progress) -> PlanFiles:
    from devicelab.plans.export import KINDS, build_plan  # noqa: PLC0415 - loads PyTorch

    model = plan.new_module()
    initial: dict[str, Array] = {}
    files = {}
    for kind, words in KINDS.items():
        progress(f"{plan.label}: tracing the {words} and checking it against PyTorch")
        exported = build_plan(plan, kind, model=model)
        files[kind] = PlanFile(exported.onnx, exported.signature)
        initial |= exported.parameters
    return PlanFiles(files["train"], files["evaluate"], initial)


def _to_entry(files: PlanFiles) -> Entry:
    tensors: dict[str, Array] = {f"initial/{name}": array for name, array in files.initial.items()}
    facts = {}
    for kind, file in (("train", files.train), ("evaluate", files.evaluate)):
        if file is not None:
            tensors[kind] = np.frombuffer(file.content, dtype=np.uint8)
            facts[kind] = file.signature.to_json()
    return Entry(facts, tensors)


def _from_entry(entry: Entry) -> PlanFiles:
    files = {
        kind: PlanFile(entry.tensors[kind].tobytes(), Signature.from_json(text))
        for kind, text in entry.facts.items()
    }
    initial = {
        name.removeprefix("initial/"): array
        for name, array in entry.tensors.items()
        if name.startswith("initial/")
    }
    return PlanFiles(files["train"], files.get("evaluate"), initial)
