"""What the runner says, line by line; :mod:`devicelab.runner.parsing` reads it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

__all__ = [
    "LINE_LIMIT",
    "ClientResult",
    "CommitResult",
    "EvaluateResult",
    "Failure",
    "Hello",
    "LineBuffer",
    "MalformedMessageError",
    "Message",
    "Metric",
    "OutputFile",
    "Progress",
    "Result",
    "RunResult",
    "TrainResult",
    "summed_metrics",
]

LINE_LIMIT: Final = 64 << 20
"""Bytes of one line; a result with 100,000 clients has some 30 million."""


class MalformedMessageError(ValueError):
    """A line that no runner prints; the text says why."""


@dataclass(frozen=True, slots=True)
class Hello:
    """The first line.

    Attributes:
        protocol: Number of the contract.
        runner: Its version.
        engine: ONNX Runtime's version.
        abi: What it was built for.
        system: ``android`` or ``linux``.
        pid: Process id on the device.
    """

    protocol: int
    runner: str
    engine: str
    abi: str
    system: str
    pid: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is, at least once a second.

    Attributes:
        ms: Milliseconds since the start.
        client: Which client is trained; None before the first one, and where there are none.
        index: Its place in the job.
        clients: How many there are.
        step: Steps taken for this client.
        steps: Steps to be taken for it.
        loss: Of the last step; None if unknown or not finite.
        examples: Examples seen in the whole job.
    """

    ms: int
    client: str | None = None
    index: int = 0
    clients: int = 0
    step: int = 0
    steps: int = 0
    loss: float | None = None
    examples: int = 0


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file that the runner wrote beside ``job.json``.

    Attributes:
        file: Its name.
        bytes: Its size.
        sha256: Of its content.
    """

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Metric:
    """A plan's metric over many batches: its value is sum / count."""

    sum: float
    count: float


def summed_metrics(parts: Iterable[Mapping[str, Metric]]) -> dict[str, Metric]:
    """Sums and counts over all parts, by the metric's name, added in the parts' order."""
    found: dict[str, Metric] = {}
    for part in parts:
        for name, metric in part.items():
            before = found.get(name, Metric(0.0, 0.0))
            found[name] = Metric(before.sum + metric.sum, before.count + metric.count)
    return found


@dataclass(frozen=True, slots=True)
class ClientResult:
    """What became of one client; what the job did not ask for is None.

    Attributes:
        client: Its id.
        examples: In its shard.
        ms: Milliseconds that it took.
        metrics: The plan's own, summed over the last epoch (train) or the shard (evaluate).
        weight: Of its delta.
        steps: Taken.
        loss_first: Training loss of the first step.
        loss_last: Training loss of the last step.
        loss_before: Mean loss over the shard with the global parameters.
        loss_after: The same with the trained ones.
        norm: L2 norm of its delta before clipping.
        clipped: Whether it was scaled down.
    """

    client: str
    examples: int
    ms: int
    metrics: Mapping[str, Metric]
    weight: float | None = None
    steps: int | None = None
    loss_first: float | None = None
    loss_last: float | None = None
    loss_before: float | None = None
    loss_after: float | None = None
    norm: float | None = None
    clipped: bool = False


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A training job's end.

    Attributes:
        job: Its id.
        examples: Of all clients together.
        weight: Of all clients together.
        steps: Taken in all.
        peak_rss_kb: Most memory that the runner ever had, in KiB.
        ms: Milliseconds by part of the work.
        update: What is to be pulled.
        clients: In the job's order.
    """

    job: str
    examples: int
    weight: float
    steps: int
    peak_rss_kb: int
    ms: Mapping[str, int]
    update: OutputFile
    clients: tuple[ClientResult, ...]


@dataclass(frozen=True, slots=True)
class EvaluateResult:
    """An evaluation's end; attributes as for :class:`TrainResult`."""

    job: str
    examples: int
    peak_rss_kb: int
    ms: Mapping[str, int]
    clients: tuple[ClientResult, ...]


@dataclass(frozen=True, slots=True)
class RunResult:
    """The end of one run of a graph; ``outputs`` is to be pulled, the rest as for :class:`TrainResult`."""

    job: str
    peak_rss_kb: int
    ms: Mapping[str, int]
    outputs: OutputFile


@dataclass(frozen=True, slots=True)
class CommitResult:
    """The end of a commit.

    Attributes:
        job: Its id.
        committed: How many clients' values took their place just now.
    """

    job: str
    committed: int


@dataclass(frozen=True, slots=True)
class Failure:
    """A job that failed.

    Attributes:
        code: The runner's word for why.
        message: In its own words, cleaned for a terminal.
        client: Which client is concerned, if one is.
    """

    code: str
    message: str
    client: str | None = None


Result = TrainResult | EvaluateResult | RunResult
Message = Hello | Progress | Result | CommitResult | Failure


class LineBuffer:
    """Cuts a stream of bytes into lines.

    Args:
        limit: Bytes of one line.
    """

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        self._limit = limit
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are complete now, without their ends; empty ones are left out.

        Raises:
            MalformedMessageError: A line is longer than the limit.
        """
        start = len(self._rest)
        self._rest += data
        if self._rest.find(b"\n", start) < 0:
            lines: list[bytes] = []
        else:
            *lines, rest = bytes(self._rest).split(b"\n")
            self._rest = bytearray(rest)
        if max(map(len, [*lines, self._rest])) > self._limit:
            raise MalformedMessageError(f"a line of more than {self._limit} bytes")
        return [line.removesuffix(b"\r") for line in lines if line.strip()]
