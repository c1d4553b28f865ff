"""What a virtual phone runs in: one protocol, three implementations that say what they cannot do."""

from __future__ import annotations

import socket
from typing import Literal, Protocol

from devicelab.deadline import Deadline

__all__ = ["Body", "BodyKind"]

BodyKind = Literal["namespaces", "proot", "python"]


class Body(Protocol):
    """The sandbox around one phone's adbd.

    Owned by the phone's keeper process, which calls everything but :meth:`connect` from one thread. The data
    partition outlives :meth:`kill` and :meth:`boot`, as a real phone's does; only :meth:`close` ends it.
    """

    @property
    def kind(self) -> BodyKind:
        """Which implementation this is."""
        ...

    @property
    def limits(self) -> tuple[str, ...]:
        """What this body cannot imitate, in words for people; empty for the full one."""
        ...

    def boot(self, deadline: Deadline) -> None:
        """Start the phone's init and adbd, with a new boot id; returns once adbd accepts connections.

        Raises:
            VirtualPhoneError: It did not start; the message holds what adbd printed.
        """
        ...

    def alive(self) -> bool:
        """Whether adbd runs (a frozen one does)."""
        ...

    def connect(self, deadline: Deadline) -> socket.socket:
        """A connection to the phone's adbd on which nothing has been said.

        Raises:
            ConnectionError: adbd is not running.
        """
        ...

    def kill(self) -> None:
        """SIGKILL everything in the phone and wait until it is gone; the data partition stays."""
        ...

    def freeze(self) -> None:
        """SIGSTOP every process in the phone: connections are accepted by the kernel and never answered."""
        ...

    def thaw(self) -> None:
        """SIGCONT what :meth:`freeze` stopped."""
        ...

    def set_disk(self, size: int) -> None:
        """Make the data partition ``size`` bytes large, never smaller than what is in use.

        Raises:
            VirtualPhoneError: This body has no quota.
        """
        ...

    def disk_usage(self) -> tuple[int, int]:
        """Bytes of the data partition: in all and in use.

        Raises:
            VirtualPhoneError: This body has no quota.
        """
        ...

    def close(self) -> None:
        """End the phone for good and remove all it kept; may be called twice."""
        ...
