"""Reaching phones through the official adb server: USB, emulators and paired Wi-Fi phones come along."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Literal

from devicelab.adb.addresses import parse_address, require_address
from devicelab.adb.connection import Endpoint
from devicelab.adb.listing import Listed, list_phones
from devicelab.adb.program import ServerAddress, find_adb, start_server
from devicelab.adb.reconnect import absent, reconnect
from devicelab.adb.server_connection import LOST_HINT, ServerConnection, ServerStream, explain_refusal, is_loss
from devicelab.adb.smartsocket import RefusedError, parse_server_status, query
from devicelab.adb.watch import watch_server
from devicelab.deadline import Deadline
from devicelab.errors import AdbUnavailableError, DeadlineError, DeviceLostError

__all__ = ["ServerConnection", "ServerStream", "ServerTransport"]

_HELLO_SECONDS = 4.0  # for a server's first answer, which takes a millisecond
_RECONNECT_SECONDS = 5.0  # for one address in one listing
_RECONNECTS = 3  # attempts for an address that the server connects to and loses again
_RECONNECT_PAUSE = 0.3  # seconds, longer each time
_PAUSE = 0.1  # between two looks at a phone that is still connecting, or still listed
_FAREWELLS = 10  # looks at a list that still shows what the server has been made to drop

# The server lists all that adbd announced; these are between the two of them.
_NOT_OURS = frozenset({"", "delayed_ack"})


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
            DeadlineError: Something accepts connections there, but is silent; names it.
        """
        where = address or ServerAddress.from_environment()
        hello = deadline.within(f"answer of the adb server on {where}", _HELLO_SECONDS)
        try:
            version = query(where, "host:version", hello)
            if not version.isalnum():  # int() would take a sign
                raise ValueError(f"{version[:40]!r} is no version")
            protocol = int(version, 16)
        except DeadlineError as error:
            error.hint = "if it is no adb server, end it, or name another port: ANDROID_ADB_SERVER_PORT"
            raise
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
        listed = list_phones(self._address, deadline)
        refused: dict[str, str] = {}
        for attempt in range(_RECONNECTS):
            stale = [each for each in sorted(wanted - refused.keys()) if _is_stale(listed.get(each))]
            if not stale:
                break
            time.sleep(deadline.capped(attempt * _RECONNECT_PAUSE))
            # The server drops its old connection in its own time, and may take the new one along with it:
            # that it is connected counts only once it is listed.
            said = self._reconnect(stale, deadline)
            refused |= {address: reason for address, reason in said.items() if reason}
            listed = list_phones(self._address, deadline)
        for _ in range(_FAREWELLS):
            if not any(_is_offline(listed.get(each)) for each in refused):
                break
            time.sleep(deadline.capped(_PAUSE))  # on its way out of the list
            listed = list_phones(self._address, deadline)
        return absent(listed, wanted, refused)

    def connect(self, serial: str, deadline: Deadline, *, authorize: float | None = None) -> ServerConnection:
        """See :meth:`Transport.connect <devicelab.adb.connection.Transport.connect>`.

        Raises:
            AdbUnavailableError: The server is gone.
        """
        del authorize  # the server keeps the question open for as long as the phone is there
        features = self._features(serial, deadline)
        listed = list_phones(self._address, deadline).get(serial)
        connection = ServerConnection(
            self._address, serial, features - _NOT_OURS, listed.banner if listed is not None else {}
        )
        try:
            connection.verify(deadline)
        except BaseException:
            connection.close()
            raise
        return connection

    def watch(self, addresses: Sequence[str], stop: Event) -> Iterator[list[Endpoint]]:
        """See :meth:`Transport.watch <devicelab.adb.connection.Transport.watch>`.

        Raises:
            AdbUnavailableError: The server is gone and none came back within a few seconds.
        """
        return watch_server(self._address, {str(require_address(address)) for address in addresses}, stop)

    def close(self) -> None:
        """Nothing is held between calls."""

    def _reconnect(self, addresses: Sequence[str], deadline: Deadline) -> dict[str, str]:
        """Connect anew to each, all at once; tells why not, "" where the server says that it has."""
        limit = min(_RECONNECT_SECONDS, 0.8 * deadline.remaining())  # leaves time for the listing
        never = Event()
        with ThreadPoolExecutor(min(16, len(addresses)), thread_name_prefix="adb-connect") as pool:
            parts = [deadline.within(f"connection to {address}", limit) for address in addresses]
            said = pool.map(lambda each, part: reconnect(self._address, each, part, never), addresses, parts)
            return dict(zip(addresses, said, strict=True))

    def _features(self, serial: str, deadline: Deadline) -> frozenset[str]:
        """Ask until the phone is past connecting; an address that is stale is connected to."""
        mends = 0 if parse_address(serial) is None else _RECONNECTS
        while True:
            try:
                block = query(self._address, f"host-serial:{serial}:features", deadline)
            except RefusedError as refusal:
                reason = str(refusal)
                if mends and is_loss(reason):
                    mends -= 1
                    said = reconnect(self._address, serial, deadline, Event())
                    if said:
                        raise DeviceLostError(said, device=serial, hint=LOST_HINT) from refusal
                elif "still" not in reason:  # "device still connecting", "device still authorizing"
                    raise explain_refusal(serial, reason) from refusal
                time.sleep(deadline.capped(_PAUSE))
            else:
                return frozenset(block.decode("utf-8", "replace").split(","))


def _is_offline(listed: Listed | None) -> bool:
    return listed is not None and listed.endpoint.detail == "offline"


def _is_stale(listed: Listed | None) -> bool:
    return listed is None or _is_offline(listed)
