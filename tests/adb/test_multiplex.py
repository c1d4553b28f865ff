"""Streams over one link: data, flow control in both modes, ends, refusals, and nothing left behind."""

from __future__ import annotations

import struct
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from adb_shell.adb_device import AdbDevice
from adb_shell.exceptions import AdbTimeoutError, TcpTimeoutException
from adb_shell.transport.tcp_transport import TcpTransport

from devicelab.adb.direct import DirectConnection, DirectTransport
from devicelab.adb.direct_stream import WINDOW
from devicelab.adb.packets import MAX_PAYLOAD
from devicelab.deadline import Deadline
from devicelab.errors import (
    DeadlineError,
    DeviceLostError,
    ServiceRefusedError,
    StreamClosedError,
)
from tests.adb.hostile import Hostile, Peer
from tests.adb.polite import Polite, pattern


def soon(seconds: float = 20.0) -> Deadline:
    return Deadline("test", seconds)


def connect(phone: Hostile) -> DirectConnection:
    return DirectTransport(usb=False, scan_emulators=False).connect(phone.serial, soon())


def read_all(stream: object, limit: int = 1 << 20) -> bytes:
    parts = []
    while data := stream.read(limit, soon()):  # type: ignore[attr-defined]  # any Stream
        assert len(data) <= limit
        parts.append(data)
    return b"".join(parts)


# Every way in which adbds have spoken: with windows; without; before Android 9 with checksums; before 5, 4 KiB.
MODES: dict[str, dict[str, Any]] = {
    "windows": {"windowed": True},
    "one by one": {"windowed": False},
    "checksums": {"windowed": False, "version": 0x01000000, "max_payload": 256 * 1024},
    "4 KiB": {"windowed": False, "version": 0x01000000, "max_payload": 4096},
}


@pytest.fixture(params=MODES)
def phone(request: pytest.FixtureRequest) -> Iterator[Polite]:
    with Polite(**MODES[request.param]) as polite:
        yield polite
        assert not polite.violations


@pytest.fixture
def connection(phone: Polite) -> Iterator[DirectConnection]:
    with connect(phone) as opened:
        yield opened


def test_both_directions_on_one_stream(connection: DirectConnection) -> None:
    data = pattern(300_000)
    with connection.open("echo:", soon()) as stream, ThreadPoolExecutor(1) as pool:
        writing = pool.submit(stream.write, data, soon())
        received = b""
        while len(received) < len(data):
            received += stream.read(65536, soon())
        writing.result()
    assert received == data


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 3_000_000])
def test_reading_to_the_end(connection: DirectConnection, size: int) -> None:
    with connection.open(f"source:{size}", soon()) as stream:
        assert read_all(stream) == pattern(size)
        assert stream.read(1, soon()) == b""


@pytest.mark.parametrize("limit", [1, 7, 4096, 1 << 30])
def test_reads_keep_to_their_limit(connection: DirectConnection, limit: int) -> None:
    with connection.open("source:9999", soon()) as stream:
        assert read_all(stream, limit) == pattern(9999)


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_writing_anything_that_is_bytes(connection: DirectConnection, wrap: type) -> None:
    data = pattern(2_500_000)
    with connection.open(f"sink:{len(data)}", soon()) as stream:
        stream.write(wrap(data), soon())
        stream.write(b"", soon())
        assert struct.unpack("<I", read_all(stream)) == (zlib.crc32(data),)


def test_writing_a_view_of_wider_items(connection: DirectConnection) -> None:
    data = memoryview(pattern(8000)).cast("I")
    with connection.open("sink:8000", soon()) as stream:
        stream.write(data, soon())
        assert struct.unpack("<I", read_all(stream)) == (zlib.crc32(data),)


def test_a_buffer_may_change_once_write_has_returned(connection: DirectConnection) -> None:
    expected = 0
    with connection.open("sink:1000000", soon()) as stream:
        buffer = bytearray(100_000)
        for round_ in range(10):
            buffer[:] = bytes([round_]) * len(buffer)
            expected = zlib.crc32(buffer, expected)
            stream.write(buffer, soon())
            buffer[:] = b"\xff" * len(buffer)
        assert struct.unpack("<I", read_all(stream)) == (expected,)


def test_many_streams_at_once(connection: DirectConnection, phone: Polite) -> None:
    def one(size: int) -> bool:
        with connection.open(f"source:{size}", soon(60)) as stream:
            return read_all(stream) == pattern(size)

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(one, [size * 997 for size in range(60)]))
    assert phone.opens == 60


def test_a_service_that_nobody_reads_does_not_hold_up_another(connection: DirectConnection) -> None:
    with connection.open(f"source:{2 * WINDOW}", soon()), connection.open("source:100000", soon()) as other:
        assert read_all(other) == pattern(100_000)


def test_a_slow_reader_stops_the_phone(connection: DirectConnection, phone: Polite) -> None:
    with connection.open(f"source:{3 * WINDOW}", soon(60)) as stream:
        before, steady = -1, 0
        while steady < 3:  # until the phone stops sending
            time.sleep(0.1)
            steady = steady + 1 if phone.sent_bytes == before else 0
            before = phone.sent_bytes
        if phone.windowed:
            assert phone.sent_bytes <= WINDOW + 2 * MAX_PAYLOAD
        else:
            assert phone.sent_bytes <= 2 * phone.max_payload
        assert stream.read(1, soon()) == b"\0"


def test_one_byte_packets_arrive_whole(connection: DirectConnection) -> None:
    with connection.open("drip:2000", soon(60)) as stream:
        assert read_all(stream) == pattern(2000)


def test_a_refused_service_is_known_at_once(connection: DirectConnection) -> None:
    """Defect 5 of adb_shell 0.4.4; see the stock class below."""
    began = time.monotonic()
    with pytest.raises(ServiceRefusedError, match="`nonsense:1`") as caught:
        connection.open("nonsense:1", soon())
    assert time.monotonic() - began < 10
    assert caught.value.device == connection.serial
    with connection.open("source:3", soon()) as stream:
        assert read_all(stream) == pattern(3)


def test_defect_5_and_6_in_the_stock_class() -> None:
    """adb_shell waits out its time for a refused service, and keeps nothing of the banner."""
    with Polite(windowed=False) as phone:
        device = AdbDevice(TcpTransport("127.0.0.1", phone.port))
        device.connect(transport_timeout_s=5.0, read_timeout_s=5.0)
        began = time.monotonic()
        with pytest.raises((AdbTimeoutError, TcpTimeoutException)):
            device.shell("x", transport_timeout_s=1.0, read_timeout_s=1.0)
        assert time.monotonic() - began >= 0.9, "adb_shell is mended"
        assert not any("Double" in str(value) for value in vars(device).values())
        device.close()


def test_defect_6_the_banner_is_kept(connection: DirectConnection, phone: Polite) -> None:
    assert connection.banner == {"ro.product.model": "Double"}
    expected = {"shell_v2", "cmd", "stat_v2", "ls_v2"} | ({"delayed_ack"} if phone.windowed else set())
    assert connection.features == expected
    assert connection.transport == "direct"


def test_defect_8_silence_does_not_end_a_stream() -> None:
    """adb_shell drops a stream that is silent for its read timeout; here only the caller's deadline counts."""

    def quiet_then_talk(peer: Peer) -> None:
        peer.shake()
        stream = peer.accept_open()
        time.sleep(2.0)
        peer.send("WRTE", 1, stream.local, b"late")
        peer.send("CLSE", 1, stream.local)
        peer.linger()

    with (
        Hostile(quiet_then_talk) as phone,
        connect(phone) as connection,
        connection.open("x:", soon()) as stream,
    ):
        for _ in range(3):
            with pytest.raises(DeadlineError):
                stream.read(10, soon(0.1))
        assert read_all(stream) == b"late"


def test_defect_8_in_the_stock_class() -> None:
    def quiet_then_talk(peer: Peer) -> None:
        peer.shake("shell_v2")
        stream = peer.accept_open()
        time.sleep(1.5)
        peer.send("WRTE", 1, stream.local, b"late")
        peer.linger()

    with Hostile(quiet_then_talk) as phone:
        device = AdbDevice(TcpTransport("127.0.0.1", phone.port))
        device.connect(transport_timeout_s=5.0, read_timeout_s=5.0)
        with pytest.raises((AdbTimeoutError, TcpTimeoutException)):
            device.shell("x", transport_timeout_s=0.5, read_timeout_s=0.5, timeout_s=10.0)
        device.close()


def test_defect_9_writing_goes_on_while_another_thread_waits_to_read(connection: DirectConnection) -> None:
    """With one lock for both, a write waits until the reader gets something; here it never does."""
    with (
        connection.open("mute:", soon()) as silent,
        connection.open("sink:10", soon()) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        reading = pool.submit(silent.read, 1, soon())
        time.sleep(0.05)
        other.write(pattern(10), soon(10))
        assert read_all(other) == struct.pack("<I", zlib.crc32(pattern(10)))
        assert not reading.done()
        silent.close()
        with pytest.raises(StreamClosedError):
            reading.result()


def test_defect_9_in_the_stock_class() -> None:
    """While one thread waits to read, adb_shell holds the lock that every write needs."""

    def say_nothing(peer: Peer) -> None:
        peer.shake("shell_v2")
        peer.accept_open()
        peer.linger()

    with Hostile(say_nothing) as phone:
        device = AdbDevice(TcpTransport("127.0.0.1", phone.port))
        device.connect(transport_timeout_s=5.0, read_timeout_s=5.0)

        def shell() -> None:
            with pytest.raises((AdbTimeoutError, TcpTimeoutException)):
                device.shell("x", transport_timeout_s=1.5, read_timeout_s=1.5)

        reader = threading.Thread(target=shell)
        reader.start()
        lock, held = device._io_manager._transport_lock, 0
        while reader.is_alive():
            held = held + 1 if lock.locked() else 0
            time.sleep(0.01)
            if held > 20:
                break
        reader.join()
        device.close()
    assert held > 20, "adb_shell is mended"


def test_nothing_is_left_of_closed_streams(connection: DirectConnection, phone: Polite) -> None:
    for size in range(0, 30_000, 100):
        stream = connection.open(f"source:{size}", soon())
        if size % 200:
            read_all(stream)
        stream.close()
        stream.close()
    for _ in range(20):
        with pytest.raises(ServiceRefusedError):
            connection.open("nope:", soon())
    connection.open("source:0", soon()).close()  # a full round trip after the last close
    assert connection._multiplexer._streams == {}
    _wait_until(lambda: not phone.open_streams)


def test_ids_are_used_again_only_when_free_and_never_zero(connection: DirectConnection) -> None:
    multiplexer = connection._multiplexer
    multiplexer._last_id = 0xFFFFFFFE
    with connection.open("mute:", soon()) as last, connection.open("mute:", soon()) as first:
        assert (last.id, first.id) == (0xFFFFFFFF, 1)
        multiplexer._last_id = 0xFFFFFFFE
        with connection.open("source:5", soon()) as third:
            assert third.id == 2
            assert read_all(third) == pattern(5)


def test_writing_to_a_service_that_has_ended(connection: DirectConnection) -> None:
    with connection.open("source:5", soon()) as stream:
        with pytest.raises(StreamClosedError) as caught:
            stream.write(bytes(64 << 20), soon())
        assert caught.value.device == connection.serial
        assert read_all(stream) == pattern(5), "what it said before can still be read"


def test_a_stream_closed_on_this_side_is_of_no_more_use(connection: DirectConnection) -> None:
    stream = connection.open("echo:", soon())
    stream.close()
    with pytest.raises(StreamClosedError):
        stream.read(1, soon())
    with pytest.raises(StreamClosedError):
        stream.write(b"x", soon())


def test_a_deadline_names_the_phone_and_what_was_waited_for(connection: DirectConnection) -> None:
    with connection.open("mute:", soon()) as stream:
        with pytest.raises(DeadlineError, match=r"test: no end within 0\.05 s") as caught:
            stream.read(1, soon(0.05))
        assert caught.value.device == connection.serial
        with pytest.raises(DeadlineError) as caught:
            stream.write(bytes(64 << 20), soon(0.2))
        assert caught.value.device == connection.serial


def test_a_service_name_that_is_too_long_is_refused_here(connection: DirectConnection, phone: Polite) -> None:
    with pytest.raises(ServiceRefusedError, match="service names"):
        connection.open("shell:" + "x" * phone.max_payload, soon())
    assert phone.opens == 0


def test_closing_the_connection_ends_everything(phone: Polite) -> None:
    connection = connect(phone)
    assert connection.alive()
    stream = connection.open("mute:", soon())
    names = [thread.name for thread in threading.enumerate()]
    assert f"adb {phone.serial}" in names
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(stream.read, 1, soon())
        time.sleep(0.05)
        connection.close()
        with pytest.raises((StreamClosedError, DeviceLostError)):
            reading.result(timeout=10)
    connection.close()
    assert not connection.alive()
    with pytest.raises(DeviceLostError, match="closed on this side"):
        connection.open("echo:", soon())
    assert f"adb {phone.serial}" not in [thread.name for thread in threading.enumerate()]


def test_a_phone_that_hangs_up_ends_every_wait_at_once() -> None:
    def three_streams_then_gone(peer: Peer) -> None:
        peer.shake()
        for remote in (1, 2, 3):
            peer.accept_open(remote)
        peer.read_until("OPEN")
        peer.reset()

    with Hostile(three_streams_then_gone) as phone, connect(phone) as connection:
        streams = [connection.open("x:", soon()) for _ in range(3)]
        began = time.monotonic()
        with ThreadPoolExecutor(5) as pool:
            waits = [pool.submit(stream.read, 1, soon(60)) for stream in streams]
            waits.append(pool.submit(connection.open, "y:", soon(60)))  # type: ignore[arg-type]  # another result
            for wait in waits:
                with pytest.raises(DeviceLostError, match="connection lost") as caught:
                    wait.result(timeout=30)
                assert caught.value.device == phone.serial
        assert time.monotonic() - began < 20
        errors = set()
        for stream in streams:
            with pytest.raises(DeviceLostError) as caught:
                stream.write(b"x" * (1 << 20), soon())
            errors.add(id(caught.value))


def test_what_had_arrived_is_read_before_the_loss_is_told() -> None:
    def talk_then_gone(peer: Peer) -> None:
        peer.shake()
        stream = peer.accept_open()
        peer.send("WRTE", 1, stream.local, b"last words")

    with (
        Hostile(talk_then_gone) as phone,
        connect(phone) as connection,
        connection.open("x:", soon()) as stream,
    ):
        _wait_until(lambda: connection._multiplexer._error is not None)
        assert stream.read(100, soon()) == b"last words"
        with pytest.raises(DeviceLostError):
            stream.read(100, soon())


def test_an_adbd_with_a_banner_set_by_hand_may_insist_on_windows() -> None:
    """adbd --device_banner …;features=cmd hides its delayed_ack, and refuses every OPEN without a window."""
    with Polite(windowed=True, hidden=True) as phone, connect(phone) as connection:
        assert "delayed_ack" not in connection.features
        for _ in range(3):
            with connection.open("source:100000", soon()) as stream:
                assert read_all(stream) == pattern(100_000)
        assert phone.opens == 4, "it is found out once, not each time"
        with pytest.raises(ServiceRefusedError):
            connection.open("nope:", soon())
        assert phone.opens == 5
        assert not phone.violations


def test_a_phone_without_windows_is_asked_for_them_only_until_it_accepts_a_stream() -> None:
    with Polite(windowed=False) as phone, connect(phone) as connection:
        with pytest.raises(ServiceRefusedError):
            connection.open("nope:", soon())
        assert phone.opens == 2
        connection.open("source:0", soon()).close()
        with pytest.raises(ServiceRefusedError):
            connection.open("nope:", soon())
        assert phone.opens == 4


def _wait_until(condition: object) -> None:
    end = time.monotonic() + 20
    while not condition():  # type: ignore[operator]  # a callable
        assert time.monotonic() < end
        time.sleep(0.01)
