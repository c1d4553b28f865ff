"""A job's output as it comes, and what it means once it has ended."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from devicelab.devices.text import clean
from devicelab.errors import RunnerError, describe_exit
from devicelab.runner.job import PROTOCOL, Job
from devicelab.runner.messages import (
    ClientResult,
    CommitResult,
    EvaluateResult,
    Failure,
    Hello,
    LineBuffer,
    MalformedMessageError,
    Message,
    Progress,
    Result,
    RunResult,
    TrainResult,
)
from devicelab.runner.parsing import parse_message

__all__ = ["Listener", "Transcript", "check_result"]

Listener = Callable[[Hello | Progress], object]
"""Told what the runner says while it works."""

_KINDS: Final = {"train": TrainResult, "evaluate": EvaluateResult, "run": RunResult}
_LINKER: Final = ("CANNOT LINK EXECUTABLE", "error while loading shared libraries", "could not load library")
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126
_HINTS: Final = {
    "memory": "give it fewer clients at once, a smaller batch, or a device with more memory",
    "output": "the device's storage is probably full",
    "engine": "does the plan run on this host? Else try another engine with --engine FILE",
    "killed": "phones end what takes too much memory, and everything when they restart",
    "not-finite": "lower the learning rate, or scale the data",
}


class Transcript:
    """What one start of a job printed.

    Args:
        job: The job, None for ``info`` and ``commit``.
        device: The phone, named in errors.
        listener: Told hellos and progress.
    """

    def __init__(self, job: Job | None, device: str, listener: Listener | None = None) -> None:
        self._job = job
        self._device = device
        self._listener = listener
        self._lines = LineBuffer()
        self.hello: Hello | None = None
        self.last: Result | CommitResult | Failure | None = None

    def feed(self, data: bytes) -> bool:
        """Take more output.

        Returns:
            Whether a line was completed by it.

        Raises:
            RunnerError: It is not what a runner of our protocol prints.
        """
        try:
            lines = self._lines.feed(data)
            for line in lines:
                self._take(parse_message(line))
        except MalformedMessageError as error:
            raise self._error("protocol", f"the runner printed {error}") from error
        return bool(lines)

    def conclude(self, code: int | None, stderr: bytes) -> Result | None:
        """What came of it.

        Args:
            code: The exit code, None if it left none.
            stderr: What it said to standard error.

        Returns:
            The result, None where there is no job.

        Raises:
            RunnerError: It failed, or its result does not fit the job.
        """
        if isinstance(self.last, Failure):
            raise self._error(self.last.code, self.last.message, self.last.client)
        said = clean(stderr.decode("utf-8", "replace").strip(), 1000)
        if any(words in said for words in _LINKER):
            raise self._error("engine", f"the engine does not load: {said[-400:]}")
        if code != 0:
            raise self._death(code, said)
        if self._job is None:
            return None
        if isinstance(self.last, CommitResult | None) or not isinstance(self.last, _KINDS[self._job.verb]):
            raise self._error("protocol", "the runner ended well but without a result")
        if (reason := check_result(self.last, self._job)) is not None:
            raise self._error("damaged", f"its result does not fit the job: {reason}")
        return self.last

    def _take(self, message: Message) -> None:
        if self.last is not None:
            raise MalformedMessageError(f"more after its last line: {message!r:.80}")
        if isinstance(message, Hello):
            if self.hello is not None:
                raise MalformedMessageError("a second hello")
            self.hello = message
            self._check_protocol(message)
        elif self.hello is None and not isinstance(message, Failure):
            raise MalformedMessageError(f"no hello but {message!r:.80}")
        if isinstance(message, Hello | Progress):
            if self._listener is not None:
                self._listener(message)
        else:
            self.last = message

    def _check_protocol(self, hello: Hello) -> None:
        if hello.protocol != PROTOCOL:
            raise self._error(
                "protocol",
                f"runner {hello.runner} speaks protocol {hello.protocol}, this devicelab speaks {PROTOCOL}",
                hint="install a devicelab whose runner belongs to it",
            )

    def _death(self, code: int | None, said: str) -> RunnerError:
        """An end without a word of the runner's."""
        tail = f": {said[-400:]}" if said else ""
        if code is None:
            return self._error("killed", f"the job is gone without a word{tail}")
        if code in (_NOT_FOUND, _NOT_EXECUTABLE):
            return self._error("engine", f"the runner cannot be started{tail}")
        kinds = {137: "killed", 139: "crashed", 132: "crashed", 134: "crashed", 135: "crashed"}
        kind = kinds.get(code, "stopped" if code in (129, 130, 143) else "crashed")
        return self._error(kind, f"the runner {describe_exit(code)}{tail}")

    def _error(
        self, code: str, message: str, client: str | None = None, hint: str | None = None
    ) -> RunnerError:
        what = f"job {self._job.job}: " if self._job is not None else ""
        whom = f"client {client}: " if client is not None and client not in message else ""
        return RunnerError(
            f"{what}{whom}{message}",
            device=self._device,
            code=code,
            client=client,
            hint=hint or _HINTS.get(code),
        )


def check_result(result: Result, job: Job) -> str | None:
    """Why a result cannot be this job's, None if it can.

    The numbers that decide how much a client counts are held against the job and against each other.
    """
    if result.job != job.job:
        return f"it is that of job {result.job}"
    if isinstance(result, RunResult):
        return None
    if [client.client for client in result.clients] != [client.client for client in job.clients]:
        return f"it names {len(result.clients)} clients, not the job's {len(job.clients)} in their order"
    if result.examples != sum(client.examples for client in result.clients):
        return "its examples are not the sum of its clients'"
    return _check_weights(result, job) if isinstance(result, TrainResult) else None


def _check_weights(result: TrainResult, job: Job) -> str | None:
    for found, asked in zip(result.clients, job.clients, strict=True):
        expected = found.examples if asked.weight is None else asked.weight
        if found.weight is None or not math.isclose(found.weight, expected, rel_tol=1e-9):
            return f"client {found.client} has the weight {found.weight}, not {expected}"
    if not math.isclose(result.weight, _total(result.clients), rel_tol=1e-9):
        return "its weight is not the sum of its clients'"
    return None


def _total(clients: Sequence[ClientResult]) -> float:
    return math.fsum(client.weight or 0.0 for client in clients)
