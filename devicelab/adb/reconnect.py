"""Making the adb server look for a phone on TCP again."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from threading import Event

from devicelab.adb.connection import Endpoint, EndpointState
from devicelab.adb.listing import Listed
from devicelab.adb.malformed import MalformedError
from devicelab.adb.program import ServerAddress
from devicelab.adb.smartsocket import BlockDecoder, RefusedError, SmartSocket, query
from devicelab.deadline import Deadline
from devicelab.errors import AdbUnavailableError, DeadlineError

__all__ = ["absent", "forget", "reconnect"]

_LOOK_UP = 0.2  # seconds between two looks at ``stop``


def reconnect(server: ServerAddress, address: str, deadline: Deadline, stop: Event) -> str:
    """Drop what the server remembers of an address, and connect anew.

    A phone that came back is otherwise found again only after up to ten seconds, and meanwhile the server
    answers "already connected".

    Args:
        server: Where the adb server listens.
        address: The phone's ``host:port``.
        deadline: Past it the server is left to its own attempt.
        stop: Ends the wait early.

    Returns:
        "" if the server has a connection now (the phone may still want to be authorized), else why not.

    Raises:
        AdbUnavailableError: The server is gone.
    """
    try:
        query(server, f"host:disconnect:{address}", deadline)
    except RefusedError:
        pass  # it knew nothing of the address
    except DeadlineError as error:
        return error.message
    try:
        answer = _connect(server, f"host:connect:{address}", deadline, stop)
    except RefusedError as refusal:
        return str(refusal)
    except DeadlineError as error:
        return error.message
    # OKAY stands in front of failures, too; only the words tell.
    if answer.startswith(("connected to", "already connected to", "failed to authenticate")):
        return ""
    return answer.removeprefix(f"failed to connect to '{address}': ")


def forget(server: ServerAddress, address: str, deadline: Deadline) -> None:
    """Make a running server drop what it remembers of an address; nothing happens where no server runs.

    Raises:
        DeadlineError: The server is silent.
    """
    with suppress(RefusedError, AdbUnavailableError):  # it knew nothing of the address, or there is no server
        query(server, f"host:disconnect:{address}", deadline)


def absent(listed: Mapping[str, Listed], wanted: set[str], said: Mapping[str, str]) -> list[Endpoint]:
    """What is listed, and the addresses that were asked for and are not, as absent with a reason."""
    endpoints = {serial: phone.endpoint for serial, phone in listed.items()}
    for address in wanted - endpoints.keys():
        endpoints[address] = Endpoint(address, EndpointState.ABSENT, said.get(address, ""))
    return [endpoints[serial] for serial in sorted(endpoints)]


def _connect(server: ServerAddress, service: str, deadline: Deadline, stop: Event) -> str:
    """The block that answers ``host:connect:…``, which may take the server ten seconds."""
    decoder = BlockDecoder()
    with SmartSocket(server, deadline) as smart:
        smart.request(service, deadline)
        while not stop.is_set():
            try:
                data = smart.socket.receive(4096, deadline.within("reply", _LOOK_UP))
            except DeadlineError:
                deadline.remaining()  # raises if it was the whole wait that ended
                continue
            except OSError as error:
                raise AdbUnavailableError(f"the adb server on {server} went away: {error}") from error
            try:
                blocks = decoder.feed(data)
            except MalformedError as error:
                raise AdbUnavailableError(f"what answers on {server} is no adb server: {error}") from error
            if blocks:
                return blocks[0].decode("utf-8", "replace")
            if not data:
                raise AdbUnavailableError(f"the adb server on {server} went away", hint="adb start-server")
    return "not looked for any more"
