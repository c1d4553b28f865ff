"""The direct transport: listing, handshakes of every kind, watching, and how each failure is called."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from devicelab.adb import direct
from devicelab.adb.connection import Endpoint, EndpointState, Transport
from devicelab.adb.direct import DirectTransport
from devicelab.adb.keys import KeyRing
from devicelab.adb.packets import HOST_FEATURES, MAX_PAYLOAD
from devicelab.deadline import Deadline
from devicelab.errors import (
    ConfigError,
    DeadlineError,
    DeviceLostError,
    DeviceNotReadyError,
    DeviceUnauthorizedError,
    ProtocolError,
)
from tests.adb.hostile import Hostile, Peer
from tests.adb.polite import Polite, pattern
from tests.measures import idle


def soon(seconds: float = 20.0) -> Deadline:
    return Deadline("connect", seconds)


@pytest.fixture
def transport(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DirectTransport]:
    monkeypatch.delenv("ADB_VENDOR_KEYS", raising=False)
    opened = DirectTransport(
        keys_dir=tmp_path / ".android", authorize_wait=0.3, scan_emulators=False, usb=False
    )
    yield opened
    opened.close()


@pytest.fixture
def refused() -> Iterator[str]:
    """An address where nothing listens, and nothing will."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{unused.getsockname()[1]}"


def test_it_is_a_transport(transport: DirectTransport) -> None:
    assert isinstance(transport, Transport)
    assert transport.name == "direct"
    assert transport.description == "direct to phones on TCP"
    assert "USB" in DirectTransport().description


class TestEndpoints:
    def test_who_is_there_and_who_is_not(self, transport: DirectTransport, refused: str) -> None:
        with Polite() as phone:
            found = transport.endpoints([refused, phone.serial, phone.serial], soon())
        assert found == sorted(
            [
                Endpoint(phone.serial, EndpointState.ONLINE),
                Endpoint(refused, EndpointState.ABSENT, "Connection refused"),
            ],
            key=lambda endpoint: endpoint.serial,
        )

    def test_nothing_asked_for_nothing_found(self, transport: DirectTransport) -> None:
        assert transport.endpoints([], soon()) == []

    def test_nonsense_is_a_config_error(self, transport: DirectTransport) -> None:
        with pytest.raises(ConfigError, match="'not an address'"):
            transport.endpoints(["not an address"], soon())

    def test_a_spent_deadline_is_told(self, transport: DirectTransport) -> None:
        with pytest.raises(DeadlineError):
            transport.endpoints([], soon(0.0))

    def test_emulators_are_found_by_their_ports(self, refused: str, monkeypatch: pytest.MonkeyPatch) -> None:
        transport = DirectTransport(usb=False)
        with Polite() as phone:
            ports = (phone.port, int(refused.rpartition(":")[2]))
            monkeypatch.setattr(direct, "_EMULATOR_PORTS", ports)
            serial = f"emulator-{phone.port - 1}"
            assert transport.endpoints([], soon()) == [Endpoint(serial, EndpointState.ONLINE)]
            # Asked for by address: the same phone must not be listed twice.
            assert [found.serial for found in transport.endpoints([phone.serial], soon())] == [phone.serial]
            with transport.connect(serial, soon()) as connection:
                assert connection.serial == serial

    def test_the_ports_are_those_of_adb(self) -> None:
        assert list(direct._EMULATOR_PORTS) == list(range(5555, 5586, 2))


class TestConnect:
    def test_what_the_host_says_of_itself(self, transport: DirectTransport) -> None:
        hellos = []

        def script(peer: Peer) -> None:
            hellos.append(peer.shake())
            peer.linger()

        with Hostile(script) as phone, transport.connect(phone.serial, soon()):
            pass
        (hello,) = hellos
        assert (hello.arg0, hello.arg1) == (0x01000001, MAX_PAYLOAD)
        assert set(hello.payload.removeprefix(b"host::features=").decode().split(",")) == HOST_FEATURES
        assert hello.checksum == sum(hello.payload), "a phone of the first version would hang up"

    def test_by_name(self, transport: DirectTransport) -> None:
        with Polite() as phone, transport.connect(f"localhost:{phone.port}", soon()) as connection:
            assert connection.serial == f"localhost:{phone.port}"

    def test_nothing_there(self, transport: DirectTransport, refused: str) -> None:
        with pytest.raises(DeviceLostError, match="Connection refused") as caught:
            transport.connect(refused, soon())
        assert caught.value.device == refused
        assert caught.value.hint

    def test_no_such_name(self, transport: DirectTransport) -> None:
        with pytest.raises((DeviceLostError, DeadlineError)) as caught:
            transport.connect("no-such-phone.invalid:5555", soon(5.0))
        assert caught.value.device == "no-such-phone.invalid:5555"

    def test_a_serial_that_is_on_no_cable(self, transport: DirectTransport) -> None:
        for either in (transport, DirectTransport()):
            with pytest.raises(DeviceLostError, match="USB") as caught:
                either.connect("R58M0000000", soon())
            assert caught.value.device == "R58M0000000"

    @pytest.mark.parametrize("ask_first", [True, False])
    def test_a_silent_phone(self, transport: DirectTransport, ask_first: bool) -> None:
        def silent(peer: Peer) -> None:
            if ask_first:
                peer.sock.sendall(b"CNXN\1\0")  # and no more
            peer.linger()

        with Hostile(silent) as phone:
            began = time.monotonic()
            with idle(0.4), pytest.raises(DeadlineError, match=r"connect: no end within 0\.6 s") as caught:
                transport.connect(phone.serial, soon(0.6))
            took = time.monotonic() - began
        assert 0.5 < took < 15
        assert caught.value.device == phone.serial
        assert caught.value.hint

    def test_a_phone_whose_queue_is_full_does_not_answer_at_all(self, transport: DirectTransport) -> None:
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            fillers = [socket.socket() for _ in range(4)]
            for filler in fillers:
                filler.settimeout(0.0)
                filler.connect_ex(full.getsockname())
            serial = f"127.0.0.1:{full.getsockname()[1]}"
            with pytest.raises(DeadlineError) as caught:
                transport.connect(serial, soon(0.5))
            for filler in fillers:
                filler.close()
        assert caught.value.device == serial

    def test_a_phone_that_hangs_up(self, transport: DirectTransport) -> None:
        def hang_up(peer: Peer) -> None:
            peer.read()

        def reset(peer: Peer) -> None:
            peer.read()
            peer.reset()

        for script in (hang_up, reset):
            with Hostile(script) as phone:
                with pytest.raises(DeviceLostError, match="hung up during the handshake") as caught:
                    transport.connect(phone.serial, soon())
                assert caught.value.device == phone.serial

    def test_a_phone_that_has_not_taken_leave_of_the_last_connection_is_tried_again(
        self, transport: DirectTransport
    ) -> None:
        def script(peer: Peer) -> None:
            if phone.connections > 2:
                peer.shake()
                peer.linger()

        with Hostile(script) as phone, transport.connect(phone.serial, soon()) as connection:
            assert connection.alive()
        assert phone.connections == 3

    def test_a_phone_that_hangs_up_in_the_middle_of_a_word_is_not(self, transport: DirectTransport) -> None:
        def script(peer: Peer) -> None:
            peer.read()
            peer.sock.sendall(b"CNXN")

        with Hostile(script) as phone:
            with pytest.raises(DeviceLostError, match="hung up during the handshake"):
                transport.connect(phone.serial, soon())
            assert phone.connections == 1

    def test_something_that_is_not_adb(self, transport: DirectTransport) -> None:
        def web(peer: Peer) -> None:
            peer.sock.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
            peer.linger()

        with Hostile(web) as phone, pytest.raises(ProtocolError, match="where an ADB packet must begin"):
            transport.connect(phone.serial, soon())

    def test_tls_is_explained(self, transport: DirectTransport) -> None:
        def tls(peer: Peer) -> None:
            peer.read()
            peer.send("STLS", 0x01000000)
            peer.linger()

        with Hostile(tls) as phone, pytest.raises(DeviceNotReadyError, match="TLS") as caught:
            transport.connect(phone.serial, soon())
        assert "adb pair" in str(caught.value.hint)

    @pytest.mark.parametrize("kind", ["recovery", "sideload", "rescue", "bootloader"])
    def test_a_phone_without_android(self, transport: DirectTransport, kind: str) -> None:
        def script(peer: Peer) -> None:
            peer.shake(kind=kind)
            peer.linger()

        with Hostile(script) as phone, pytest.raises(DeviceNotReadyError, match=kind):
            transport.connect(phone.serial, soon())

    def test_packets_of_an_earlier_connection_are_passed_over(self, transport: DirectTransport) -> None:
        def stale(peer: Peer) -> None:
            for _ in range(20):
                peer.send("WRTE", 7, 9, b"for somebody else")
                peer.send("CLSE", 7, 9)
            peer.shake()
            peer.linger()

        with Hostile(stale) as phone, transport.connect(phone.serial, soon()) as connection:
            assert connection.banner

    def test_a_payload_limit_that_no_adb_has(self, transport: DirectTransport) -> None:
        def script(peer: Peer) -> None:
            peer.shake(max_payload=1)
            peer.linger()

        with Hostile(script) as phone, pytest.raises(ProtocolError, match="packets of 1 bytes"):
            transport.connect(phone.serial, soon())

    def test_a_wrong_checksum_where_there_are_checksums(self, transport: DirectTransport) -> None:
        def script(peer: Peer) -> None:
            peer.read()
            peer.send("CNXN", 0x01000000, 4096, b"device::", checksum=1)
            peer.linger()

        with Hostile(script) as phone, pytest.raises(ProtocolError, match="checksum"):
            transport.connect(phone.serial, soon())

    def test_closing_the_transport_closes_its_connections(self, transport: DirectTransport) -> None:
        with Polite() as phone:
            connection = transport.connect(phone.serial, soon())
            stream = connection.open("source:5", soon())
            transport.close()
            with pytest.raises(DeviceLostError):
                connection.open("source:5", soon())
            stream.close()

    def test_two_connections_to_one_phone(self, transport: DirectTransport) -> None:
        with (
            Polite() as phone,
            transport.connect(phone.serial, soon()) as first,
            transport.connect(phone.serial, soon()) as second,
        ):
            first.close()
            with second.open("source:9", soon()) as stream:
                assert stream.read(100, soon()) == pattern(9)


class Guard:
    """A phone that asks for authorization; verifies signatures as adbd does, by the public key's numbers."""

    def __init__(
        self, trusted: list[rsa.RSAPublicKey], *, answer: Callable[[Peer], None] | None = None
    ) -> None:
        self.trusted = trusted
        self.answer = answer
        self.signatures = 0
        self.offered: list[bytes] = []

    def __call__(self, peer: Peer) -> None:
        hello = peer.read()
        assert hello.command == "CNXN"
        while True:
            token = os.urandom(20)
            peer.send("AUTH", 1, 0, token)
            reply = peer.read()
            assert reply.command == "AUTH"
            if reply.arg0 == 3:
                self.offered.append(reply.payload)
                if self.answer is None:
                    peer.linger()
                    return
                self.answer(peer)
                break
            assert reply.arg0 == 2
            self.signatures += 1
            if any(_verifies(key, token, reply.payload) for key in self.trusted):
                break
        peer.send("CNXN", 0x01000001, MAX_PAYLOAD, b"device::ro.product.model=Guarded;features=cmd")
        peer.linger()


def _verifies(key: rsa.RSAPublicKey, token: bytes, signature: bytes) -> bool:
    try:
        key.verify(signature, token, padding.PKCS1v15(), Prehashed(hashes.SHA1()))
    except InvalidSignature:
        return False
    return True


class TestAuthorization:
    def test_a_known_key_opens_without_a_question(self, transport: DirectTransport, tmp_path: Path) -> None:
        (key,) = KeyRing(tmp_path / ".android").keys()
        guard = Guard([key.private.public_key()])
        with Hostile(guard) as phone, transport.connect(phone.serial, soon()) as connection:
            assert connection.banner == {"ro.product.model": "Guarded"}
        assert (guard.signatures, guard.offered) == (1, [])

    def test_nobody_presses_allow(self, transport: DirectTransport, tmp_path: Path) -> None:
        guard = Guard([])
        with Hostile(guard) as phone:
            began = time.monotonic()
            with pytest.raises(DeviceUnauthorizedError) as caught:
                transport.connect(phone.serial, soon())
            assert 0.25 < time.monotonic() - began < 15
        assert caught.value.device == phone.serial
        hint = str(caught.value.hint)
        assert '"Allow"' in hint
        blob = base64.b64decode((tmp_path / ".android" / "adbkey.pub").read_bytes().split()[0])
        digest = hashlib.md5(blob).hexdigest().upper()
        assert ":".join(digest[at : at + 2] for at in range(0, 32, 2)) in hint
        (offered,) = guard.offered
        assert offered.endswith(b"\0"), "adbd takes it for a C string"
        assert offered[:-1] == (tmp_path / ".android" / "adbkey.pub").read_bytes()

    def test_the_owner_presses_allow_in_time(self, tmp_path: Path) -> None:
        transport = DirectTransport(keys_dir=tmp_path, authorize_wait=30.0, usb=False)
        guard = Guard([], answer=lambda _: time.sleep(0.3))
        with Hostile(guard) as phone, transport.connect(phone.serial, soon(60.0)) as connection:
            assert connection.banner

    def test_the_deadline_ends_the_wait_for_the_owner_too(self, tmp_path: Path) -> None:
        transport = DirectTransport(keys_dir=tmp_path, authorize_wait=60.0, usb=False)
        KeyRing(tmp_path).keys()
        with Hostile(Guard([])) as phone, pytest.raises(DeviceUnauthorizedError):
            transport.connect(phone.serial, soon(2.0))

    def test_a_phone_that_refuses_by_hanging_up(self, transport: DirectTransport) -> None:
        guard = Guard([], answer=lambda peer: peer.sock.shutdown(socket.SHUT_RDWR))
        with Hostile(guard) as phone, pytest.raises(DeviceUnauthorizedError):
            transport.connect(phone.serial, soon())

    def test_vendor_keys_are_tried_before_anybody_is_asked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (vendor,) = KeyRing(tmp_path / "vendor").keys()
        monkeypatch.setenv("ADB_VENDOR_KEYS", str(tmp_path / "vendor" / "adbkey"))
        transport = DirectTransport(keys_dir=tmp_path / "own", usb=False)
        guard = Guard([vendor.private.public_key()])
        with Hostile(guard) as phone, transport.connect(phone.serial, soon()):
            pass
        assert (guard.signatures, guard.offered) == (2, [])

    def test_no_key_is_made_for_a_phone_that_does_not_ask(
        self, transport: DirectTransport, tmp_path: Path
    ) -> None:
        with Polite() as phone, transport.connect(phone.serial, soon()):
            pass
        assert not (tmp_path / ".android").exists()

    @pytest.mark.parametrize(("kind", "size"), [(1, 19), (1, 0), (1, 4096), (2, 20), (0, 20)])
    def test_a_malformed_challenge(self, transport: DirectTransport, kind: int, size: int) -> None:
        def script(peer: Peer) -> None:
            peer.read()
            peer.send("AUTH", kind, 0, bytes(size))
            peer.linger()

        with Hostile(script) as phone, pytest.raises(ProtocolError, match="AUTH"):
            transport.connect(phone.serial, soon())


class TestWatch:
    def test_a_phone_comes_and_goes(self, transport: DirectTransport) -> None:
        stop = threading.Event()
        with socket.socket() as placeholder:
            placeholder.bind(("127.0.0.1", 0))
            address = placeholder.getsockname()
        serial = f"127.0.0.1:{address[1]}"
        states: list[EndpointState] = []
        listener: socket.socket | None = None
        began = time.monotonic()
        for endpoints in transport.watch([serial], stop):
            (endpoint,) = endpoints
            states.append(endpoint.state)
            if len(states) == 2:
                listener = socket.create_server(address)
            elif endpoint.state is EndpointState.ONLINE and listener is not None:
                listener.close()
                listener = None
            elif EndpointState.ONLINE in states:
                stop.set()
            assert time.monotonic() - began < 60
        assert states[:2] == [EndpointState.ABSENT] * 2
        assert EndpointState.ONLINE in states
        assert states[-1] is EndpointState.ABSENT

    def test_it_yields_at_least_once_a_second_costs_little_and_ends_soon(
        self, transport: DirectTransport, refused: str
    ) -> None:
        stop = threading.Event()
        timer = threading.Timer(3.0, stop.set)
        with idle():
            timer.start()
            seen = [time.monotonic() for _ in transport.watch([refused], stop)]
            ended = time.monotonic()
        assert len(seen) >= 3
        assert max(later - earlier for earlier, later in pairwise([*seen, ended])) < 10
        timer.join()

    def test_stopped_before_it_begins(self, transport: DirectTransport) -> None:
        stop = threading.Event()
        stop.set()
        assert list(transport.watch([], stop)) == []
