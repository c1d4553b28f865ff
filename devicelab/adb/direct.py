"""The direct transport: we speak ADB's own packets to phones on TCP and USB, with no adb server between."""

from __future__ import annotations

import re
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Event

from devicelab.adb.addresses import Address, Resolver, parse_address, probe, require_address
from devicelab.adb.connection import Endpoint, EndpointState, TransportName
from devicelab.adb.direct_stream import DirectStream
from devicelab.adb.handshake import HungUpError, hung_up, shake_hands
from devicelab.adb.keys import KeyRing
from devicelab.adb.link import Link
from devicelab.adb.multiplex import Multiplexer, Session
from devicelab.adb.tcp import TcpLink
from devicelab.adb.usb import open_usb, usb_endpoints, usb_problem
from devicelab.closing import Closing
from devicelab.deadline import Deadline
from devicelab.errors import DeadlineError, DeviceLostError

__all__ = ["DirectConnection", "DirectTransport"]

_EMULATOR_PORTS = range(5555, 5586, 2)  # where the adb server looks for emulators, too
_EMULATOR = re.compile(r"emulator-(\d{1,5})")
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}

_PAUSES = (0.05, 0.15, 0.4)  # seconds before each new attempt to reach a phone that hung up at once
_PROBE = 1.0  # seconds for an address that does not answer
_POLL = 0.5  # seconds between two looks while watching, and for an address that does not answer then


class DirectConnection(Closing):
    """A :class:`~devicelab.adb.connection.Connection` over packets.

    Args:
        link: An open link whose handshake is done; owned from now on.
        session: What the handshake settled.
        serial: The ADB serial.
    """

    def __init__(self, link: Link, session: Session, serial: str) -> None:
        self._session = session
        self._multiplexer = Multiplexer(link, session, serial)

    @property
    def serial(self) -> str:
        """The ADB serial by which the phone was reached."""
        return self._multiplexer.serial

    @property
    def transport(self) -> TransportName:
        """``direct``."""
        return "direct"

    @property
    def features(self) -> frozenset[str]:
        """What adbd announced and this host can use."""
        return self._session.features

    @property
    def banner(self) -> Mapping[str, str]:
        """Properties in adbd's connection banner."""
        return self._session.banner.properties

    def alive(self) -> bool:
        """Whether the phone has not been lost; see :meth:`Connection.alive`."""
        return self._multiplexer.ended() is None

    def open(self, service: str, deadline: Deadline) -> DirectStream:
        """Open a service; see :meth:`Connection.open <devicelab.adb.connection.Connection.open>`."""
        return self._multiplexer.open(service, deadline)

    def close(self) -> None:
        """End all streams, the thread and the link."""
        self._multiplexer.close()


class DirectTransport:
    """A :class:`~devicelab.adb.connection.Transport` without an adb server.

    Args:
        keys_dir: Where adb's keys are; None: ``~/.android``. Read (and the key made) only when a phone asks.
        authorize_wait: Seconds that connect() by default gives somebody to press "Allow" on an unauthorized
            phone.
        scan_emulators: Whether to look for emulators on this machine.
        usb: Whether to look for phones on USB.
    """

    def __init__(
        self,
        *,
        keys_dir: Path | None = None,
        authorize_wait: float = 1.0,
        scan_emulators: bool = True,
        usb: bool = True,
    ) -> None:
        self._keys = KeyRing(keys_dir)
        self._authorize_wait = authorize_wait
        self._scan_emulators = scan_emulators
        self._usb = usb
        self._resolver = Resolver()
        self._connections: weakref.WeakSet[DirectConnection] = weakref.WeakSet()

    @property
    def name(self) -> TransportName:
        """``direct``."""
        return "direct"

    @property
    def description(self) -> str:
        """One line for people."""
        if not self._usb:
            return "direct to phones on TCP"
        problem = usb_problem()
        return (
            "direct to phones on TCP and USB"
            if problem is None
            else f"direct to phones on TCP; no USB: {problem}"
        )

    def endpoints(self, addresses: Sequence[str], deadline: Deadline) -> list[Endpoint]:
        """List what can be reached; see :meth:`Transport.endpoints`.

        A phone on TCP counts as online when something listens at its address, on USB when this user may open
        it: only connect() finds out more.

        Raises:
            ConfigError: An address is neither HOST:PORT nor HOST.
        """
        return self._list(addresses, deadline.capped(_PROBE))

    def connect(self, serial: str, deadline: Deadline, *, authorize: float | None = None) -> DirectConnection:
        """Reach one endpoint; see :meth:`Transport.connect <devicelab.adb.connection.Transport.connect>`.

        Raises:
            ConfigError: On USB: this host lacks libusb. Unauthorized phones: no key can be made.
            DeviceBusyError: On USB: another program holds the phone.
            DeviceLostError: Nothing there.
            DeviceNotReadyError: It runs no Android, wants TLS, or this user may not open it.
            DeviceUnauthorizedError: It wants somebody to press "Allow".
            DeadlineError: There, but silent.
            ProtocolError: What answers is not an adbd.
        """
        patience = self._authorize_wait if authorize is None else authorize
        pauses = iter(_PAUSES)
        while True:
            try:
                connection = self._connect(serial, patience, deadline)
            except HungUpError as error:
                pause = next(pauses, None)
                if pause is None or deadline.expired:
                    raise hung_up(serial, str(error)) from error
                time.sleep(deadline.capped(pause))
            else:
                self._connections.add(connection)
                return connection

    def watch(self, addresses: Sequence[str], stop: Event) -> Iterator[list[Endpoint]]:
        """Yield the endpoints twice a second until ``stop`` is set; see :meth:`Transport.watch`."""
        while not stop.is_set():
            began = time.monotonic()
            yield self._list(addresses, _POLL)
            stop.wait(max(0.0, began + _POLL - time.monotonic()))

    def close(self) -> None:
        """End the connections that are still open."""
        for connection in list(self._connections):
            connection.close()

    def _connect(self, serial: str, patience: float, deadline: Deadline) -> DirectConnection:
        link = self._open_link(serial, deadline)
        try:
            session = shake_hands(link, serial, self._keys, patience, deadline)
        except BaseException:
            link.shut_down()
            link.close()
            raise
        return DirectConnection(link, session, serial)

    def _list(self, addresses: Sequence[str], patience: float) -> list[Endpoint]:
        wanted = {str(address): address for address in map(require_address, addresses)}
        emulators = self._emulators(wanted) if self._scan_emulators else {}
        verdicts = probe(wanted | emulators, self._resolver, patience)
        found = {endpoint.serial: endpoint for endpoint in (usb_endpoints() if self._usb else ())}
        for serial, problem in verdicts.items():
            if problem is None:
                found[serial] = Endpoint(serial, EndpointState.ONLINE)
            elif serial in wanted:
                found[serial] = Endpoint(serial, EndpointState.ABSENT, problem)
        return [found[serial] for serial in sorted(found)]

    @staticmethod
    def _emulators(wanted: Mapping[str, Address]) -> dict[str, Address]:
        asked_for = {address.port for address in wanted.values() if address.host in _LOOPBACK}
        return {
            f"emulator-{port - 1}": Address("127.0.0.1", port)
            for port in _EMULATOR_PORTS
            if port not in asked_for
        }

    def _open_link(self, serial: str, deadline: Deadline) -> Link:
        address = parse_address(serial)
        if emulator := _EMULATOR.fullmatch(serial):
            address = Address("127.0.0.1", int(emulator[1]) + 1)
        if address is None and self._usb:
            return open_usb(serial)
        if address is None:
            raise DeviceLostError("is not HOST:PORT, and phones on USB are left out here", device=serial)
        return self._open_tcp(address, serial, deadline)

    def _open_tcp(self, address: Address, serial: str, deadline: Deadline) -> TcpLink:
        problem: OSError | None = None
        try:
            for target in self._resolver.resolve(address, deadline.remaining()):
                link = TcpLink(target.address[0], address.port)
                try:
                    link.connect(deadline.remaining())
                except OSError as error:
                    problem = error
                else:
                    return link
        except OSError as error:
            problem = error
        except DeadlineError as error:
            error.device = error.device or serial
            raise
        if isinstance(problem, TimeoutError):
            late = deadline.error()
            late.device = late.device or serial
            raise late from problem
        why = (problem.strerror or problem) if problem else "its name leads nowhere"
        raise DeviceLostError(
            f"cannot be reached: {why}",
            device=serial,
            hint="Is the phone on, in the same network, and listening (`adb tcpip 5555` over USB)?",
        ) from problem
