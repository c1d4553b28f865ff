"""Whether data fit a plan: asked on the host, before a byte is pushed to anybody."""

from __future__ import annotations

from collections.abc import Mapping

from devicelab.data.shards import TensorSpec
from devicelab.dotted import nearest
from devicelab.errors import DataError
from devicelab.plans.signature import Input, Role, Signature

__all__ = ["check_data"]


def check_data(signature: Signature, tensors: Mapping[str, TensorSpec]) -> None:
    """Hold what the shards hold against the plan's data inputs.

    Args:
        signature: The plan's, for training or evaluation.
        tensors: Each tensor of the shards, by name.

    Raises:
        DataError: A tensor is missing or of no use, has another type or shape, or whole numbers outside the
            range that the plan takes; all of it in one message.
    """
    inputs = {i.label: i for i in signature.with_role(Role.DATA)}
    problems: list[str] = []
    for name, wanted in inputs.items():
        if name in tensors:
            problems += _differences(wanted, tensors[name])
        else:
            problems.append(f"{name!r} is missing{nearest(name, tensors)}")
    problems += [f"{name!r} is nothing the plan takes" for name in tensors if name not in inputs]
    if problems:
        raise DataError(
            f"the data do not fit the plan {signature.name}: {'; '.join(problems)}",
            hint=f"the plan takes {', '.join(_described(i) for i in inputs.values())}",
        )


def _differences(wanted: Input, found: TensorSpec) -> list[str]:
    name = wanted.label
    if (wanted.dtype, wanted.shape[1:]) != (found.dtype, found.shape):
        return [f"{name!r} is {found.dtype}{list(found.shape)}, not {_kind(wanted)}"]
    if wanted.range is not None and found.range is not None:
        low, high = found.range
        if low < wanted.range[0] or high > wanted.range[1]:
            limits = f"{wanted.range[0]} to {wanted.range[1]}"
            return [f"{name!r} holds numbers from {low} to {high}, the plan takes {limits}"]
    return []


def _kind(i: Input) -> str:
    return f"{i.dtype}{list(i.shape[1:])}"


def _described(i: Input) -> str:
    return f"{i.label} {_kind(i)}"
