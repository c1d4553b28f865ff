"""The check that every plan must pass before it is written: its numbers are PyTorch's.

Each step starts from the same values in eager PyTorch and in the plan, on a random batch, and all results are
compared. Two things can be wrong with a result: the value, and the change (a learning rate of 1e-3 would hide a
gradient that is wrong by half in a value that is right to six digits), so both are bounded.

Rounding has a say too: the gradient of a bias in front of a batch norm is zero but for rounding, and Adam makes
a full step of it. So the same step is also taken in double precision, and a tensor may be off by as much as
PyTorch's own single precision is. Optimizers that divide a gradient by its own size make such rounding visible
in parameters; there the state, which holds the gradient and its square, is what is bounded tightly.

Where rounding pushes a number over a kink (ReLU at zero, the winner of a pool) the gradient jumps. That is
nobody's fault and rare, so one batch may be out of bounds if the next one is not; a wrong plan is out of bounds
every time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from devicelab.errors import PlanError
from devicelab.plans.eager import EagerTrainer, evaluate_eagerly
from devicelab.plans.signature import Role, Signature
from devicelab.plans.step import Step

__all__ = ["Difference", "Runner", "check_evaluation", "check_training", "compare"]

Array = np.ndarray[Any, Any]
Arrays = Mapping[str, Array]
Runner = Callable[[Arrays], Arrays]

VALUE_TOLERANCE: Final = 5e-7  # of the tensor's largest number, or of 1
CHANGE_TOLERANCE: Final = 1e-4  # of the tensor's largest change in the step
_ROUNDING_FACTOR: Final = 4.0  # how much worse than eager single precision a plan may be
_NORMALIZED_FACTOR: Final = 5.0  # the same for parameters whose gradient was divided by its size
_NOISE: Final = 0.1  # where rounding is this part of a change or more, the change is noise …
_NOISE_FACTOR: Final = 25.0  # … and only its magnitude can be compared
_SPARE: Final = 1  # batches that may be out of bounds; their size is then tried again with another batch
_SIZES: Final = (8, 3, 1, 5)  # the last one ragged, as at the end of an epoch


@dataclass(frozen=True, slots=True)
class Difference:
    """The tensor that agrees least.

    Attributes:
        tensor: Its output name.
        relative: Largest difference, relative to the tensor's largest number or 1.
        examples: In which batch.
    """

    tensor: str
    relative: float
    examples: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What comparing one step came to.

    Attributes:
        difference: The worst.
        within: Whether it is within bounds.
        reason: The tensor, by how much it differs and by how much it may.
    """

    difference: Difference
    within: bool
    reason: str

    def enforced(self) -> Difference:
        """The difference.

        Raises:
            PlanError: It is out of bounds.
        """
        if not self.within:
            raise PlanError(self.reason)
        return self.difference


def check_training(
    runner: Runner, step: Step, signature: Signature, *, engine: str, seed: int = 0
) -> Difference:
    """Compare a training plan with eager PyTorch for several steps.

    Args:
        runner: Runs the plan: inputs by name to outputs by name.
        step: The step it was made from.
        signature: The plan's.
        engine: What the runner is, for the message.
        seed: Of the random batches, and of the plan's own randomness.

    Returns:
        The worst difference, which is within bounds.

    Raises:
        PlanError: A result is not finite, has the wrong shape, or differs too much; names the worst tensor.
    """
    eager = EagerTrainer(step)
    exact = _exact_trainer(step)
    generator = torch.Generator().manual_seed(seed)
    worst = Difference("", 0.0, 0)
    waiting = list(_batch_sizes(signature))
    spare = _SPARE
    while waiting:
        examples = waiting.pop(0)
        batch = step.plan.random_batch(examples, generator)
        carried = {name: tensor.numpy().copy() for name, tensor in eager.carried().items()}
        before = {o: carried[i] for o, i in signature.replacements.items()}
        feeds = _feeds(step, signature, batch, carried, seed)
        truth = _eager_step(eager, batch, seed)
        if truth is None:
            continue
        got = runner(feeds)
        limits = _exact_step(exact=exact, batch=batch, truth=truth, before=carried, seed=seed)
        if step.plan.optimizer.normalizes:
            limits |= {n: v * _NORMALIZED_FACTOR for n, v in limits.items() if n.startswith("new/param/")}
        verdict = compare(got, truth, before, limits, examples=examples, engine=engine, signature=signature)
        if not verdict.within and spare:
            spare -= 1
            waiting.append(examples)
            continue
        worst = max(worst, verdict.enforced(), key=lambda d: d.relative)
    return worst


def _eager_step(eager: EagerTrainer, batch: dict[str, Tensor], seed: int) -> Arrays | None:
    """PyTorch's own step; None where it does not take a single example, as batch norm does not.

    Raises:
        PlanError: It fails on several.
    """
    examples = len(next(iter(batch.values())))
    try:
        return eager.step(batch, seed=seed)
    except PlanError:
        raise
    except Exception as error:  # the model's own code may raise anything
        if examples == 1 and eager.plan.fixed_batch is False:
            return None
        reason = " ".join(str(error).split())[:300]
        raise PlanError(
            f"plan {eager.plan.label} fails in eager PyTorch, on a batch of {examples}: "
            f"{type(error).__name__}: {reason}",
            hint="any number of rows of the example batch must do, unless the plan has `fixed_batch = True`",
        ) from error


def _batch_sizes(signature: Signature) -> Sequence[int]:
    return _SIZES if signature.batch is None else (signature.batch,) * 3


def _feeds(
    step: Step, signature: Signature, batch: Mapping[str, Tensor], carried: Arrays, seed: int
) -> dict[str, Array]:
    feeds: dict[str, Array] = {}
    for i in signature.inputs:
        if i.role is Role.DATA:
            feeds[i.name] = np.ascontiguousarray(batch[i.label].numpy())
        elif i.role is Role.HYPER:
            feeds[i.name] = np.asarray(seed if i.label == "seed" else i.default, dtype=i.dtype)
        elif i.role is Role.ANCHOR:
            feeds[i.name] = step.initial[i.name].numpy()
        else:
            feeds[i.name] = carried[i.name]
    return feeds


def _exact_trainer(step: Step) -> EagerTrainer | None:
    """A trainer in double precision, where the model's own code allows it."""
    trainer = EagerTrainer(step, dtype=torch.float64)
    try:
        batch = {name: tensor.clone() for name, tensor in step.example.items()}
        trainer.step(batch)
    except (RuntimeError, TypeError, ValueError):  # the model makes single-precision tensors of its own
        return None
    return EagerTrainer(step, dtype=torch.float64)


def _exact_step(
    *,
    exact: EagerTrainer | None,
    batch: dict[str, Tensor],
    truth: Arrays,
    before: Arrays,
    seed: int,
) -> dict[str, float]:
    """How far eager single precision is from double precision, by output name."""
    if exact is None:
        return {}
    exact.load(before)
    result = exact.step(batch, seed=seed)
    limits = {}
    for name, value in result.items():
        if value.size and np.issubdtype(value.dtype, np.floating):
            limits[name] = float(np.max(np.abs(value.astype(np.float64) - truth[name])))
    return limits


def check_evaluation(
    runner: Runner, step: Step, signature: Signature, *, engine: str, seed: int = 0
) -> Difference:
    """Compare an evaluation plan with eager PyTorch; as :func:`check_training`."""
    generator = torch.Generator().manual_seed(seed)
    carried = step.initial_arrays()
    worst = Difference("", 0.0, 0)
    for examples in _batch_sizes(signature):
        batch = step.plan.random_batch(examples, generator, step.kind)
        got = runner(_feeds(step, signature, batch, carried, seed))
        truth = evaluate_eagerly(step, step.model, batch)
        verdict = compare(got, truth, {}, {}, examples=examples, engine=engine, signature=signature)
        worst = max(worst, verdict.enforced(), key=lambda d: d.relative)
    return worst


def compare(
    got: Arrays,
    truth: Arrays,
    before: Arrays,
    limits: Mapping[str, float],
    *,
    examples: int,
    engine: str,
    signature: Signature,
    reference: str = "eager PyTorch",
) -> Verdict:
    """Compare all outputs of one step with those of a reference.

    Raises:
        PlanError: A result has the wrong shape or is not finite.
    """
    worst: tuple[float, Difference, str] | None = None
    for name in (o.name for o in signature.outputs):
        value, right = got[name], truth[name]
        place = f"{engine}, plan {signature.name}, batch of {examples}: {name}"
        if value.shape != right.shape:
            raise PlanError(f"{place} has shape {list(value.shape)}, {reference} gives {list(right.shape)}")
        if not np.isfinite(right).all():
            raise PlanError(
                f"{place} is not finite in {reference} either",
                hint="lower the learning rate, or scale the data",
            )
        if not np.isfinite(value).all():
            raise PlanError(f"{place} is not finite, in {reference} it is")
        old = before.get(name)
        excess, relative, words = _excess(value, right, old, limits.get(name, 0.0), reference)
        difference = Difference(name, relative, examples)
        if worst is None or excess > worst[0]:
            worst = (excess, difference, f"{place} {words}")
    assert worst is not None
    reason = f"{worst[2]}; this is the worst of {len(signature.outputs)} results"
    return Verdict(worst[1], worst[0] <= 1, reason)


def _excess(
    value: Array, right: Array, old: Array | None, rounding: float, reference: str
) -> tuple[float, float, str]:
    """How many times over the bound a result is, its relative difference, and that in words."""
    if value.size == 0:
        return 0.0, 0.0, "is empty"
    if not np.issubdtype(right.dtype, np.floating):
        wrong = int(np.count_nonzero(value != right))
        return float(wrong) * 2, float(wrong), f"differs from {reference} in {wrong} whole numbers"
    a, b = value.astype(np.float64), right.astype(np.float64)
    difference = float(np.max(np.abs(a - b)))
    scale = max(1.0, float(np.max(np.abs(b))))
    allowed = VALUE_TOLERANCE * scale
    relative = difference / scale
    words = f"differs from {reference} by {relative:.1e} of its largest number (allowed: {VALUE_TOLERANCE:.0e})"
    if old is not None:
        change = float(np.max(np.abs(b - old)))
        resolution = 2.0**-23 * float(np.max(np.abs(b)))
        by_change = CHANGE_TOLERANCE * change + 2 * resolution
        if by_change < allowed:
            allowed = by_change
            words = (
                f"differs from {reference} by {difference:.1e}, while the step changes it by {change:.1e} "
                f"(allowed: {CHANGE_TOLERANCE:.0e} of the change)"
            )
    change = float(np.max(np.abs(b - old))) if old is not None else scale
    factor = _NOISE_FACTOR if rounding > _NOISE * change else _ROUNDING_FACTOR
    return difference / max(allowed, factor * rounding, 1e-30), relative, words
