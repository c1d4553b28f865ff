"""What every aggregation rule keeps to: updates in, their mean out, whatever "mean" is to the rule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from numpy.typing import NDArray

from devicelab.aggregation.chunks import finite
from devicelab.aggregation.update import (
    ClientUpdate,
    Layout,
    PartialSum,
    Rows,
    Tensors,
    check_finite,
    check_layout,
    layout_of,
)
from devicelab.errors import ConfigError, RoundError, UpdateError

__all__ = ["Admission", "KeepingRule", "Rule", "finite_result"]


class Rule(Protocol):
    """One round's aggregation: made, fed, asked once.

    Attributes:
        name: As an experiment calls it.
        needs_each: It must see every client's own delta: devices may not add them up (``combine: each``).
        streaming: Its memory does not grow with the number of updates; it holds none of them.
    """

    name: ClassVar[str]
    needs_each: ClassVar[bool]
    streaming: ClassVar[bool]

    @property
    def minimum(self) -> int:
        """The fewest updates that make a result."""

    def add(self, update: ClientUpdate) -> None:
        """Take in one client's update.

        That its numbers are finite is for the caller to see to (``check_finite``); where it is not, the result
        is refused.

        Raises:
            UpdateError: It does not fit those before it, or the client has been counted already; it is not
                taken in.
            ConfigError: It is only some rows of a table, and the rule needs all of them.
        """

    def add_sum(self, part: PartialSum) -> None:
        """Take in a device's sum over several clients.

        Raises:
            UpdateError: As with :meth:`add`.
            ConfigError: The rule needs each client's own update.
        """

    def result(self) -> dict[str, NDArray[Any]]:
        """The mean delta, in the types and shapes of the updates.

        Raises:
            RoundError: There are too few updates, or the mean is not finite.
        """


class Admission:
    """Lets in what fits what came before, and every client once."""

    def __init__(self) -> None:
        self.layout: Layout | None = None
        self._clients: set[str] = set()

    def check(
        self, tensors: Tensors, clients: tuple[str, ...], device: str, rows: Mapping[str, Rows] | None = None
    ) -> None:
        """Refuse or remember. Of some rows of a table the whole table is remembered.

        Raises:
            UpdateError: Other tensors, types or shapes than the first update had, or a client for a second
            time.
        """
        for client in clients:
            if client in self._clients:
                raise UpdateError(f"client {client} has been counted already", device=device)
        if self.layout is None:
            self.layout = layout_of(tensors, rows)
        else:
            check_layout(tensors, self.layout, device=device, rows=rows)
        self._clients.update(clients)


class KeepingRule(ABC):
    """Base of the rules that compare the updates with each other: it keeps them until the result is asked for.

    Deltas are looked at in pieces, so they may be memory-mapped files: the memory needed is then that of a
    piece of each. The updates are looked at in the order of their clients' names: the order of arrival changes
    nothing. Weights do not count, for a client that lies about its weight must gain nothing.
    """

    name: ClassVar[str]
    needs_each: ClassVar[bool] = True
    streaming: ClassVar[bool] = False

    def __init__(self) -> None:
        self._admission = Admission()
        self._updates: list[ClientUpdate] = []

    @property
    def minimum(self) -> int:
        """The fewest updates that make a result."""
        return 1

    def add(self, update: ClientUpdate) -> None:
        """Take in one client's update; see :meth:`Rule.add`. NaN or infinity in it is an UpdateError here."""
        if update.rows:
            raise ConfigError(
                f"{self.name} compares whole tables, and client {update.client} sent some of the rows",
                hint="leave round.subtables out",
            )
        check_finite(update.delta, device=update.device)
        self._admission.check(update.delta, (update.client,), update.device)
        self._updates.append(update)

    def add_sum(self, part: PartialSum) -> None:
        """Refuse; see :meth:`Rule.add_sum`."""
        raise ConfigError(
            f"{self.name} compares clients, and {part.device} sent a sum of {len(part.clients)}",
            hint="have the devices return each client's update (combine: each)",
        )

    def result(self) -> dict[str, NDArray[Any]]:
        """The rule's mean; see :meth:`Rule.result`."""
        if len(self._updates) < self.minimum:
            raise RoundError(
                f"{self.name} needs at least {self.minimum} updates, there are {len(self._updates)}",
                hint="take more clients into a round, or another rule",
            )
        deltas = [update.delta for update in sorted(self._updates, key=lambda update: update.client)]
        return finite_result(self.combine(deltas))

    @abstractmethod
    def combine(self, deltas: list[Tensors]) -> dict[str, NDArray[Any]]:
        """The rule itself.

        Args:
            deltas: At least :attr:`minimum`, all of one layout.
        """


def finite_result(mean: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The mean as it is, if it may go into the model.

    Raises:
        RoundError: It holds NaN or infinity: an update did, or the sum became too large for the tensor's type.
    """
    for name, tensor in mean.items():
        if not finite(tensor):
            raise RoundError(f"the updates' average of {name!r} is not finite")
    return mean
