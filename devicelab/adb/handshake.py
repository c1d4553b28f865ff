"""The first packets of a connection: who are you, may I come in, what do we both know."""

from __future__ import annotations

from devicelab.adb.keys import TOKEN_SIZE, HostKey, KeyRing
from devicelab.adb.link import Link
from devicelab.adb.multiplex import Session
from devicelab.adb.packets import (
    HEADER_SIZE,
    MAX_PAYLOAD,
    MAX_PAYLOAD_V1,
    VERSION,
    Auth,
    Command,
    Header,
    check_payload,
    checksum,
    host_banner,
    pack_header,
    parse_banner,
    parse_header,
)
from devicelab.deadline import Deadline
from devicelab.errors import (
    DeadlineError,
    DeviceLostError,
    DeviceNotReadyError,
    DeviceUnauthorizedError,
    ProtocolError,
)

__all__ = ["HungUpError", "hung_up", "shake_hands"]

_MAX_STRAY = 1000  # packets left over from an earlier connection over the same USB endpoints

# What answers as one of these has no Android running; the words are AOSP's (adb.cpp, parse_banner).
_NOT_ANDROID = {"bootloader", "recovery", "rescue", "sideload"}


class HungUpError(Exception):
    """The phone hung up before it said a word; the reason is the only argument.

    A connection may be refused so because of the one before it: adbd names connections after their descriptors,
    and for as long as it has not taken leave of an ended one, it takes no other of the same name (AOSP's
    transport.cpp, register_socket_transport). A second attempt succeeds.
    """


def shake_hands(link: Link, serial: str, keys: KeyRing, authorize_wait: float, deadline: Deadline) -> Session:
    """Introduce ourselves and wait to be let in.

    Args:
        link: An open link on which nothing has been said yet.
        serial: The phone's serial, for errors.
        keys: What to sign challenges with.
        authorize_wait: Seconds to wait for somebody to press "Allow" once no key is known to the phone.
        deadline: For all of it.

    Raises:
        DeadlineError: The phone is silent.
        HungUpError: It hung up at once.
        DeviceLostError: It hung up later.
        DeviceNotReadyError: It is not running Android, or it speaks TLS only.
        DeviceUnauthorizedError: It knows none of our keys.
        ProtocolError: What it says is not ADB.
    """
    return _Handshake(link, serial, keys, authorize_wait, deadline).run()


def hung_up(serial: str, reason: str) -> DeviceLostError:
    """The error that it means if a phone hangs up during the handshake."""
    return DeviceLostError(
        f"hung up during the handshake: {reason}",
        device=serial,
        hint="Something else may listen there, or another adb may hold the phone.",
    )


class _Handshake:
    def __init__(
        self, link: Link, serial: str, keys: KeyRing, authorize_wait: float, deadline: Deadline
    ) -> None:
        self._link = link
        self._serial = serial
        self._keys = keys
        self._authorize_wait = authorize_wait
        self._deadline = deadline
        self._untried: list[HostKey] | None = None  # None until the phone asks
        self._offered: HostKey | None = None  # the key that the phone's owner may allow now
        self._heard = False

    def run(self) -> Session:
        try:
            self._send(Command.CNXN, VERSION, MAX_PAYLOAD, host_banner())
            for _ in range(_MAX_STRAY):
                header, payload = self._receive()
                if header.command is Command.CNXN:
                    return self._session(header, payload)
                if header.command is Command.AUTH:
                    self._authenticate(header, payload)
                elif header.command is Command.STLS:
                    raise DeviceNotReadyError(
                        "wants TLS, which Wi-Fi debugging speaks with paired hosts only",
                        device=self._serial,
                        hint="Pair with `adb pair`, then reach it through the adb server: --transport server.",
                    )
        except (DeadlineError, TimeoutError) as error:
            raise self._too_late() from error
        except OSError as error:
            if self._offered is not None:
                raise self._unauthorized(self._offered) from error
            if not self._heard:
                raise HungUpError(error.strerror or str(error)) from error
            raise hung_up(self._serial, error.strerror or str(error)) from error
        raise ProtocolError(f"sent {_MAX_STRAY} packets, but never CNXN", device=self._serial)

    def _session(self, header: Header, payload: bytes) -> Session:
        sums = header.arg0 < VERSION
        if sums:
            check_payload(header, payload, self._serial)
        if header.arg1 < MAX_PAYLOAD_V1:
            raise ProtocolError(
                f"takes packets of {header.arg1} bytes; {MAX_PAYLOAD_V1} is the least that ADB allows",
                device=self._serial,
            )
        banner = parse_banner(payload, self._serial)
        if banner.kind in _NOT_ANDROID:
            raise DeviceNotReadyError(
                f"is in {banner.kind} mode, Android is not running",
                device=self._serial,
                hint="Reboot it into Android.",
            )
        return Session(banner, min(header.arg1, MAX_PAYLOAD), sums)

    def _authenticate(self, header: Header, payload: bytes) -> None:
        """Answer a challenge with the next key, or offer the first one to whoever holds the phone."""
        if header.arg0 != Auth.TOKEN or len(payload) != TOKEN_SIZE:
            raise ProtocolError(
                f"sent an AUTH of type {header.arg0} with {len(payload)} bytes, not a token of {TOKEN_SIZE}",
                device=self._serial,
            )
        if self._offered is not None:
            raise self._unauthorized(self._offered)
        if self._untried is None:
            self._untried = self._keys.keys()
        if self._untried:
            self._send(Command.AUTH, Auth.SIGNATURE, 0, self._untried.pop(0).sign(payload))
            return
        self._offered = self._keys.keys()[0]
        self._send(Command.AUTH, Auth.PUBLIC_KEY, 0, self._offered.public_line + b"\0")
        self._deadline = self._deadline.within('somebody to press "Allow"', self._authorize_wait)

    def _too_late(self) -> DeadlineError | DeviceUnauthorizedError:
        if self._offered is not None:
            return self._unauthorized(self._offered)
        error = self._deadline.error()
        error.device = error.device or self._serial
        error.hint = "It accepts the connection but says nothing: frozen, or another adb holds it."
        return error

    def _unauthorized(self, key: HostKey) -> DeviceUnauthorizedError:
        return DeviceUnauthorizedError(
            "does not allow this computer yet",
            device=self._serial,
            hint='Unlock the phone, tick "Always allow from this computer" and press "Allow" in its dialog '
            f'"Allow USB debugging?"; the RSA key fingerprint there should be {key.fingerprint}.',
        )

    def _send(self, command: Command, arg0: int, arg1: int, payload: bytes) -> None:
        # With a checksum whatever the version: we learn the phone's only from its answer. Header and payload
        # go one by one because over USB each has to be a transfer of its own.
        header = pack_header(command, arg0, arg1, len(payload), checksum(payload))
        self._link.bulk_write(header, self._deadline.remaining())
        self._link.bulk_write(payload, self._deadline.remaining())

    def _receive(self) -> tuple[Header, bytes]:
        header = parse_header(self._exactly(HEADER_SIZE), self._serial)
        return header, self._exactly(header.length)

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            data += self._link.bulk_read(size - len(data), self._deadline.remaining())
            self._heard = True
        return bytes(data)
