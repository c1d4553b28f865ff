"""The gate between a virtual phone's port and its adbd: what adbd cannot be told from outside.

adbd runs unmodified, with authorization off and the newest protocol. The gate stands in the relay, takes part
in the handshake of each connection and then steps aside: it asks for authorization as Android does, and lowers
the protocol version and payload size in both CNXN packets, so that an old phone is old on the wire too. ::

    host                      gate                         adbd
     ── CNXN ─────────────────▶
     ◀──────────── AUTH token ──
     ── AUTH signature ───────▶   known key: on to CNXN; else another token, until the host has no more keys
     ── AUTH public key ──────▶   a question on the phone's screen; the host waits
                               ── CNXN, lowered ───────────▶
     ◀────────── CNXN, lowered ◀────────────────────────────
     ◀═══════════════════════ bytes, untouched ════════════▶
"""

from __future__ import annotations

import logging
import os
import select
import socket
from collections.abc import Callable

from devicelab.deadline import Deadline
from devicelab.errors import DeadlineError, VirtualPhoneError
from devicelab.virtual.authorization import (
    TOKEN_SIZE,
    Answer,
    Authorization,
    KeyFormatError,
    OpenQuestion,
    parse_public_key,
)
from devicelab.virtual.packets import (
    AUTH,
    AUTH_PUBLIC_KEY,
    AUTH_SIGNATURE,
    AUTH_TOKEN,
    CNXN,
    HANDSHAKE_LIMIT,
    HEADER_SIZE,
    MAX_PAYLOAD,
    MIN_PAYLOAD,
    VERSION_CHECKSUMS,
    Packet,
    PacketError,
    limit_connect,
    pack,
    unpack_header,
)

__all__ = ["Gate"]

_log = logging.getLogger(__name__)

_SIGNATURES_LIMIT = 64  # keys that one host may try on one connection


class Gate:
    """What every connection to one phone has to pass; holds no connection itself, so threads may share it.

    Args:
        authorization: Who may come in.
        version: The highest protocol version to let through; None for adbd's own.
        max_payload: The largest payload to let through, in bytes; None for adbd's own.

    Raises:
        VirtualPhoneError: No ADB version has such a limit.
    """

    def __init__(self, *, authorization: Authorization, version: int | None, max_payload: int | None) -> None:
        if version is not None and version < VERSION_CHECKSUMS:
            raise VirtualPhoneError(f"there is no ADB version below {VERSION_CHECKSUMS:#010x}")
        if max_payload is not None and not MIN_PAYLOAD <= max_payload <= MAX_PAYLOAD:
            raise VirtualPhoneError(f"ADB payloads are limited to {MIN_PAYLOAD} … {MAX_PAYLOAD} bytes")
        self.authorization = authorization
        self._version = version
        self._max_payload = max_payload

    def handshake(
        self, host: socket.socket, open_phone: Callable[[], socket.socket], deadline: Deadline
    ) -> socket.socket | None:
        """Take one connection to the point where its bytes may flow freely.

        A gate with nothing to ask and nothing to lower opens at once, and the handshake itself is adbd's.

        Two waits last as long as the host stays: for the phone's owner, and for adbd (which may be frozen).
        Shutting the host's socket down ends them.

        Args:
            host: The accepted connection. Stays the caller's; blocking when this returns.
            open_phone: Connects to adbd; called once the host may come in.
            deadline: For everything that the host has to say.

        Returns:
            The connection to adbd, the caller's from now on; or None where the host was refused or hung up, or
            adbd did: then the caller closes ``host``. The log has the reason.
        """
        try:
            if not self._has_work:
                return open_phone()
            hello = self._read_hello(host, deadline)
            if self.authorization.required and not self._authorize(host, deadline):
                return None
            return self._introduce(host, hello, open_phone, deadline)
        except (PacketError, KeyFormatError, VirtualPhoneError, DeadlineError, OSError) as error:
            _log.info("connection refused: %s", error)
            return None
        finally:
            if host.fileno() >= 0:
                host.settimeout(None)

    @property
    def _has_work(self) -> bool:
        return self.authorization.required or self._version is not None or self._max_payload is not None

    def _read_hello(self, host: socket.socket, deadline: Deadline) -> Packet:
        hello = _read_packet(host, deadline)
        if hello.command != CNXN:
            raise PacketError(f"{hello.command.decode()} before CNXN")
        return hello

    def _authorize(self, host: socket.socket, deadline: Deadline) -> bool:
        """Let the host prove that it holds a trusted key, or ask; False when it hung up before the answer."""
        for _ in range(_SIGNATURES_LIMIT):
            token = os.urandom(TOKEN_SIZE)
            host.sendall(pack(Packet(AUTH, AUTH_TOKEN, 0, token)))
            reply = _read_packet(host, deadline)
            if reply.command != AUTH:
                raise PacketError(f"{reply.command.decode()} where AUTH was due")
            if reply.arg0 == AUTH_PUBLIC_KEY:
                with self.authorization.ask(parse_public_key(reply.payload)) as opened:
                    return _await_answer(host, opened)
            if reply.arg0 != AUTH_SIGNATURE:
                raise PacketError(f"AUTH of unknown type {reply.arg0}")
            if self.authorization.accepts(token, reply.payload):
                return True
        raise PacketError(f"{_SIGNATURES_LIMIT} unknown keys and no public key")

    def _introduce(
        self, host: socket.socket, hello: Packet, open_phone: Callable[[], socket.socket], deadline: Deadline
    ) -> socket.socket | None:
        """Pass both ends' CNXN on, lowered."""
        phone = open_phone()
        try:
            phone.sendall(pack(self._lower(hello)))
            if not _await_phone(host, phone):
                phone.close()
                return None
            # The owner may have thought for longer than the host was given, so adbd gets a clock of its own.
            reply = _read_packet(phone, Deadline("adbd's CNXN", deadline.seconds, deadline.device))
            if reply.command != CNXN:
                raise PacketError(f"adbd answered CNXN with {reply.command.decode()}")
            host.sendall(pack(self._lower(reply)))
            phone.settimeout(None)
        except BaseException:
            phone.close()
            raise
        return phone

    def _lower(self, packet: Packet) -> Packet:
        return limit_connect(packet, version=self._version, max_payload=self._max_payload)


def _await_answer(host: socket.socket, opened: OpenQuestion) -> bool:
    """Wait for the phone's owner; False once the host has hung up.

    Android tells a denied host nothing: the question goes away and the host stays unauthorized until it is
    unplugged (AOSP, ``adbd_auth.cpp``).
    """
    poll = select.poll()
    poll.register(host, select.POLLRDHUP)
    poll.register(opened.wake, select.POLLIN)
    ready = {fd for fd, _ in poll.poll()}
    if opened.wake not in ready:
        return False
    if opened.answer is not Answer.DENY:
        return True
    poll.unregister(opened.wake)
    poll.poll()
    return False


def _await_phone(host: socket.socket, phone: socket.socket) -> bool:
    """Wait until adbd says something or hangs up; False if the host does so first."""
    poll = select.poll()
    poll.register(host, select.POLLRDHUP)
    poll.register(phone, select.POLLIN)
    return phone.fileno() in {fd for fd, _ in poll.poll()}


def _read_packet(peer: socket.socket, deadline: Deadline) -> Packet:
    """Exactly one packet, so that what follows it stays in the socket."""
    header = unpack_header(_read_exactly(peer, HEADER_SIZE, deadline), limit=HANDSHAKE_LIMIT)
    return Packet(header.command, header.arg0, header.arg1, _read_exactly(peer, header.length, deadline))


def _read_exactly(peer: socket.socket, size: int, deadline: Deadline) -> bytes:
    data = bytearray()
    while len(data) < size:
        peer.settimeout(deadline.remaining())
        try:
            part = peer.recv(size - len(data))
        except TimeoutError:
            raise deadline.error() from None
        if not part:
            raise ConnectionResetError("hung up in the handshake")
        data += part
    return bytes(data)
