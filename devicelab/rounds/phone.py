"""A job on a phone, as a worker drives it: the steps, and nothing about how they are done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from devicelab.deadline import Deadline
from devicelab.runner.messages import Hello, Progress, Result

__all__ = ["Phone"]


class Phone(Protocol):
    """What a worker does with its phone. Every method may be called again after it has failed."""

    @property
    def serial(self) -> str:
        """How the phone is called."""
        ...

    def prepare(self, deadline: Deadline) -> None:
        """Have everything that the job needs on the phone, and the job's directory."""
        ...

    def start(self) -> None:
        """Start the job, unless it runs or has ended well."""
        ...

    def follow(
        self, on_message: Callable[[Hello | Progress], object], between: Callable[[], object], idle: float
    ) -> Result:
        """Wait for the job's end.

        Args:
            on_message: Told what the runner says.
            between: Called between two looks; what it raises ends the wait and leaves the job as it is.
            idle: Seconds without a line while the phone answers, or without an answer; DeadlineError after
                them. A phone that is away is soon a DeviceLostError.
        """
        ...

    def collect(self, result: Result, deadline: Deadline) -> None:
        """Pull what the job wrote, if it wrote anything."""
        ...

    def stop(self) -> None:
        """Stop the job if it runs."""
        ...

    def finish(self) -> None:
        """Let what the clients keep take its place, and remove the job."""
        ...

    def remove(self) -> None:
        """Stop the job if it runs, and remove all of it."""
        ...

    def reach(self, deadline: Deadline) -> None:
        """Connect to the phone, and make sure that it is the same one.

        Raises:
            DeviceLostError, DeadlineError: It is not there.
        """
        ...
