"""Phones on TCP by address: what a valid one looks like, where its name leads, and whether anything answers."""

from __future__ import annotations

import errno
import ipaddress
import os
import queue
import re
import select
import socket
import threading
import time
from collections.abc import Mapping
from typing import NamedTuple

from devicelab.errors import ConfigError

__all__ = ["Address", "Resolver", "SocketAddress", "parse_address", "probe", "require_address"]

_ADDRESS = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|(?P<name>\w[\w.-]*)):(?P<port>\d{1,5})", re.ASCII
)
_DEFAULT_PORT = 5555  # adb's

_REMEMBERED = 30.0  # seconds for which a resolved name is taken as still right


class Address(NamedTuple):
    """Where a phone on TCP is.

    Attributes:
        host: Name, IPv4 address, or IPv6 address without brackets.
        port: 1 to 65535.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class SocketAddress(NamedTuple):
    """One numeric address that a name leads to.

    Attributes:
        family: AF_INET or AF_INET6.
        address: What socket.connect() takes.
    """

    family: int
    address: tuple[str, int] | tuple[str, int, int, int]


def parse_address(text: str) -> Address | None:
    """Read ``host:port``, or ``[IPv6]:port``; None if it is neither."""
    found = _ADDRESS.fullmatch(text)
    if found is None or not 1 <= int(found["port"]) <= 65535:
        return None
    if found["six"] is None:
        return Address(found["name"], int(found["port"]))
    try:
        ipaddress.IPv6Address(found["six"])
    except ValueError:
        return None
    return Address(found["six"], int(found["port"]))


def require_address(text: str) -> Address:
    """As :func:`parse_address`; without a port, adb's usual one is meant.

    Raises:
        ConfigError: It is not an address.
    """
    address = parse_address(text) or parse_address(f"{text}:{_DEFAULT_PORT}")
    if address is None:
        raise ConfigError(
            f"{text!r} is not the address of a phone", hint="Write HOST:PORT, an IPv6 address as [::1]:5555."
        )
    return address


class Resolver:
    """Turns names into numbers with a time limit, and remembers them for half a minute."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, list[SocketAddress]]] = {}

    def resolve(self, address: Address, seconds: float) -> list[SocketAddress]:
        """All addresses of a host, in the system's order of preference.

        Args:
            address: Whose.
            seconds: How long to wait for a name server.

        Raises:
            OSError: There is no such host, or nobody says so in time.
        """
        try:  # numbers need no name server
            return _lookup(address, socket.AI_NUMERICHOST)
        except socket.gaierror:
            pass
        with self._lock:
            expires, found = self._known.get(address.host, (0.0, []))
        if time.monotonic() >= expires:
            found = _lookup_within(address, seconds)
            with self._lock:
                self._known[address.host] = time.monotonic() + _REMEMBERED, found
        return [_with_port(target, address.port) for target in found]


def _with_port(target: SocketAddress, port: int) -> SocketAddress:
    host, _, *scope = target.address
    return SocketAddress(target.family, (host, port, *scope))  # type: ignore[arg-type]  # two or four parts


def _lookup(address: Address, flags: int = 0) -> list[SocketAddress]:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=flags)
    except UnicodeError as error:  # an empty or overlong label, which no name server could be asked for
        raise socket.gaierror(socket.EAI_NONAME, f"no host can be called so: {error}") from error
    return [SocketAddress(family, target) for family, _, _, _, target in found]  # type: ignore[arg-type]  # never AF_UNIX


def _lookup_within(address: Address, seconds: float) -> list[SocketAddress]:
    """Look up with a time limit.

    getaddrinfo() has none of its own, so a thread waits for it; left alone, it ends when the system's resolver
    gives up.
    """
    answers: queue.SimpleQueue[list[SocketAddress] | OSError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(_lookup(address))
        except OSError as error:
            answers.put(error)

    threading.Thread(target=ask, name=f"resolve {address.host}", daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(errno.ETIMEDOUT, "its name is not resolved in time") from None
    if isinstance(answer, OSError):
        raise answer
    return answer


def probe(targets: Mapping[str, Address], resolver: Resolver, seconds: float) -> dict[str, str | None]:
    """Try to connect to many addresses at once, and hang up again.

    Args:
        targets: Addresses by a name of the caller's.
        resolver: For their hosts.
        seconds: How long to wait for those that do not answer.

    Returns:
        For each name None if something listens there, else why it could not be reached.
    """
    end = time.monotonic() + seconds
    verdicts: dict[str, str | None] = {}
    attempts: dict[int, tuple[str, socket.socket]] = {}
    poller = select.poll()
    try:
        for name, address in targets.items():
            try:
                found = resolver.resolve(address, max(0.0, end - time.monotonic()))
            except OSError as error:
                verdicts[name] = error.strerror or str(error)
                continue
            verdicts[name] = "no answer"
            for target in found:
                _begin(name, target, attempts, poller, verdicts)
        while attempts and (left := end - time.monotonic()) > 0:
            for descriptor, _ in poller.poll(left * 1000):
                name, attempt = attempts.pop(descriptor)
                poller.unregister(descriptor)
                _note(verdicts, name, attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
                attempt.close()
    finally:
        for _, attempt in attempts.values():
            attempt.close()
    return verdicts


def _begin(
    name: str,
    target: SocketAddress,
    attempts: dict[int, tuple[str, socket.socket]],
    poller: select.poll,
    verdicts: dict[str, str | None],
) -> None:
    try:
        attempt = socket.socket(target.family, socket.SOCK_STREAM)
    except OSError as error:  # a host without IPv6
        _note(verdicts, name, error.errno or errno.EAFNOSUPPORT)
        return
    attempt.settimeout(0.0)
    code = attempt.connect_ex(target.address)
    if code == errno.EINPROGRESS:
        attempts[attempt.fileno()] = name, attempt
        poller.register(attempt, select.POLLOUT)
    else:
        attempt.close()
        _note(verdicts, name, code)


def _note(verdicts: dict[str, str | None], name: str, code: int) -> None:
    """Keep the best news of a host with several addresses."""
    if code == 0:
        verdicts[name] = None
    elif verdicts[name] is not None:
        verdicts[name] = os.strerror(code)
