"""Reaching phones through the official adb server, which brings emulators, USB and paired Wi-Fi phones along.

Every stream is a TCP connection of its own to the server. The server shows the end of a stream, the loss of a
phone and its own death in the same way, as the end of that connection; so then it is asked which it was.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from types import TracebackType
from typing import Literal, Self

from devicelab.adb.addresses import parse_address, require_address
from devicelab.adb.connection import Endpoint
from devicelab.adb.listing import Listed, parse_listing
from devicelab.adb.program import ServerAddress, find_adb, start_server
from devicelab.adb.reconnect import absent, reconnect
from devicelab.adb.smartsocket import RefusedError, SmartSocket, parse_server_status, query
from devicelab.adb.watch import watch_server
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

__all__ = ["ServerConnection", "ServerStream", "ServerTransport"]

_ASK_SECONDS = 2.0  # for asking a local server about something it knows; far more than it takes
_RECONNECT_SECONDS = 5.0  # for one address in one listing
_PAUSE = 0.1  # between two looks at a phone that is still connecting

# The server lists all that adbd announced; these are between the two of them.
_NOT_OURS = frozenset({"", "delayed_ack"})


class ServerStream:
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

    def close(self) -> None:
        """Give up the stream."""
        self._smart.close()
        self._connection.forget(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _loss(self, error: OSError | None = None) -> DeviceLostError | AdbUnavailableError | None:
        if isinstance(error, ConnectionAbortedError):
            return DeviceLostError(f"the {self._service} stream was closed on this side", device=self.serial)
        return self._connection.loss()


class ServerConnection:
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

    def open(self, service: str, deadline: Deadline) -> ServerStream:
        """See :meth:`Connection.open <devicelab.adb.connection.Connection.open>`.

        Raises:
            AdbUnavailableError: The server is gone.
        """
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
        deadline = Deadline("reply to `get-state`", _ASK_SECONDS, self._serial)
        try:
            state = query(self._address, f"host-serial:{self._serial}:get-state", deadline)
        except RefusedError as refusal:
            return DeviceLostError(f"the phone is gone ({refusal})", device=self._serial, hint=_LOST_HINT)
        except AdbUnavailableError as error:
            return error
        if state != b"device":
            word = state.decode("utf-8", "replace")
            return DeviceLostError(f"the phone is gone ({word})", device=self._serial, hint=_LOST_HINT)
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _service_refused(self, service: str, reason: str) -> DeviceError | AdbUnavailableError:
        # "closed" is all the server says, both for an unknown service and for a phone lost at this moment.
        if reason != "closed":
            return explain_refusal(self._serial, reason)
        return self.loss() or ServiceRefusedError(f"adbd refused `{service[:200]}`", device=self._serial)


class ServerTransport:
    """A :class:`~devicelab.adb.connection.Transport` through a running adb server.

    Made by :meth:`running` or :meth:`start`.

    Args:
        address: Where the server listens.
        protocol: The server's protocol number: 41.
        release: The server's release ("36.0.0"), "" where it does not tell (before adb 35).
    """

    def __init__(self, address: ServerAddress, protocol: int, release: str = "") -> None:
        self._address = address
        self._protocol = protocol
        self._release = release

    @classmethod
    def running(cls, address: ServerAddress | None = None, *, deadline: Deadline) -> ServerTransport:
        """Use the server that runs at ``address`` (else: where the environment says).

        Raises:
            AdbUnavailableError: None answers there.
            DeadlineError: Something accepts connections there, but is silent.
        """
        where = address or ServerAddress.from_environment()
        try:
            version = query(where, "host:version", deadline)
            protocol = int(version, 16)
        except (RefusedError, ValueError) as error:
            raise AdbUnavailableError(f"what answers on {where} is no adb server: {error}") from error
        try:
            release = parse_server_status(query(where, "host:server-status", deadline))
        except RefusedError:  # an older server, which has no such service
            release = ""
        return cls(where, protocol, release)

    @classmethod
    def start(cls, address: ServerAddress | None = None, *, deadline: Deadline) -> ServerTransport:
        """Use the server that runs at ``address``, or start one with the adb program of this machine.

        Raises:
            AdbUnavailableError: None runs and there is no adb program, or it does not start.
            DeadlineError: It does not come up in time.
        """
        where = address or ServerAddress.from_environment()
        try:
            return cls.running(where, deadline=deadline)
        except AdbUnavailableError as none_running:
            program = find_adb()
            if program is None:
                raise AdbUnavailableError(
                    f"{none_running.message}, and there is no adb program to start one",
                    hint="install adb (Debian: apt install adb), or use --transport direct",
                ) from none_running
        start_server(program, where, deadline)
        return cls.running(where, deadline=deadline)

    @property
    def name(self) -> Literal["server"]:
        """``server``."""
        return "server"

    @property
    def address(self) -> ServerAddress:
        """Where the server listens."""
        return self._address

    @property
    def release(self) -> tuple[int, int, int] | None:
        """The server's release for :func:`devicelab.adb.program.holes`; None where it does not tell."""
        parts = self._release.split(".")
        if len(parts) != 3 or not all(part.isdecimal() for part in parts):
            return None
        return int(parts[0]), int(parts[1]), int(parts[2])

    @property
    def description(self) -> str:
        """One line for people."""
        release = f" (adb {self._release})" if self._release else ""
        return f"adb server 1.0.{self._protocol}{release} on {self._address}"

    def endpoints(self, addresses: Sequence[str], deadline: Deadline) -> list[Endpoint]:
        """See :meth:`Transport.endpoints <devicelab.adb.connection.Transport.endpoints>`.

        Addresses that the server does not know yet, or only remembers, are connected to, all at once. That
        takes at most about five seconds, if an address swallows packets; with phones or closed ports it takes
        milliseconds.
        """
        wanted = {str(require_address(address)) for address in addresses}
        listed = self._listed(deadline)
        stale = [address for address in sorted(wanted) if _is_stale(listed.get(address))]
        if not stale:
            return absent(listed, wanted, {})
        limit = min(_RECONNECT_SECONDS, 0.8 * deadline.remaining())  # leaves time for the second listing
        never = Event()
        with ThreadPoolExecutor(min(16, len(stale)), thread_name_prefix="adb-connect") as pool:
            parts = [deadline.within(f"connection to {address}", limit) for address in stale]
            said = list(pool.map(lambda a, d: reconnect(self._address, a, d, never), stale, parts))
        return absent(self._listed(deadline), wanted, dict(zip(stale, said, strict=True)))

    def connect(self, serial: str, deadline: Deadline) -> ServerConnection:
        """See :meth:`Transport.connect <devicelab.adb.connection.Transport.connect>`.

        The server answers for phones out of its memory, so the phone itself is asked for one stream, too: a
        frozen one is not taken for reachable.
        """
        features = self._features(serial, deadline)
        listed = self._listed(deadline).get(serial)
        connection = ServerConnection(
            self._address, serial, features - _NOT_OURS, listed.banner if listed is not None else {}
        )
        connection.open("sync:", deadline).close()
        return connection

    def watch(self, addresses: Sequence[str], stop: Event) -> Iterator[list[Endpoint]]:
        """See :meth:`Transport.watch <devicelab.adb.connection.Transport.watch>`.

        Raises:
            AdbUnavailableError: The server is gone and none came back within a few seconds.
        """
        return watch_server(self._address, {str(require_address(address)) for address in addresses}, stop)

    def close(self) -> None:
        """Nothing is held between calls."""

    def _listed(self, deadline: Deadline) -> dict[str, Listed]:
        try:
            return parse_listing(query(self._address, "host:devices-l", deadline))
        except RefusedError as refusal:
            raise AdbUnavailableError(f"the adb server lists no phones: {refusal}") from refusal

    def _features(self, serial: str, deadline: Deadline) -> frozenset[str]:
        """Ask until the phone is past connecting; an address that is stale is connected to once."""
        mended = parse_address(serial) is None
        while True:
            try:
                block = query(self._address, f"host-serial:{serial}:features", deadline)
            except RefusedError as refusal:
                reason = str(refusal)
                if not mended and _is_loss(reason):
                    mended = True
                    said = reconnect(self._address, serial, deadline, Event())
                    if said:
                        raise DeviceLostError(said, device=serial, hint=_LOST_HINT) from refusal
                elif "still" not in reason:  # "device still connecting", "device still authorizing"
                    raise explain_refusal(serial, reason) from refusal
                time.sleep(deadline.capped(_PAUSE))
            else:
                return frozenset(block.decode("utf-8", "replace").split(","))


_LOST_HINT = "check cable, network and USB debugging"


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
    if _is_loss(reason):
        return DeviceLostError(first, device=serial, hint=_LOST_HINT)
    return DeviceNotReadyError(f"the adb server says: {first}", device=serial)


def _is_loss(reason: str) -> bool:
    return any(word in reason for word in ("not found", "offline", "no devices", "detached", "no transport"))


def _is_stale(listed: Listed | None) -> bool:
    return listed is None or listed.endpoint.detail == "offline"
