"""A phone that breaks every rule of the protocol: clear errors that name it, bounded memory, no spinning."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devicelab.adb import multiplex, outbox
from devicelab.adb.direct import DirectConnection, DirectTransport
from devicelab.adb.direct_stream import WINDOW, DirectStream
from devicelab.adb.packets import MAX_PAYLOAD
from devicelab.adb.tcp import TcpLink
from devicelab.deadline import Deadline
from devicelab.errors import DeadlineError, DeviceError, DeviceLostError, DeviceUnauthorizedError, ProtocolError
from tests.adb.hostile import FEATURES, WINDOWED, Hostile, Opened, Peer, header
from tests.measures import bounded, idle

MB = 1 << 20
Script = Callable[[Peer, Opened], None]


def soon(seconds: float = 30.0) -> Deadline:
    return Deadline("test", seconds)


def connect(phone: Hostile) -> DirectConnection:
    return DirectTransport(usb=False, scan_emulators=False).connect(phone.serial, soon())


def after_open(script: Script, features: str = WINDOWED) -> Hostile:
    """A phone that behaves until its first stream is open."""

    def run(peer: Peer) -> None:
        peer.shake(features)
        script(peer, peer.accept_open())

    return Hostile(run)


def with_small_buffers(link: TcpLink, timeout: float | None) -> None:
    """Connect with the least that the kernel lets wait in a socket."""
    link._connection = sock = socket.socket()
    sock.settimeout(timeout)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    sock.connect((link._host, link._port))
    sock.settimeout(None)


def drain(stream: DirectStream) -> int:
    """Read to the end; return how much that was."""
    total = 0
    while data := stream.read(MB, soon()):
        total += len(data)
    return total


def expect(phone: Hostile, kind: type[DeviceError], match: str) -> None:
    """Open a stream and read until it fails: as ``kind``, naming the phone. All else then fails alike."""
    with phone, connect(phone) as connection:
        stream = connection.open("x:", soon())
        with pytest.raises(kind, match=match) as caught:
            drain(stream)
        assert caught.value.device == phone.serial
        with pytest.raises(kind, match=match):
            stream.write(b"x", soon())
        with pytest.raises(kind, match=match):
            connection.open("y:", soon())
        began = time.monotonic()
        stream.close()
        connection.close()
        assert time.monotonic() - began < 15
    assert f"adb {phone.serial}" not in [thread.name for thread in threading.enumerate()]


class TestMalformedFrames:
    def test_wrong_magic(self) -> None:
        def script(peer: Peer, stream: Opened) -> None:
            peer.send("WRTE", 1, stream.local, b"x", magic=0)
            peer.linger()

        expect(after_open(script), ProtocolError, "where an ADB packet must begin")

    def test_unknown_command(self) -> None:
        def script(peer: Peer, stream: Opened) -> None:
            peer.send("EVIL", 1, stream.local)
            peer.linger()

        expect(after_open(script), ProtocolError, "where an ADB packet must begin")

    @pytest.mark.parametrize("length", [MAX_PAYLOAD + 1, 1 << 31, 0xFFFFFFFF])
    def test_a_length_beyond_the_limit(self, length: int) -> None:
        def script(peer: Peer, stream: Opened) -> None:
            peer.send("WRTE", 1, stream.local, b"x", length=length)
            peer.linger()

        with bounded(4):
            expect(after_open(script), ProtocolError, f"{length} bytes")

    def test_a_payload_longer_than_announced(self) -> None:
        def script(peer: Peer, stream: Opened) -> None:
            peer.send("WRTE", 1, stream.local, b"y" * 100, length=10)
            peer.linger()

        with after_open(script) as phone, connect(phone) as connection:
            stream = connection.open("x:", soon())
            assert stream.read(100, soon()) == b"y" * 10
            with pytest.raises(ProtocolError, match="79 79 79 79"):
                stream.read(100, soon())

    @pytest.mark.parametrize("command", ["CNXN", "AUTH", "STLS"])
    def test_a_handshake_in_the_middle(self, command: str) -> None:
        def script(peer: Peer, stream: Opened) -> None:
            while True:
                peer.send(command, 1, stream.local, bytes(20))

        expect(after_open(script), ProtocolError, f"sent {command} in the middle")

    @pytest.mark.parametrize(("features", "size"), [(WINDOWED, 0), (WINDOWED, 3), (WINDOWED, 8), (FEATURES, 4)])
    def test_an_okay_of_the_wrong_kind(self, features: str, size: int) -> None:
        def script(peer: Peer, stream: Opened) -> None:
            peer.send("OKAY", 1, stream.local, bytes(size))
            peer.linger()

        expect(after_open(script, features), ProtocolError, f"OKAY with a payload of {size} bytes")

    def test_an_okay_of_the_wrong_kind_as_answer_to_open(self) -> None:
        def script(peer: Peer) -> None:
            peer.shake(WINDOWED)
            frame = peer.read()
            peer.send("OKAY", 1, frame.arg0)
            peer.linger()

        with Hostile(script) as phone, connect(phone) as connection, pytest.raises(ProtocolError, match="OKAY"):
            connection.open("x:", soon())

    def test_a_damaged_payload_where_there_are_checksums(self) -> None:
        def script(peer: Peer) -> None:
            peer.shake(FEATURES, version=0x01000000)
            stream = peer.accept_open()
            peer.send("WRTE", 1, stream.local, b"damaged", checksum=1)
            peer.linger()

        expect(Hostile(script), ProtocolError, "checksum")


class TestCutOff:
    @pytest.mark.parametrize("part", [1, 23, 24, 40])
    def test_a_piece_of_a_packet_then_silence(self, part: int) -> None:
        def script(peer: Peer, stream: Opened) -> None:
            peer.sock.sendall((header("WRTE", 1, stream.local, bytes(100)) + bytes(100))[:part])
            peer.linger()

        with after_open(script) as phone, connect(phone) as connection:
            stream = connection.open("x:", soon())
            with idle(), pytest.raises(DeadlineError) as caught:
                stream.read(100, soon(1.0))
            assert caught.value.device == phone.serial
            with idle(), pytest.raises(DeadlineError) as caught:
                connection.open("y:", soon(1.0))
            assert caught.value.device == phone.serial
            began = time.monotonic()
            connection.close()
            assert time.monotonic() - began < 15

    @pytest.mark.parametrize("part", [0, 1, 24, 40])
    @pytest.mark.parametrize("rude", [True, False], ids=["reset", "end"])
    def test_a_piece_of_a_packet_then_gone(self, part: int, rude: bool) -> None:
        def script(peer: Peer, stream: Opened) -> None:
            peer.sock.sendall((header("WRTE", 1, stream.local, bytes(100)) + bytes(100))[:part])
            if rude:
                peer.reset()

        expect(after_open(script), DeviceLostError, "connection lost")

    def test_a_phone_that_never_reads(self) -> None:
        def script(peer: Peer, stream: Opened) -> None:
            peer.okay(1, stream.local, 1 << 30)
            peer.stop_reading()

        block = bytes(64 * MB)
        with after_open(script) as phone, connect(phone) as connection:
            first = connection.open("x:", soon())
            time.sleep(0.2)  # until the credit has arrived, so that the link is what blocks
            with idle(), bounded(4), pytest.raises(DeadlineError) as caught:
                first.write(block, soon(1.5))
            assert caught.value.device == phone.serial
            with idle(), pytest.raises(DeadlineError) as caught:
                connection.open("y:", soon(1.0))
            assert caught.value.device == phone.serial
            began = time.monotonic()
            first.close()
            connection.close()
            assert time.monotonic() - began < 15

    def test_a_phone_that_reads_again_finds_every_packet_whole(self) -> None:
        """What a deadline cut off is finished later: one stream's failure does not cost the others."""
        thawed = threading.Event()

        def script(peer: Peer, stream: Opened) -> None:
            peer.okay(1, stream.local, 1 << 30)
            thawed.wait(30)
            while True:
                frame = peer.read()  # asserts magic and length
                if frame.command == "OPEN":
                    peer.okay(2, frame.arg0, 100)
                    peer.send("WRTE", 2, frame.arg0, b"alive")
                elif frame.command == "WRTE":
                    assert frame.payload == b"\xab" * len(frame.payload)

        with after_open(script) as phone, connect(phone) as connection:
            first = connection.open("x:", soon())
            time.sleep(0.2)
            with pytest.raises(DeadlineError):
                first.write(b"\xab" * 64 * MB, soon(1.0))
            first.close()
            thawed.set()
            with connection.open("y:", soon()) as second:
                assert second.read(100, soon()) == b"alive"


class TestFloods:
    def test_more_than_the_window(self) -> None:
        block = bytes(MAX_PAYLOAD)

        def script(peer: Peer, stream: Opened) -> None:
            assert stream.window == WINDOW
            while True:
                peer.send("WRTE", 1, stream.local, block, checksum=0)

        with bounded(WINDOW / MB + 6), after_open(script) as phone, connect(phone) as connection:
            stream = connection.open("x:", soon())
            _until_ended(connection)
            with pytest.raises(ProtocolError, match=f"{WINDOW} bytes are not acknowledged"):
                drain(stream)

    def test_the_last_packet_may_go_beyond_the_window(self) -> None:
        """As adbd does: it sends a whole packet while a single byte is left."""

        def script(peer: Peer, stream: Opened) -> None:
            left = stream.window
            for size in (1, *[MAX_PAYLOAD] * (WINDOW // MAX_PAYLOAD)):
                assert left > 0
                peer.send("WRTE", 1, stream.local, bytes(size), checksum=0)
                left -= size
            peer.send("CLSE", 1, stream.local)
            peer.linger()

        with after_open(script) as phone, connect(phone) as connection:
            stream = connection.open("x:", soon())
            assert drain(stream) == WINDOW + 1

    def test_more_than_one_packet_where_there_are_no_windows(self) -> None:
        def script(peer: Peer, stream: Opened) -> None:
            while True:
                peer.send("WRTE", 1, stream.local, bytes(MAX_PAYLOAD), checksum=0)

        with bounded(8), after_open(script, FEATURES) as phone, connect(phone) as connection:
            stream = connection.open("x:", soon())
            _until_ended(connection)
            with pytest.raises(ProtocolError, match="2 packets are not acknowledged"):
                drain(stream)

    @pytest.mark.parametrize("features", [WINDOWED, FEATURES])
    def test_empty_packets(self, features: str) -> None:
        count = 20_000

        def script(peer: Peer, stream: Opened) -> None:
            frames = header("WRTE", 1, stream.local) * 100
            with peer.reading_aside():
                for _ in range(count // 100):
                    peer.sock.sendall(frames)
                peer.send("WRTE", 1, stream.local, b"at last")

        with bounded(4), after_open(script, features) as phone, connect(phone) as connection:
            with connection.open("x:", soon()) as stream:
                assert stream.read(100, soon()) == b"at last"
            connection.close()

    def test_tiny_packets_take_little_more_memory_than_their_bytes(self) -> None:
        count = 40_000

        def script(peer: Peer, stream: Opened) -> None:
            frames = (header("WRTE", 1, stream.local, b"zzz") + b"zzz") * 1000
            for _ in range(count // 1000):
                peer.sock.sendall(frames)
            peer.send("CLSE", 1, stream.local)
            peer.linger()

        with bounded(1.2), after_open(script) as phone, connect(phone) as connection:
            with connection.open("x:", soon()) as stream:
                _wait_until(lambda: stream._phone_closed)  # let it pile up
                total = 0
                while data := stream.read(MB, soon()):
                    assert data == b"z" * len(data)
                    total += len(data)
            assert total == 3 * count
            connection.close()

    @pytest.mark.parametrize("command", ["CLSE", "WRTE", "OKAY", "SYNC", "OPEN"])
    def test_packets_for_streams_that_do_not_exist(self, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(multiplex, "_MAX_STRAY", 10_000)  # tracing memory is slow

        def script(peer: Peer, stream: Opened) -> None:
            frames = header(command, 77, 99) * 1000
            with peer.reading_aside():
                while True:
                    peer.sock.sendall(frames)

        with bounded(4):
            expect(after_open(script), ProtocolError, "streams that do not exist")

    def test_questions_whose_answers_nobody_reads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each of these is answered with CLSE; the answers must not pile up here."""
        monkeypatch.setattr(outbox, "_MAX_WAITING", 100)
        monkeypatch.setattr(TcpLink, "connect", with_small_buffers)

        def script(peer: Peer, stream: Opened) -> None:
            while True:
                peer.sock.sendall(header("OPEN", 1, 0) * 1000)

        with bounded(4):
            expect(after_open(script), ProtocolError, "takes none of 100 answers")

    def test_a_storm_of_closes_for_one_stream(self) -> None:
        def script(peer: Peer, stream: Opened) -> None:
            peer.send("WRTE", 1, stream.local, b"bye")
            peer.sock.sendall(header("CLSE", 1, stream.local) * 10_000)
            peer.send("WRTE", 1, stream.local, b"from beyond")
            frame = peer.read_until("OPEN")
            peer.okay(2, frame.arg0, 1)
            peer.send("WRTE", 2, frame.arg0, b"still here")
            peer.linger()

        with after_open(script) as phone, connect(phone) as connection:
            first, second = connection.open("x:", soon()), connection.open("y:", soon())
            assert second.read(100, soon()) == b"still here"
            assert first.read(100, soon()) == b"bye"
            assert first.read(100, soon()) == b""


class TestWrongIds:
    def test_they_change_nothing_and_are_answered_as_adb_does(self) -> None:
        answers: list[tuple[str, int, int]] = []

        def script(peer: Peer, stream: Opened) -> None:
            peer.send("WRTE", 5, stream.local, b"from another stream of mine")
            peer.send("WRTE", 0, stream.local, b"from no stream")
            peer.send("WRTE", 1, stream.local + 1, b"for a stream you do not have")
            peer.send("CLSE", 5, stream.local)
            peer.send("OKAY", 5, stream.local, struct.pack("<i", 1))
            peer.send("OKAY", 0, stream.local, struct.pack("<i", 1))
            peer.send("OPEN", 42, 0, b"tcp:22\0")  # a service of this host
            peer.send("OPEN", 0, 0, b"tcp:22\0")
            peer.send("OKAY", 6, 4711, struct.pack("<i", 1))  # answers an OPEN that was given up
            peer.send("WRTE", 1, stream.local, b"the right one")
            for _ in range(2):
                frame = peer.read()
                answers.append((frame.command, frame.arg0, frame.arg1))
            peer.send("CLSE", 1, stream.local)
            peer.linger()

        with after_open(script) as phone, connect(phone) as connection:
            stream = connection.open("x:", soon())
            assert stream.read(100, soon()) == b"the right one"
            assert stream.read(100, soon()) == b""
        assert answers == [("CLSE", 0, 42), ("CLSE", 4711, 6)]

    def test_a_service_whose_open_was_given_up_is_ended_on_the_phone(self) -> None:
        ended = threading.Event()

        def script(peer: Peer) -> None:
            peer.shake()
            frame = peer.read_until("OPEN")
            time.sleep(0.5)
            peer.okay(9, frame.arg0, 100)
            peer.send("WRTE", 9, frame.arg0, b"too late")
            closing = peer.read_until("CLSE")
            assert (closing.arg0, closing.arg1) == (frame.arg0, 9)
            ended.set()
            peer.linger()

        with Hostile(script) as phone, connect(phone) as connection:
            with pytest.raises(DeadlineError):
                connection.open("x:", soon(0.1))
            assert ended.wait(20)

    def test_credit_may_be_taken_back(self) -> None:
        """AOSP: acknowledged bytes can be negative."""
        taken_back, go_on = threading.Event(), threading.Event()

        def script(peer: Peer, stream: Opened) -> None:
            peer.okay(1, stream.local, -(1 << 31))
            peer.send("WRTE", 1, stream.local, b"!")
            taken_back.set()
            go_on.wait(30)
            for _ in range(2):
                peer.okay(1, stream.local, (1 << 31) - 1)
            assert peer.read_until("WRTE").payload == b"data"
            peer.send("CLSE", 1, stream.local)
            peer.linger()

        with after_open(script) as phone, connect(phone) as connection:
            stream = connection.open("x:", soon())
            assert stream.read(1, soon()) == b"!"
            with idle(), pytest.raises(DeadlineError):
                stream.write(b"data", soon(0.5))
            go_on.set()
            stream.write(b"data", soon())
            assert stream.read(1, soon()) == b""


class TestHandshake:
    def test_endless_tokens(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("ADB_VENDOR_KEYS", raising=False)

        def script(peer: Peer) -> None:
            peer.read()
            while True:
                peer.send("AUTH", 1, 0, bytes(20))

        transport = DirectTransport(keys_dir=tmp_path, authorize_wait=20, usb=False)
        with Hostile(script) as phone, bounded(8), pytest.raises(DeviceUnauthorizedError):
            transport.connect(phone.serial, soon())

    @pytest.mark.parametrize("command", ["WRTE", "OKAY", "CLSE", "OPEN", "SYNC"])
    def test_endless_anything_else(self, command: str) -> None:
        def script(peer: Peer) -> None:
            while True:
                peer.sock.sendall((header(command, 1, 1, bytes(4096)) + bytes(4096)) * 10)

        with Hostile(script) as phone, bounded(4), pytest.raises(ProtocolError, match="never CNXN"):
            connect(phone)

    def test_endless_connects(self) -> None:
        def script(peer: Peer) -> None:
            hello = header("CNXN", 0x01000001, MAX_PAYLOAD, b"device::") + b"device::"
            while True:
                peer.sock.sendall(hello * 100)

        with Hostile(script) as phone, connect(phone) as connection:
            _until_ended(connection)
            with pytest.raises(ProtocolError, match="CNXN in the middle"):
                connection.open("x:", soon())

    def test_a_banner_without_end(self) -> None:
        def script(peer: Peer) -> None:
            peer.send("CNXN", 0x01000001, MAX_PAYLOAD, b"device::" + bytes(MAX_PAYLOAD - 8))
            peer.linger()

        with Hostile(script) as phone, bounded(6), pytest.raises(ProtocolError, match="banner"):
            connect(phone)


commands = st.sampled_from(["SYNC", "OPEN", "OKAY", "CLSE", "WRTE", "CNXN", "AUTH", "STLS"])
likely_ids = st.one_of(st.integers(0, 3), st.integers(0, 0xFFFFFFFF))
frames = st.builds(
    lambda command, arg0, arg1, payload: header(command, arg0, arg1, payload) + payload,
    commands,
    likely_ids,
    likely_ids,
    st.one_of(st.just(struct.pack("<i", 100)), st.binary(max_size=50)),
)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    answer=st.one_of(st.none(), frames),
    said=st.lists(st.one_of(frames, st.binary(max_size=60)), max_size=12),
    features=st.sampled_from([WINDOWED, FEATURES]),
)
def test_whatever_a_phone_says_it_ends_in_data_or_a_named_error(
    answer: bytes | None, said: list[bytes], features: str
) -> None:
    def script(peer: Peer) -> None:
        peer.shake(features)
        if answer is None:
            peer.accept_open()
        else:
            peer.read_until("OPEN")
            peer.sock.sendall(answer)
        peer.sock.sendall(b"".join(said))

    with Hostile(script) as phone:
        try:
            with (
                connect(phone) as connection,
                connection.open("x:", soon()) as stream,
                ThreadPoolExecutor(1) as pool,
            ):
                writing = pool.submit(stream.write, bytes(1000), soon())
                while stream.read(100, soon()):
                    pass
                writing.result(timeout=60)
        except DeviceError as error:
            assert error.device == phone.serial  # noqa: PT017  # data or an error: both are right


def _until_ended(connection: DirectConnection) -> None:
    _wait_until(lambda: not connection.alive())


def _wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
