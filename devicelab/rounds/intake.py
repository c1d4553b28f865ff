"""What comes back from a phone is hostile until checked: the result's claims, then the update's bytes.

A phone knows its data and the host does not, so an update that is well made cannot be told from an honest one;
rules such as the median and Krum are for those. What the host does know is held against it here: which job and
clients were asked for, how many examples their shards hold, how many steps that makes, what each counts for,
which tensors an update has, and how long it may be at most where deltas are clipped.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from devicelab.aggregation.norms import l2_norm
from devicelab.aggregation.update import (
    ClientUpdate,
    PartialSum,
    Rows,
    Spec,
    Tensors,
    check_finite,
    check_layout,
)
from devicelab.errors import UpdateError
from devicelab.plans.signature import Role, Signature
from devicelab.runner.job import Job
from devicelab.runner.messages import ClientResult, TrainResult

__all__ = [
    "Asked",
    "check_numbers",
    "check_result",
    "check_update",
    "open_tensors",
    "shared_layout",
    "updates_in",
]

_HEADER_SLACK: Final = 4096  # for alignment and metadata
_HEADER_ENTRY: Final = 160  # for what is said of one tensor besides its name, every digit counted
_LARGEST: Final = float(np.finfo(np.float32).max)
_ROUNDING: Final = 1e-4  # relative; a norm's worth of rounding in float32
_WEIGHT_ROUNDING: Final = 1e-9  # relative; weights are numbers in JSON


@dataclass(frozen=True, slots=True)
class Asked:
    """What a device was asked for.

    Attributes:
        job: The job it was given.
        examples: How many examples each of its clients' shards holds.
        signature: Of the training plan.
        row_counts: How many rows it was given of tables that it was not given whole, by table.
    """

    job: Job
    examples: Mapping[str, int]
    signature: Signature
    row_counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def shared(self) -> dict[str, Spec]:
        """The tensors that a delta has: every parameter and every buffer of floating point."""
        whole = shared_layout(self.signature)
        tables = {i.name: self.row_counts.get(i.rows) for i in self.signature.inputs if i.rows is not None}
        return {name: _of_rows(spec, tables.get(name)) for name, spec in whole.items()}

    @property
    def layout(self) -> dict[str, Spec]:
        """The tensors that the whole update has."""
        if self.job.combine == "sum":
            return self.shared
        clients = range(len(self.job.clients))
        return {f"{index}/{name}": spec for index in clients for name, spec in self.shared.items()}

    @property
    def largest(self) -> int:
        """Bytes that the update's file has at most."""
        total = _HEADER_SLACK
        for name, spec in self.layout.items():
            content = math.prod(spec.shape) * np.dtype(spec.dtype).itemsize
            total += content + 6 * len(name) + _HEADER_ENTRY  # JSON may write a character as \\uXXXX
        return total

    def steps(self, client: str) -> int:
        """How many steps a client was to take."""
        if self.job.steps is not None:
            return self.job.steps
        batch = self.signature.batch or self.job.batch_size
        assert self.job.epochs is not None
        assert batch is not None
        return self.job.epochs * math.ceil(self.examples[client] / batch)

    def weight(self, client: str) -> float:
        """What a client was to count for."""
        given = {each.client: each.weight for each in self.job.clients}[client]
        return float(self.examples[client]) if given is None else given


def _of_rows(whole: Spec, rows: int | None) -> Spec:
    return whole if rows is None else Spec(whole.dtype, (rows, *whole.shape[1:]))


def shared_layout(signature: Signature) -> dict[str, Spec]:
    """The tensors that a training plan's deltas have."""
    return {
        i.name: Spec(i.dtype, tuple(int(size) for size in i.shape))
        for i in signature.with_role(Role.PARAMETER, Role.BUFFER)
        if i.dtype.startswith("float")
    }


def check_result(result: object, asked: Asked, *, device: str) -> TrainResult:
    """Hold what a device says of its work against what it was asked for.

    Raises:
        UpdateError: It is the answer to something else, or claims what cannot be.
    """
    if not isinstance(result, TrainResult):
        raise UpdateError("it answered with something that is no training result", device=device)
    if result.job != asked.job.job:
        raise UpdateError(f"its update is for job {result.job}, not for {asked.job.job}", device=device)
    wanted = [each.client for each in asked.job.clients]
    given = [each.client for each in result.clients]
    if given != wanted:
        missing = sorted(set(wanted) - set(given))
        what = f"{', '.join(missing[:5])} missing" if missing else "not in the order that was asked for"
        raise UpdateError(f"its update is of {len(given)} clients: {what}", device=device)
    weights = [asked.weight(client) for client in wanted]
    for client, weight in zip(result.clients, weights, strict=True):
        _check_client(client, weight, asked, device)
    check_numbers(result.clients, asked.signature, device=device)
    examples = sum(asked.examples[client] for client in wanted)
    if result.examples != examples:
        raise UpdateError(f"it claims {result.examples} examples, its shards hold {examples}", device=device)
    if not math.isclose(result.weight, math.fsum(weights), rel_tol=_WEIGHT_ROUNDING):
        raise UpdateError(f"it claims the weight {result.weight:g}, not {math.fsum(weights):g}", device=device)
    if result.update.bytes > asked.largest:
        raise UpdateError(
            f"its update has {result.update.bytes} bytes, at most {asked.largest} can be", device=device
        )
    return result


def _check_client(claimed: ClientResult, weight: float, asked: Asked, device: str) -> None:
    name, examples, steps = claimed.client, asked.examples[claimed.client], asked.steps(claimed.client)
    if claimed.examples != examples:
        claim = f"{claimed.examples} examples for client {name}, whose shard holds {examples}"
    elif claimed.steps != steps:
        claim = f"{claimed.steps} steps for client {name}, which was to take {steps}"
    elif claimed.weight is None or not math.isclose(claimed.weight, weight, rel_tol=_WEIGHT_ROUNDING):
        claim = f"the weight {claimed.weight} for client {name}, which counts for {weight:g}"
    else:
        return
    raise UpdateError(f"it claims {claim}", device=device)


def check_numbers(clients: Sequence[ClientResult], signature: Signature, *, device: str) -> None:
    """Hold losses and metrics against the plan's signature, and against what its numbers can be.

    How large a metric's sum and count are is the plan's own affair; but what is beyond float32, no step
    makes, and it would leave nothing of the other phones' numbers in a mean.

    Raises:
        UpdateError: There is a metric that the plan does not have, or a number beyond float32.
    """
    known = {each.metric for each in signature.outputs if each.metric is not None}
    for client in clients:
        if made_up := sorted(set(client.metrics) - known):
            what = f"the metric {made_up[0]!r:.80} for client {client.client}, which the plan does not have"
            raise UpdateError(f"it claims {what}", device=device)
        losses = (client.loss_first, client.loss_last, client.loss_before, client.loss_after)
        numbers = {"loss": [each for each in losses if each is not None]}
        numbers |= {f"metric {name!r:.80}": [each.sum, each.count] for name, each in client.metrics.items()}
        for name, values in numbers.items():
            if not all(abs(each) <= _LARGEST for each in values):
                what = (
                    f"a {name} of {max(values, key=abs):g} for client {client.client}, which no step can make"
                )
                raise UpdateError(f"it claims {what}", device=device)


def check_update(path: Path, result: TrainResult, asked: Asked, *, device: str) -> None:
    """Look at every number of an update that was pulled.

    Args:
        path: The file.
        result: What the device said of it, checked.
        asked: What the device was asked for.
        device: How it is called.

    Raises:
        UpdateError: Another content than was announced, other tensors, types or shapes than a delta has, a
            number that is not finite, or a delta that is longer than it was to be clipped to.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != result.update.sha256 or path.stat().st_size != result.update.bytes:
        raise UpdateError("its update is not the one that its result names", device=device)
    tensors = open_tensors(path, device=device)
    check_layout(tensors, asked.layout, device=device)
    check_finite(tensors, device=device)
    if asked.job.clip_norm is not None:
        for delta, bound, whose in _bounded(tensors, asked):
            norm = l2_norm(delta)
            if not norm <= bound * (1 + _ROUNDING):
                raise UpdateError(
                    f"its update{whose} has the norm {norm:.6g}, above the {bound:.6g} that clipping allows",
                    device=device,
                )


def _bounded(tensors: Tensors, asked: Asked) -> Iterator[tuple[Tensors, float, str]]:
    clip, clients = asked.job.clip_norm, [each.client for each in asked.job.clients]
    assert clip is not None
    if asked.job.combine == "sum":
        yield tensors, clip * math.fsum(map(asked.weight, clients)), ""
        return
    for index, client in enumerate(clients):
        yield _of_client(tensors, index), clip, f" of client {client}"


def updates_in(
    tensors: Tensors,
    clients: list[ClientResult],
    *,
    combine: str,
    device: str,
    rows: Mapping[str, Rows] | None = None,
) -> Iterator[ClientUpdate | PartialSum]:
    """An update as aggregation takes it: one for each client, or the sum of all.

    Args:
        tensors: The update's, checked.
        clients: What the device said of its clients, checked.
        combine: ``each`` or ``sum``.
        device: How it is called.
        rows: Which rows each delta has of the tables that its device was not given whole, by tensor.
    """
    weights = [each.weight or 0.0 for each in clients]
    if combine == "sum":
        yield PartialSum(
            total=tensors,
            weight=math.fsum(weights),
            examples=sum(each.examples for each in clients),
            clients=tuple(each.client for each in clients),
            device=device,
            rows=rows or {},
        )
        return
    for index, (client, weight) in enumerate(zip(clients, weights, strict=True)):
        delta = _of_client(tensors, index)
        yield ClientUpdate(delta, weight, client.examples, client.client, device, rows or {})


def _of_client(tensors: Tensors, index: int) -> dict[str, NDArray[Any]]:
    prefix = f"{index}/"
    return {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}


def open_tensors(path: Path, *, device: str) -> dict[str, NDArray[Any]]:
    """The tensors of a safetensors file, memory-mapped and read-only: what is not looked at is not read.

    Raises:
        UpdateError: It is no safetensors file.
    """
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - not needed before an update has come

    try:
        with safe_open(path, framework="numpy") as file:  # checks sizes, overlaps and gaps
            names = list(file.keys())
    except (SafetensorError, OSError, ValueError) as error:
        raise UpdateError(f"its update is no safetensors file: {error}", device=device) from error
    with path.open("rb") as raw:
        length = int.from_bytes(raw.read(8), "little")
        header: dict[str, Any] = json.loads(raw.read(length))
    content = np.memmap(path, np.uint8, "r")
    tensors = {}
    for name in names:
        entry = header[name]
        if entry["dtype"] not in _DTYPES:
            raise UpdateError(f"its update's {name!r:.200} has the type {entry['dtype']}", device=device)
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        tensors[name] = content[start:end].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors


_DTYPES: Final = {"F32": "<f4", "F64": "<f8", "F16": "<f2"}
