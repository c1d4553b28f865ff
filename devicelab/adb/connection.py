"""The wire's vocabulary: what a Stream, a Connection and a Transport promise, whoever implements them.

Two transports open connections: :mod:`devicelab.adb.server` (the official adb server's smart socket) and
:mod:`devicelab.adb.direct` (we speak ADB's own packets over TCP or USB). Everything above them, shell and sync
first of all, is written once against these three protocols.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from threading import Event
from types import TracebackType
from typing import Literal, Protocol, Self, runtime_checkable

from devicelab.deadline import Deadline

__all__ = ["Connection", "Endpoint", "EndpointState", "Stream", "Transport", "TransportName"]

TransportName = Literal["server", "direct"]


class EndpointState(StrEnum):
    """What the transport knows of a phone before anything is asked of the phone itself."""

    ONLINE = "online"  # adb says "device"; in direct mode: there is something to connect to
    OFFLINE = "offline"  # seen, but does not answer the ADB handshake (also: connecting, sideload, recovery …)
    UNAUTHORIZED = "unauthorized"
    NO_PERMISSION = "no permission"  # on USB, but this user may not open it
    ABSENT = "absent"  # an address that was asked for and is not there


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One way to reach a phone, as a transport lists it.

    Attributes:
        serial: The ADB serial: a USB serial, ``emulator-5554`` or ``host:port``.
        state: What is known before connecting.
        detail: The transport's own words for a state other than online ("connecting", "recovery", …).
    """

    serial: str
    state: EndpointState
    detail: str = ""


class Stream(Protocol):
    """A byte pipe to one adbd service. One thread reads while another may write; close() from any thread.

    Every method that waits takes a deadline and raises :class:`DeadlineError` when it is over,
    :class:`DeviceLostError` when the phone is gone and :class:`ProtocolError` when it misbehaves. After any of
    these the stream is only good for close(); but a read that was cut off has lost nothing and may be repeated.
    """

    @property
    def serial(self) -> str:
        """The ADB serial of the phone at the other end."""
        ...

    def read(self, limit: int, deadline: Deadline) -> bytes:
        """The next 1 to ``limit`` bytes as soon as there are any; ``b""`` once the phone has closed its end."""
        ...

    def write(self, data: bytes | bytearray | memoryview, deadline: Deadline) -> None:
        """Hand over all of ``data`` (a short send is never the caller's business).

        Raises:
            StreamClosedError: The phone has closed its end; what it said before can still be read.
        """
        ...

    def close(self) -> None:
        """Give up the stream; never waits, may be called twice."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class Connection(Protocol):
    """One phone, reached and authorized. Any number of streams may be open on it at a time."""

    @property
    def serial(self) -> str:
        """The ADB serial by which the phone was reached."""
        ...

    @property
    def transport(self) -> TransportName:
        """Which transport opened it."""
        ...

    @property
    def features(self) -> frozenset[str]:
        """What adbd announced (``shell_v2``, ``stat_v2``, ``sendrecv_v2_zstd``, …) and both ends can use."""
        ...

    @property
    def banner(self) -> Mapping[str, str]:
        """Properties in adbd's connection banner: ``ro.product.name``, ``ro.product.model``, …; maybe empty."""
        ...

    def alive(self) -> bool:
        """Whether this is still the connection that was made: not once the phone was lost, even if it is back.

        A loss that nobody has noticed yet counts as alive. Asks the adb server at most, never the phone.
        """
        ...

    def open(self, service: str, deadline: Deadline) -> Stream:
        """Open a service such as ``shell,v2,raw:true`` or ``sync:``.

        Raises:
            ServiceRefusedError: adbd does not know or allow the service.
            DeviceLostError: The phone is gone.
            DeadlineError: It did not answer in time.
        """
        ...

    def close(self) -> None:
        """End all streams and what serves them (threads, sockets); may be called twice."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


@runtime_checkable
class Transport(Protocol):
    """A way to reach phones."""

    @property
    def name(self) -> TransportName:
        """``server`` or ``direct``."""
        ...

    @property
    def description(self) -> str:
        """One line for people: "adb server 1.0.41 (adb 36.0.0) on 127.0.0.1:5037"."""
        ...

    def endpoints(self, addresses: Sequence[str], deadline: Deadline) -> list[Endpoint]:
        """List what can be reached now, sorted by serial, each serial once.

        Args:
            addresses: ``host:port`` of phones on TCP to look for besides what the transport finds by itself. An
                address where nothing answers is listed as absent.
            deadline: For the whole listing.
        """
        ...

    def connect(self, serial: str, deadline: Deadline, *, authorize: float | None = None) -> Connection:
        """Reach one endpoint.

        Args:
            serial: Which.
            deadline: For all of it.
            authorize: Seconds that somebody has to press "Allow" on a phone that does not know this host yet;
                None: the transport's own choice. An adb server keeps the question open by itself.

        Raises:
            DeviceLostError: Nothing there.
            DeviceUnauthorizedError: The phone wants somebody to press "Allow".
            DeadlineError: There, but silent.
        """
        ...

    def watch(self, addresses: Sequence[str], stop: Event) -> Iterator[list[Endpoint]]:
        """Yield the endpoints now, and again as soon as they may have changed, until ``stop`` is set.

        Also yields at least once a second, changed or not, so that a caller can look after its own things; ends
        within a second of ``stop``.
        """
        ...

    def close(self) -> None:
        """Let go of sockets and threads. An adb server that was running or was started keeps running."""
        ...
