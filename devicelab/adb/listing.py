"""What the adb server says of its phones: ``host:devices-l``, ``host:track-devices-l``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from devicelab.adb.connection import Endpoint, EndpointState
from devicelab.adb.program import ServerAddress
from devicelab.adb.smartsocket import RefusedError, query
from devicelab.deadline import Deadline
from devicelab.errors import AdbUnavailableError

__all__ = ["Listed", "list_phones", "parse_listing"]

_NO_SERIAL = "(no serial number)"
_PROPERTY = re.compile(r"(product|model|device|transport_id):(\S+)")
_BANNER = {"product": "ro.product.name", "model": "ro.product.model", "device": "ro.product.device"}
_STATES = {"device": EndpointState.ONLINE, "unauthorized": EndpointState.UNAUTHORIZED}


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of the listing.

    Attributes:
        endpoint: Serial, state, and the server's own word for a state other than online.
        banner: Properties of adbd's banner as far as the server shows them. It writes every character of a
            model that is no letter or digit as "_".
    """

    endpoint: Endpoint
    banner: Mapping[str, str] = field(default_factory=dict)


def list_phones(server: ServerAddress, deadline: Deadline) -> dict[str, Listed]:
    """What the server lists now, by serial.

    Raises:
        AdbUnavailableError: The server is gone, or lists nothing at all.
        DeadlineError: It is silent.
    """
    try:
        return parse_listing(query(server, "host:devices-l", deadline))
    except RefusedError as refusal:
        raise AdbUnavailableError(f"the adb server lists no phones: {refusal}") from refusal


def parse_listing(block: bytes) -> dict[str, Listed]:
    """Read a listing, with or without ``-l``, into its phones by serial.

    A line is ``SERIAL STATE [USB path] [product:… model:… device:… transport_id:…]``, the serial padded with
    blanks or followed by a tab; the state may be several words ("no permissions (…); see …"). Cheap phones may
    share a serial: the one that is online counts, else the first.
    """
    phones: dict[str, Listed] = {}
    for line in block.decode("utf-8", "replace").splitlines():
        listed = _parse_line(line)
        if listed is None:
            continue
        known = phones.get(listed.endpoint.serial)
        if known is None or known.endpoint.state is not EndpointState.ONLINE:
            phones[listed.endpoint.serial] = listed
    return phones


def _parse_line(line: str) -> Listed | None:
    if line.startswith(_NO_SERIAL):
        serial, rest = _NO_SERIAL, line[len(_NO_SERIAL) :].strip()
    else:
        serial, _, rest = line.replace("\t", " ", 1).partition(" ")
        rest = rest.strip()
    if not serial or not rest:
        return None
    properties = dict(_PROPERTY.findall(rest))
    banner = {_BANNER[key]: value for key, value in properties.items() if key in _BANNER}
    if rest.startswith("no permissions"):
        reason = _PROPERTY.sub("", rest).strip()
        return Listed(Endpoint(serial, EndpointState.NO_PERMISSION, reason), banner)
    word = rest.split(maxsplit=1)[0]
    state = _STATES.get(word, EndpointState.OFFLINE)
    detail = "" if state is EndpointState.ONLINE else word
    return Listed(Endpoint(serial, state, detail), banner)
