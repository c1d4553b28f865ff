"""One phone behind the adb server: a connection of our own to the server for every stream.

The server shows the end of a stream, the loss of a phone and its own death in the same way, as the end of that
connection; so then it is asked which it was.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Literal

from devicelab.adb.program import ServerAddress
from devicelab.adb.smartsocket import RefusedError, SmartSocket, query
from devicelab.closing import Closing
from devicelab.deadline import Deadline
from devicelab.errors import (
    AdbUnavailableError,
    DeadlineError,
    DeviceError,
    DeviceLostError,
    DeviceNotReadyError,
    DeviceUnauthorizedError,
    ServiceRefusedError,
    StreamClosedError,
)

__all__ = ["LOST_HINT", "ServerConnection", "ServerStream", "explain_refusal", "is_loss"]

LOST_HINT = "check cable, network and USB debugging"
_OLD_PAYLOAD = 4096  # bytes in one packet of an adbd from before Android 7; later ones take 256 KiB and more
_ASK_SECONDS = 2.0  # for asking a local server about something it knows; far more than it takes


class ServerStream(Closing):
    """A :class:`~devicelab.adb.connection.Stream` through the adb server."""

    def __init__(self, smart: SmartSocket, connection: ServerConnection, service: str) -> None:
        self._smart = smart
        self._connection = connection
        self._service = service.split(":", 1)[0].split(",", 1)[0]

    @property
    def serial(self) -> str:
        """The ADB serial of the phone at the other end."""
        return self._connection.serial

    def read(self, limit: int, deadline: Deadline) -> bytes:
        """See :meth:`Stream.read <devicelab.adb.connection.Stream.read>`."""
        try:
            data = self._smart.socket.receive(limit, deadline)
        except DeadlineError as error:
            error.device = self.serial
            raise
        except OSError as error:
            if lost := self._loss(error):
                raise lost from error
            return b""  # a reset: the service ended with some of what we wrote still unread
        if not data and (lost := self._loss()):
            raise lost
        return data

    def write(self, data: bytes | bytearray | memoryview, deadline: Deadline) -> None:
        """See :meth:`Stream.write <devicelab.adb.connection.Stream.write>`."""
        try:
            self._smart.socket.send(data, deadline)
        except DeadlineError as error:
            error.device = self.serial
            raise
        except OSError as error:
            ended = f"the {self._service} service ended while it was written to"
            raise self._loss(error) or StreamClosedError(ended, device=self.serial) from error

    def ended(self) -> bool:
        """Whether the server has closed an idle stream; never waits."""
        return self._smart.socket.ended()

    def close(self) -> None:
        """Give up the stream."""
        self._smart.close()
        self._connection.forget(self)

    def _loss(self, error: OSError | None = None) -> DeviceLostError | AdbUnavailableError | None:
        if isinstance(error, ConnectionAbortedError):
            return DeviceLostError(f"the {self._service} stream was closed on this side", device=self.serial)
        return self._connection.loss()


class ServerConnection(Closing):
    """A :class:`~devicelab.adb.connection.Connection` through the adb server.

    Args:
        address: The server's.
        serial: The phone's.
        features: What adbd announced.
        banner: What the server shows of adbd's banner.
    """

    def __init__(
        self, address: ServerAddress, serial: str, features: frozenset[str], banner: Mapping[str, str]
    ) -> None:
        self._address = address
        self._serial = serial
        self._features = features
        self._banner = banner
        self._streams: set[ServerStream] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._witness: ServerStream | None = None
        self._lost = False

    @property
    def serial(self) -> str:
        """The ADB serial by which the phone was reached."""
        return self._serial

    @property
    def transport(self) -> Literal["server"]:
        """``server``."""
        return "server"

    @property
    def features(self) -> frozenset[str]:
        """What adbd announced and our services can use."""
        return self._features

    @property
    def banner(self) -> Mapping[str, str]:
        """``ro.product.name``, ``ro.product.model`` (blanks as "_") and ``ro.product.device``, where known."""
        return self._banner

    def verify(self, deadline: Deadline) -> None:
        """Make the phone itself answer, once, and keep the stream on which it did, for :meth:`alive`.

        The server answers for phones out of its memory, so without this a frozen one would pass for reachable.

        Raises:
            DeadlineError: It does not.
            DeviceLostError: It is gone.
        """
        self._witness = self.open("sync:", deadline)

    def alive(self) -> bool:
        """See :meth:`Connection.alive <devicelab.adb.connection.Connection.alive>`; costs one system call.

        The server ends all streams of a phone that it loses, but keeps its number for it (``transport_id``) if
        it finds it again by itself. So an idle stream knows what the listing does not show.
        """
        return not self._lost and self._witness is not None and not self._witness.ended()

    def open(self, service: str, deadline: Deadline) -> ServerStream:
        """See :meth:`Connection.open <devicelab.adb.connection.Connection.open>`.

        Raises:
            AdbUnavailableError: The server is gone.
        """
        self._check_length(service)
        smart = SmartSocket(self._address, deadline)
        try:
            try:
                smart.request(f"host:transport:{self._serial}", deadline)
                try:
                    smart.request(service, deadline)
                except RefusedError as refusal:
                    raise self._service_refused(service, str(refusal)) from refusal
            except RefusedError as refusal:
                raise explain_refusal(self._serial, str(refusal)) from refusal
            stream = ServerStream(smart, self, service)
            with self._lock:
                if self._closed:
                    raise DeviceLostError("the connection was closed on this side", device=self._serial)
                self._streams.add(stream)
        except BaseException as error:
            smart.close()
            if isinstance(error, DeadlineError):
                error.device = self._serial
            raise
        return stream

    def loss(self) -> DeviceLostError | AdbUnavailableError | None:
        """Why a stream ended, as the server tells it: None if the phone is there and ended it itself."""
        lost = self._ask_for_loss()
        self._lost = self._lost or lost is not None
        return lost

    def _ask_for_loss(self) -> DeviceLostError | AdbUnavailableError | None:
        deadline = Deadline("reply to `get-state`", _ASK_SECONDS, self._serial)
        try:
            state = query(self._address, f"host-serial:{self._serial}:get-state", deadline)
        except RefusedError as refusal:
            return DeviceLostError(f"the phone is gone ({refusal})", device=self._serial, hint=LOST_HINT)
        except AdbUnavailableError as error:
            return error
        if state != b"device":
            word = state.decode("utf-8", "replace")
            return DeviceLostError(f"the phone is gone ({word})", device=self._serial, hint=LOST_HINT)
        return None

    def forget(self, stream: ServerStream) -> None:
        """Called by a stream that has been closed."""
        with self._lock:
            self._streams.discard(stream)

    def close(self) -> None:
        """End all streams; may be called twice."""
        with self._lock:
            self._closed = True
            streams = list(self._streams)
        for stream in streams:
            stream.close()

    def _check_length(self, service: str) -> None:
        """Refuse a name that does not fit into one packet to the phone: on it, every adb server aborts.

        The server does not tell how much a phone takes, but old phones show in having no shell v2.
        """
        size = len(service.encode("utf-8", "surrogateescape"))
        if size >= _OLD_PAYLOAD and "shell_v2" not in self._features:
            raise ServiceRefusedError(
                f"takes service names of less than {_OLD_PAYLOAD} bytes, not of {size}",
                device=self._serial,
                hint="push a long command as a file, and run that",
            )

    def _service_refused(self, service: str, reason: str) -> DeviceError | AdbUnavailableError:
        # "closed" is all the server says, both for an unknown service and for a phone lost at this moment.
        if reason != "closed":
            return explain_refusal(self._serial, reason)
        return self.loss() or ServiceRefusedError(f"adbd refused `{service[:200]}`", device=self._serial)


def explain_refusal(serial: str, reason: str) -> DeviceError:
    """The error that a FAIL about a phone means (texts: ``transport.cpp`` in AOSP's adb)."""
    first = (reason.strip().splitlines() or ["no reason given"])[0]
    if "unauthorized" in reason or "authorizing" in reason:
        return DeviceUnauthorizedError(
            "the phone does not know this computer yet",
            device=serial,
            hint='unlock it and press "Allow" on "Allow USB debugging?"',
        )
    if "insufficient permissions" in reason or "no permissions" in reason:
        return DeviceNotReadyError(
            f"this user may not open it: {first}", device=serial, hint="devicelab doctor"
        )
    if is_loss(reason):
        return DeviceLostError(first, device=serial, hint=LOST_HINT)
    return DeviceNotReadyError(f"the adb server says: {first}", device=serial)


def is_loss(reason: str) -> bool:
    """Whether a FAIL means that the phone is not there (any more)."""
    return any(word in reason for word in ("not found", "offline", "no devices", "detached", "no transport"))
