"""One clock for a whole operation: every wait in it asks the same deadline how much is left."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from devicelab.errors import DeadlineError

__all__ = ["Deadline"]


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point in time that an operation must not outlive.

    Made once where the operation begins and handed down, so that ten small waits cannot add up to ten times
    the limit.

    Args:
        operation: What ends at it, for the error message: "push of model.onnx".
        seconds: The whole allowance, in seconds from now.
        device: The phone concerned, named in the error.
    """

    operation: str
    seconds: float
    device: str | None = None
    _end: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_end", time.monotonic() + self.seconds)

    @property
    def expired(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self._end

    @property
    def left(self) -> float:
        """Seconds left; 0 once the time is over."""
        return max(0.0, self._end - time.monotonic())

    def error(self) -> DeadlineError:
        """The error to raise once the time is over."""
        return DeadlineError(self.operation, seconds=self.seconds, device=self.device)

    def remaining(self) -> float:
        """Seconds left, always more than zero.

        Raises:
            DeadlineError: There are none.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise self.error()
        return left

    def capped(self, seconds: float) -> float:
        """Seconds left, but at most ``seconds``: for waits that look up now and then.

        Raises:
            DeadlineError: There are none left.
        """
        return min(self.remaining(), seconds)

    def within(self, operation: str, seconds: float, *, device: str | None = None) -> Deadline:
        """A deadline for one part: ``seconds`` from now, or this one's end if that comes first.

        Raises:
            DeadlineError: This deadline is already over.
        """
        return Deadline(operation, self.capped(seconds), device or self.device)
