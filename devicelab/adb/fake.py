r"""Phones that exist in this process only: for trying things out, and for tests that need no phone.

::

    phone = FakePhone("R58M123", shell={"getprop ro.product.model": "Pixel 7\n"})
    transport = FakeTransport([phone])
    with transport.connect("R58M123", deadline) as connection:
        push_file(connection, b"...", "/data/local/tmp/model.onnx", deadline=deadline)
    assert phone.files["/data/local/tmp/model.onnx"] == b"..."

Everything above the wire runs unchanged: streams wait, miss deadlines and break like those of a phone, and the
shell and file services speak the real protocols. What is missing is an Android: a command answers what the fake
was told to answer. For a real adbd on this machine there is :mod:`devicelab.virtual`.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from threading import Event

from devicelab.adb.connection import Endpoint, EndpointState, TransportName
from devicelab.adb.fake_phone import FEATURES, OLD_FEATURES, FakePhone, FakeResult
from devicelab.adb.fake_services import Line, knows, serve
from devicelab.adb.sockets import DeadlineSocket
from devicelab.closing import Closing
from devicelab.deadline import Deadline
from devicelab.errors import (
    DeadlineError,
    DeviceLostError,
    DeviceNotReadyError,
    DeviceUnauthorizedError,
    ServiceRefusedError,
    StreamClosedError,
)

__all__ = [
    "FEATURES",
    "OLD_FEATURES",
    "FakeConnection",
    "FakePhone",
    "FakeResult",
    "FakeStream",
    "FakeTransport",
]

_LOOK_UP = 0.05  # seconds between two looks at the phones while watching
_YIELD = 0.5  # seconds between two lists that are the same
_JOIN_SECONDS = 5.0  # for the services of a closed connection; only a shell function that hangs takes longer


class FakeStream(Closing):
    """A :class:`~devicelab.adb.connection.Stream` to a fake phone.

    Args:
        phone: The phone.
        service: What serves it, in a thread of its own.
    """

    def __init__(self, phone: FakePhone, service: str) -> None:
        ours, theirs = socket.socketpair()
        self._phone = phone
        self._service = service
        self._socket = DeadlineSocket(ours)
        self._line = Line(theirs, phone)
        self._lost = False
        self._thread = threading.Thread(target=self._serve, name=f"fake {service[:20]}", daemon=True)
        self._thread.start()

    @property
    def serial(self) -> str:
        """The phone's serial."""
        return self._phone.serial

    def read(self, limit: int, deadline: Deadline) -> bytes:
        """See :meth:`Stream.read <devicelab.adb.connection.Stream.read>`."""
        try:
            data = self._socket.receive(limit, deadline)
        except DeadlineError as error:
            error.device = self.serial
            raise
        except OSError as error:
            raise self._gone() from error
        if not data and self._lost:
            raise self._gone()
        return data

    def write(self, data: bytes | bytearray | memoryview, deadline: Deadline) -> None:
        """See :meth:`Stream.write <devicelab.adb.connection.Stream.write>`."""
        try:
            self._socket.send(data, deadline)
        except DeadlineError as error:
            error.device = self.serial
            raise
        except ConnectionAbortedError as error:
            raise self._gone() from error
        except OSError as error:
            if self._lost:
                raise self._gone() from error
            raise StreamClosedError("the service ended while it was written to", device=self.serial) from error

    def close(self) -> None:
        """Give up the stream."""
        self._socket.close()
        self._line.cut()

    @property
    def served(self) -> bool:
        """Whether its service still runs."""
        return self._thread.is_alive()

    def join(self, seconds: float) -> None:
        """Wait for the thread that serves it."""
        self._thread.join(seconds)

    def _serve(self) -> None:
        with self._phone.cable(self._unplugged):
            serve(self._phone, self._service, self._line)

    def _unplugged(self) -> None:
        self._lost = True
        self._line.cut()

    def _gone(self) -> DeviceLostError:
        reason = "the phone was unplugged" if self._lost else "the stream was closed on this side"
        return DeviceLostError(reason, device=self.serial)


class FakeConnection(Closing):
    """A :class:`~devicelab.adb.connection.Connection` to a fake phone.

    Args:
        phone: The phone.
        transport: Whose name it goes by.
    """

    def __init__(self, phone: FakePhone, transport: TransportName) -> None:
        self._phone = phone
        self._transport = transport
        self._losses = phone.losses
        self._closed = False
        self._streams: list[FakeStream] = []

    @property
    def serial(self) -> str:
        """The phone's serial."""
        return self._phone.serial

    @property
    def transport(self) -> TransportName:
        """The name that the fake transport was given."""
        return self._transport

    @property
    def features(self) -> frozenset[str]:
        """The phone's features."""
        return self._phone.features

    @property
    def banner(self) -> Mapping[str, str]:
        """The phone's banner."""
        return self._phone.banner

    def alive(self) -> bool:
        """Whether it was neither closed nor unplugged since."""
        return not self._closed and self._phone.losses == self._losses

    def open(self, service: str, deadline: Deadline) -> FakeStream:
        """See :meth:`Connection.open <devicelab.adb.connection.Connection.open>`."""
        if not self.alive():
            raise DeviceLostError("the connection was lost or closed", device=self.serial)
        require_answer(self._phone, deadline)
        if not knows(self._phone, service):
            raise ServiceRefusedError(f"adbd refused `{service[:200]}`", device=self.serial)
        stream = FakeStream(self._phone, service)
        self._streams = [*(other for other in self._streams if other.served), stream]
        return stream

    def close(self) -> None:
        """End all streams and what serves them."""
        self._closed = True
        for stream in self._streams:
            stream.close()
        for stream in self._streams:
            stream.join(_JOIN_SECONDS)


class FakeTransport:
    """A :class:`~devicelab.adb.connection.Transport` to phones that are given to it.

    Args:
        phones: The phones. An absent one is only listed if its serial is asked for as an address.
        name: The name that it goes by.
    """

    def __init__(self, phones: Iterable[FakePhone], *, name: TransportName = "direct") -> None:
        self.phones = {phone.serial: phone for phone in phones}
        self._name = name
        self._connections: list[FakeConnection] = []

    @property
    def name(self) -> TransportName:
        """The name that it was given."""
        return self._name

    @property
    def description(self) -> str:
        """One line for people."""
        return f"{len(self.phones)} fake phones"

    def endpoints(self, addresses: Sequence[str], deadline: Deadline) -> list[Endpoint]:
        """See :meth:`Transport.endpoints <devicelab.adb.connection.Transport.endpoints>`."""
        deadline.remaining()
        present = {
            serial: Endpoint(serial, phone.state)
            for serial, phone in self.phones.items()
            if phone.state is not EndpointState.ABSENT
        }
        missing = {address: Endpoint(address, EndpointState.ABSENT) for address in addresses}
        endpoints = missing | present
        return [endpoints[serial] for serial in sorted(endpoints)]

    def connect(self, serial: str, deadline: Deadline, *, authorize: float | None = None) -> FakeConnection:
        """See :meth:`Transport.connect <devicelab.adb.connection.Transport.connect>`."""
        del authorize  # nobody is there to press "Allow"
        phone = self.phones.get(serial)
        if phone is None:
            raise DeviceLostError("there is no such phone", device=serial)
        require_answer(phone, deadline)
        connection = FakeConnection(phone, self._name)
        self._connections.append(connection)
        return connection

    def watch(self, addresses: Sequence[str], stop: Event) -> Iterator[list[Endpoint]]:
        """See :meth:`Transport.watch <devicelab.adb.connection.Transport.watch>`."""
        last: list[Endpoint] | None = None
        due = 0.0
        while not stop.is_set():
            endpoints = self.endpoints(addresses, Deadline("listing", 1.0))
            if endpoints != last or time.monotonic() >= due:
                last, due = endpoints, time.monotonic() + _YIELD
                yield endpoints
            stop.wait(_LOOK_UP)

    def close(self) -> None:
        """End the connections that are still open."""
        for connection in self._connections:
            connection.close()


def require_answer(phone: FakePhone, deadline: Deadline) -> None:
    """Raise what reaching for a phone in its state raises.

    Raises:
        DeviceLostError: It is absent, or offline.
        DeviceUnauthorizedError: It wants somebody to press "Allow".
        DeviceNotReadyError: This user may not open it.
        DeadlineError: It is frozen.
    """
    if phone.state in (EndpointState.ABSENT, EndpointState.OFFLINE):
        raise DeviceLostError(f"the phone is {phone.state}", device=phone.serial)
    if phone.state is EndpointState.UNAUTHORIZED:
        raise DeviceUnauthorizedError("the phone does not know this computer yet", device=phone.serial)
    if phone.state is EndpointState.NO_PERMISSION:
        raise DeviceNotReadyError("this user may not open it", device=phone.serial)
    if not phone.wait_awake(deadline.remaining()):
        raise DeadlineError(deadline.operation, seconds=deadline.seconds, device=phone.serial)
