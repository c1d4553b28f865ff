"""Following the adb server's list of phones, and bringing back those on TCP that went away."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from threading import Event

from devicelab.adb.connection import Endpoint, EndpointState
from devicelab.adb.listing import Listed, list_phones, parse_listing
from devicelab.adb.malformed import MalformedError
from devicelab.adb.program import ServerAddress
from devicelab.adb.reconnect import absent, reconnect
from devicelab.adb.smartsocket import BlockDecoder, RefusedError, SmartSocket
from devicelab.deadline import Deadline
from devicelab.errors import AdbUnavailableError, DeadlineError

__all__ = ["watch_server"]

_TICK = 0.25  # seconds; how often ``stop`` and the reconnects are looked at
_YIELD = 0.7  # seconds, and at most a tick more, between two lists that are the same
_ANSWER = 5.0  # seconds for the server to answer; it takes a millisecond
_ASK = 0.5  # seconds between two questions for the list
_RETRY = 0.5  # seconds between two attempts to reach one address
_ATTEMPT = 5.0  # seconds for one attempt
_STALE = 1.5  # seconds offline before an address is dropped and connected anew: it may just be shaking hands
_RESTART = 5.0  # seconds in which a server that went away may come back (Android Studio restarts it, for one)


def watch_server(address: ServerAddress, wanted: set[str], stop: Event) -> Iterator[list[Endpoint]]:
    """Yield what :meth:`Transport.watch <devicelab.adb.connection.Transport.watch>` promises.

    Args:
        address: The adb server's.
        wanted: Phones on TCP, as the server lists them.
        stop: Ends the iteration.

    Raises:
        AdbUnavailableError: The server is gone, and none came back within five seconds.
    """
    reconnects = _Reconnects(address, wanted)
    try:
        gone_since: float | None = None
        last: list[Endpoint] = []
        due = 0.0
        while not stop.is_set():
            try:
                for listed in _follow(address, stop):
                    gone_since = None
                    reconnects.look(listed)
                    endpoints = absent(listed, wanted, reconnects.said)
                    if endpoints != last or time.monotonic() >= due:
                        last, due = endpoints, time.monotonic() + _YIELD
                        yield endpoints
            except (AdbUnavailableError, DeadlineError):
                now = time.monotonic()
                gone_since = now if gone_since is None else gone_since
                if now - gone_since > _RESTART:
                    raise
                yield [
                    replace(endpoint, state=EndpointState.OFFLINE, detail="no adb server") for endpoint in last
                ]
                stop.wait(_TICK)
    finally:
        reconnects.close()


def _follow(address: ServerAddress, stop: Event) -> Iterator[dict[str, Listed]]:
    """Yield the listing at once, whenever it changes, and with every tick.

    Arrivals are told by the tracking stream. It is not relied on for more, because the server of adb 29 tells
    nobody when a phone goes offline: the list is also asked for now and then.
    """
    with _track(address) as smart:
        decoder = BlockDecoder()
        listed = list_phones(address, Deadline("list of devices", _ANSWER))
        asked = time.monotonic()
        while not stop.is_set():
            yield listed
            try:
                blocks = _receive(smart, decoder)
            except DeadlineError:
                blocks = []
            if blocks:
                listed = parse_listing(blocks[-1])
            elif time.monotonic() - asked >= _ASK:
                listed = list_phones(address, Deadline("list of devices", _ANSWER))
                asked = time.monotonic()


def _track(address: ServerAddress) -> SmartSocket:
    """A connection on which the server sends its list whenever it changes; the short one if need be."""
    for service in ("host:track-devices-l", "host:track-devices"):
        deadline = Deadline(f"reply to `{service}`", _ANSWER)
        smart = SmartSocket(address, deadline)
        try:
            smart.request(service, deadline)
        except RefusedError:
            smart.close()
        except BaseException:
            smart.close()
            raise
        else:
            return smart
    raise AdbUnavailableError(f"the adb server on {address} does not report changes of its phones")


def _receive(smart: SmartSocket, decoder: BlockDecoder) -> list[bytes]:
    try:
        data = smart.socket.receive(65536, Deadline("change of the phones", _TICK))
        if not data:
            raise ConnectionResetError("it hung up")
        return decoder.feed(data)
    except (OSError, MalformedError) as error:
        raise AdbUnavailableError(
            f"the adb server on {smart.address} went away: {error}", hint="adb start-server"
        ) from error


class _Reconnects:
    """Attempts to reach the wanted addresses that are missing, at most one at a time for each."""

    def __init__(self, server: ServerAddress, wanted: set[str]) -> None:
        self.said: dict[str, str] = {}  # why an address was not reached, last time
        self._server = server
        self._wanted = wanted
        self._stop = Event()
        self._pool = ThreadPoolExecutor(max(1, min(16, len(wanted))), thread_name_prefix="adb-connect")
        self._pending: dict[str, Future[str]] = {}
        self._not_before: dict[str, float] = {}

    def look(self, listed: Mapping[str, Listed]) -> None:
        """Take the results of attempts that ended, and start those that are due."""
        now = time.monotonic()
        for address, attempt in list(self._pending.items()):
            if attempt.done():
                del self._pending[address]
                self._not_before[address] = now + _RETRY
                self.said[address] = _result(attempt)
        for address in self._wanted:
            phone = listed.get(address)
            if phone is not None and phone.endpoint.detail != "offline":
                self._not_before.pop(address, None)
                continue
            if phone is not None:
                self._not_before.setdefault(address, now + _STALE)
            if address not in self._pending and now >= self._not_before.get(address, now):
                self._pending[address] = self._pool.submit(self._attempt, address)

    def close(self) -> None:
        """Give up what is under way; takes no longer than a look at the stop event."""
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)

    def _attempt(self, address: str) -> str:
        deadline = Deadline(f"connection to {address}", _ATTEMPT)
        return reconnect(self._server, address, deadline, self._stop)


def _result(attempt: Future[str]) -> str:
    try:
        return attempt.result()
    except AdbUnavailableError as error:  # the tracking stream sees the same, and deals with it
        return error.message
