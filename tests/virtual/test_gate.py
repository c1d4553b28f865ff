"""The gate, packet by packet over socket pairs, and against the real adb client."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from adb_shell.auth.keygen import encode_pubkey, keygen
from adb_shell.auth.sign_cryptography import CryptographySigner
from hypothesis import given, settings
from hypothesis import strategies as st

from devicelab.deadline import Deadline
from devicelab.errors import VirtualPhoneError
from devicelab.virtual.authorization import Answer, Authorization
from devicelab.virtual.gate import Gate
from devicelab.virtual.packets import (
    AUTH,
    AUTH_PUBLIC_KEY,
    AUTH_SIGNATURE,
    AUTH_TOKEN,
    CNXN,
    HEADER_SIZE,
    MAX_PAYLOAD,
    OPEN,
    STLS,
    VERSION_CHECKSUMS,
    VERSION_NO_CHECKSUMS,
    WRTE,
    Packet,
    checksum,
    pack,
    unpack_header,
)
from tests.virtual.adbclient import Adb

HELLO = Packet(CNXN, VERSION_NO_CHECKSUMS, MAX_PAYLOAD, b"host::features=shell_v2,cmd")
BANNER = Packet(CNXN, VERSION_NO_CHECKSUMS, MAX_PAYLOAD, b"device::ro.product.model=Fake;features=shell_v2")


@dataclass
class Peer:
    """One end of a connection, with the test's own packet reader."""

    socket: socket.socket
    seen: list[Packet] = field(default_factory=list)

    def send(self, *packets: Packet) -> None:
        self.socket.sendall(b"".join(map(pack, packets)))

    def read(self) -> Packet:
        header = unpack_header(self._exactly(HEADER_SIZE), limit=MAX_PAYLOAD)
        packet = Packet(header.command, header.arg0, header.arg1, self._exactly(header.length))
        assert header.checksum == checksum(packet.payload)
        self.seen.append(packet)
        return packet

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            assert part, "hung up"
            data += part
        return data

    def closed(self) -> bool:
        try:
            return self.socket.recv(1) == b""
        except ConnectionError:
            return True


class Desk:
    """A gate under test between two socket pairs; the handshake runs in a thread."""

    def __init__(self, gate: Gate, *, seconds: float = 30) -> None:
        self.host, host_end = (Peer(half) for half in socket.socketpair())
        self.phone, phone_end = (Peer(half) for half in socket.socketpair())
        self.ends = host_end.socket, phone_end.socket
        for peer in (self.host, self.phone):
            peer.socket.settimeout(30)
        self.opened = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self.result: Future[socket.socket | None] = self._pool.submit(
            gate.handshake, self.ends[0], self._open, Deadline("handshake", seconds)
        )

    def _open(self) -> socket.socket:
        self.opened.set()
        return self.ends[1]

    def passed(self) -> bool:
        return self.result.result(30) is self.ends[1]

    def close(self) -> None:
        for half in (self.host.socket, self.phone.socket, *self.ends):
            with contextlib.suppress(OSError):
                half.shutdown(socket.SHUT_RDWR)
            half.close()
        self._pool.shutdown()


Start = Callable[..., Desk]


@pytest.fixture
def start() -> Iterator[Start]:
    desks: list[Desk] = []

    def begin(gate: Gate, **options: float) -> Desk:
        desks.append(Desk(gate, **options))
        return desks[-1]

    yield begin
    for desk in desks:
        desk.close()


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "adbkey"
    keygen(str(path))
    return path


def public(key_file: Path) -> bytes:
    return base64.b64encode(encode_pubkey(str(key_file))) + b" me@desk\0"


def signature(key_file: Path, token: bytes) -> Packet:
    return Packet(AUTH, AUTH_SIGNATURE, 0, bytes(CryptographySigner(str(key_file)).Sign(token)))


@pytest.fixture
def authorization(tmp_path: Path) -> Authorization:
    return Authorization(tmp_path / "adb_keys", required=True)


@pytest.fixture
def gate(authorization: Authorization) -> Gate:
    return Gate(authorization=authorization, version=None, max_payload=None)


def wait_for(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def ask(desk: Desk, key_file: Path, authorization: Authorization) -> None:
    """Go through the handshake up to the question."""
    desk.host.send(HELLO)
    token = desk.host.read()
    assert (token.command, token.arg0, len(token.payload)) == (AUTH, AUTH_TOKEN, 20)
    desk.host.send(signature(key_file, token.payload))
    again = desk.host.read()
    assert (again.command, again.arg0) == (AUTH, AUTH_TOKEN)
    assert again.payload != token.payload
    desk.host.send(Packet(AUTH, AUTH_PUBLIC_KEY, 0, public(key_file)))
    wait_for(authorization.pending)


# -- authorization ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [Answer.ALLOW, Answer.ALWAYS])
def test_an_allowed_host_gets_to_the_phone(
    start: Start, gate: Gate, authorization: Authorization, key_file: Path, answer: Answer
) -> None:
    desk = start(gate)
    ask(desk, key_file, authorization)
    assert not desk.opened.is_set()
    authorization.answer(answer)
    assert desk.phone.read() == HELLO
    desk.phone.send(BANNER)
    assert desk.host.read() == BANNER
    assert desk.passed()
    assert len(authorization.trusted()) == (answer is Answer.ALWAYS)


def test_a_remembered_host_is_not_asked_again(
    start: Start, gate: Gate, authorization: Authorization, key_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "adb_keys").write_bytes(public(key_file)[:-1] + b"\n")
    desk = start(gate)
    desk.host.send(HELLO)
    desk.host.send(signature(key_file, desk.host.read().payload))
    desk.phone.read()
    desk.phone.send(BANNER)
    assert desk.host.read() == BANNER
    assert desk.passed()


def test_an_old_signature_does_not_fit_a_new_token(
    start: Start, gate: Gate, key_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "adb_keys").write_bytes(public(key_file)[:-1] + b"\n")
    first = start(gate)
    first.host.send(HELLO)
    recorded = signature(key_file, first.host.read().payload)
    second = start(gate)
    second.host.send(HELLO)
    second.host.read()
    second.host.send(recorded)
    assert second.host.read().command == AUTH
    assert not second.opened.is_set()


def test_a_denied_host_is_told_nothing_and_may_only_leave(
    start: Start, gate: Gate, authorization: Authorization, key_file: Path
) -> None:
    desk = start(gate)
    ask(desk, key_file, authorization)
    authorization.answer(Answer.DENY)
    assert authorization.pending() == []
    desk.host.socket.settimeout(0.2)
    with pytest.raises(TimeoutError):
        desk.host.read()
    desk.host.socket.close()
    assert not desk.passed()
    assert not desk.opened.is_set()


def test_a_question_ends_when_the_host_or_the_relay_hangs_up(
    start: Start, gate: Gate, authorization: Authorization, key_file: Path
) -> None:
    gone, cut = start(gate), start(gate)
    ask(gone, key_file, authorization)
    gone.host.socket.close()
    assert not gone.passed()
    ask(cut, key_file, authorization)
    cut.ends[0].shutdown(socket.SHUT_RDWR)
    assert not cut.passed()
    assert authorization.pending() == []


def test_a_question_outlives_the_handshakes_deadline(
    start: Start, gate: Gate, authorization: Authorization, key_file: Path
) -> None:
    desk = start(gate, seconds=2)
    ask(desk, key_file, authorization)
    time.sleep(2.2)
    authorization.answer(Answer.ALLOW)
    desk.phone.read()
    desk.phone.send(BANNER)
    assert desk.passed()


def test_requirement_is_switched_for_the_next_handshake(
    start: Start, gate: Gate, authorization: Authorization, key_file: Path
) -> None:
    asked = start(gate)
    ask(asked, key_file, authorization)
    authorization.required = False
    open_now = start(gate)
    assert open_now.passed()
    assert len(authorization.pending()) == 1


# -- versions --------------------------------------------------------------------------------------------------


def test_an_old_phone_is_old_in_both_directions(start: Start, authorization: Authorization) -> None:
    authorization.required = False
    desk = start(Gate(authorization=authorization, version=VERSION_CHECKSUMS, max_payload=4096))
    tail = Packet(OPEN, 7, 0, b"shell:true\0")
    desk.host.send(HELLO, tail)
    assert desk.phone.read() == Packet(CNXN, VERSION_CHECKSUMS, 4096, HELLO.payload)
    desk.phone.send(BANNER, tail)
    assert desk.host.read() == Packet(CNXN, VERSION_CHECKSUMS, 4096, BANNER.payload)
    assert desk.passed()
    assert Peer(desk.ends[0]).read() == tail  # nothing behind the handshake was taken from the sockets
    assert Peer(desk.ends[1]).read() == tail
    assert desk.ends[0].gettimeout() is None
    assert desk.ends[1].gettimeout() is None


def test_a_gate_without_work_leaves_the_handshake_to_adbd(start: Start, authorization: Authorization) -> None:
    authorization.required = False
    desk = start(Gate(authorization=authorization, version=None, max_payload=None))
    assert desk.passed()
    desk.host.send(HELLO)
    assert Peer(desk.ends[0]).read() == HELLO


@pytest.mark.parametrize("limits", [{"version": 0}, {"max_payload": 4095}, {"max_payload": MAX_PAYLOAD + 1}])
def test_impossible_limits_are_refused(authorization: Authorization, limits: dict[str, int]) -> None:
    with pytest.raises(VirtualPhoneError):
        Gate(authorization=authorization, **{"version": None, "max_payload": None} | limits)


def test_a_frozen_phone_keeps_the_host_waiting_until_it_leaves(
    start: Start, authorization: Authorization
) -> None:
    authorization.required = False
    desk = start(Gate(authorization=authorization, version=None, max_payload=4096), seconds=0.3)
    desk.host.send(HELLO)
    desk.phone.read()
    time.sleep(0.5)
    assert not desk.result.done()
    desk.host.socket.close()
    assert not desk.passed()
    assert desk.phone.closed()


# -- what does not belong here ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "packets",
    [
        [Packet(OPEN, 1, 0, b"shell:id\0")],
        [Packet(STLS, VERSION_NO_CHECKSUMS, 0)],
        [Packet(AUTH, AUTH_PUBLIC_KEY, 0, b"x")],
        [Packet(CNXN, VERSION_NO_CHECKSUMS, MAX_PAYLOAD, b"x" * 4097)],
        [HELLO, Packet(OPEN, 1, 0, b"shell:id\0")],
        [HELLO, Packet(STLS, VERSION_NO_CHECKSUMS, 0)],
        [HELLO, HELLO],
        [HELLO, Packet(AUTH, 4, 0, b"x")],
        [HELLO, Packet(AUTH, AUTH_PUBLIC_KEY, 0, b"no key")],
        [HELLO, *[Packet(AUTH, AUTH_SIGNATURE, 0, bytes(256))] * 64],
        [Packet(WRTE, 1, 1, b"x")],
    ],
)
def test_anything_else_is_refused_before_the_phone_hears_of_it(
    start: Start, gate: Gate, packets: list[Packet]
) -> None:
    desk = start(gate)
    desk.host.send(*packets)
    assert not desk.passed()
    assert not desk.opened.is_set()


@settings(max_examples=200)
@given(
    st.lists(st.one_of(st.binary(max_size=200), st.just(pack(HELLO)), st.just(pack(BANNER)[:9])), max_size=5)
)
def test_random_bytes_never_reach_the_phone(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]
) -> None:
    authorization = Authorization(tmp_path_factory.getbasetemp() / "no_keys", required=True)
    desk = Desk(Gate(authorization=authorization, version=None, max_payload=None))
    try:
        with contextlib.suppress(ConnectionError):
            desk.host.socket.sendall(b"".join(parts))
            desk.host.socket.shutdown(socket.SHUT_WR)
        assert not desk.passed()
        assert not desk.opened.is_set()
    finally:
        desk.close()


def test_a_host_that_says_too_little_is_cut_off(start: Start, gate: Gate) -> None:
    desk = start(gate, seconds=0.2)
    desk.host.socket.sendall(pack(HELLO)[:30])
    assert not desk.passed()


@pytest.mark.parametrize(
    "reply", [Packet(AUTH, AUTH_TOKEN, 0, bytes(20)), Packet(STLS, VERSION_NO_CHECKSUMS, 0)]
)
def test_a_phone_that_wants_its_own_authorization_is_refused(
    start: Start, authorization: Authorization, reply: Packet
) -> None:
    authorization.required = False
    desk = start(Gate(authorization=authorization, version=None, max_payload=4096))
    desk.host.send(HELLO)
    desk.phone.read()
    desk.phone.send(reply)
    assert not desk.passed()
    assert desk.phone.closed()


def test_a_dead_phone_is_no_crash(authorization: Authorization) -> None:
    def refuse() -> socket.socket:
        raise ConnectionRefusedError("adbd is not running")

    gates = [Gate(authorization=authorization, version=None, max_payload=size) for size in (None, 4096)]
    authorization.required = False
    for gate in gates:
        host, end = socket.socketpair()
        with host, end:
            Peer(host).send(HELLO)
            assert gate.handshake(end, refuse, Deadline("handshake", 30)) is None


# -- the real client -------------------------------------------------------------------------------------------


class Port:
    """A listener with the gate behind it; every phone is a thread that answers CNXN and then keeps quiet."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.serial = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = []
        self.hellos: list[Packet] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                host, _ = self._listener.accept()
                self._sockets.append(host)
                self._threads.append(threading.Thread(target=self._serve, args=(host,)))
                self._threads[-1].start()

    def _serve(self, host: socket.socket) -> None:
        near, far = socket.socketpair()
        with host, near, far:
            self._sockets.append(far)
            phone = threading.Thread(target=self._answer, args=(far,))
            phone.start()
            if self._gate.handshake(host, lambda: near, Deadline("handshake", 30)) is not None:
                with contextlib.suppress(OSError):
                    while host.recv(4096):
                        pass
            with contextlib.suppress(OSError):
                near.shutdown(socket.SHUT_RDWR)
            phone.join()

    def _answer(self, far: socket.socket) -> None:
        with contextlib.suppress(AssertionError, OSError):
            peer = Peer(far)
            self.hellos.append(peer.read())
            peer.send(BANNER)
            far.recv(1)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()


@pytest.fixture
def port(gate: Gate) -> Iterator[Port]:
    served = Port(gate)
    yield served
    served.close()


def test_the_real_adb_is_asked_allowed_and_asked_again(
    port: Port, authorization: Authorization, adb: Adb
) -> None:
    adb("connect", port.serial)
    adb.wait(port.serial, "unauthorized")
    wait_for(authorization.pending)
    assert "Allow USB debugging?" in str(authorization.pending()[0])
    authorization.answer(Answer.ALLOW)
    adb.wait(port.serial, "device")
    adb("disconnect", port.serial)
    adb("connect", port.serial)
    adb.wait(port.serial, "unauthorized")  # "allow" was for one connection


def test_the_real_adb_is_remembered_and_forgotten(port: Port, authorization: Authorization, adb: Adb) -> None:
    adb("connect", port.serial)
    wait_for(authorization.pending)
    authorization.answer(Answer.ALWAYS)
    adb.wait(port.serial, "device")
    for _ in range(2):
        adb("disconnect", port.serial)
        adb("connect", port.serial)
        adb.wait(port.serial, "device")
        assert authorization.pending() == []
    authorization.revoke_all()
    adb("disconnect", port.serial)
    adb("connect", port.serial)
    adb.wait(port.serial, "unauthorized")


def test_the_real_adb_is_denied(port: Port, authorization: Authorization, adb: Adb) -> None:
    adb("connect", port.serial)
    wait_for(authorization.pending)
    authorization.answer(Answer.DENY)
    time.sleep(0.5)
    adb.wait(port.serial, "unauthorized")
    assert port.hellos == []
    adb("disconnect", port.serial)
    adb("connect", port.serial)
    wait_for(authorization.pending)
