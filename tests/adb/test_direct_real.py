"""The direct transport against Google's real adbd: flow control, faults, authorization, old phones."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from devicelab.adb.connection import EndpointState
from devicelab.adb.direct import DirectConnection, DirectTransport
from devicelab.adb.direct_stream import WINDOW, DirectStream
from devicelab.adb.packets import MAX_PAYLOAD
from devicelab.deadline import Deadline
from devicelab.errors import (
    DeadlineError,
    DeviceLostError,
    DeviceUnauthorizedError,
    ServiceRefusedError,
    StreamClosedError,
)
from devicelab.virtual.client import VirtualPhone
from devicelab.virtual.desk import VirtualDesk
from tests.adb.polite import pattern
from tests.measures import bounded, idle
from tests.servers import AdbServer

MB = 1 << 20


def soon(seconds: float = 30.0) -> Deadline:
    return Deadline("test", seconds)


def drain(stream: DirectStream) -> bytes:
    parts = []
    while data := stream.read(MB, soon()):
        parts.append(data)
    return b"".join(parts)


def run(connection: DirectConnection, command: str) -> bytes:
    """What a command prints, without a terminal and without the shell protocol."""
    with connection.open(f"exec:{command}", soon()) as stream:
        return drain(stream)


def through_cat(connection: DirectConnection, size: int) -> bytes:
    """cat sends back what it gets, so that both directions are full at the same time."""
    received = b""
    with connection.open("exec:cat", soon()) as stream, ThreadPoolExecutor(1) as pool:
        writing = pool.submit(stream.write, pattern(size), soon(60))
        while len(received) < size:
            received += stream.read(MB, soon(60))
        writing.result()
    return received


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def transport() -> Iterator[DirectTransport]:
    opened = DirectTransport(scan_emulators=False, usb=False, authorize_wait=0.5)
    yield opened
    opened.close()


@pytest.fixture(scope="module", params=["pixel", "phone-32bit", "phone-2014"])
def shared_phone(request: pytest.FixtureRequest, module_desk: VirtualDesk) -> VirtualPhone:
    """One of each generation: windows; one by one; checksums and 4 KiB. Nothing may be done to them."""
    return module_desk.up([request.param])[0]


@pytest.fixture
def connection(transport: DirectTransport, shared_phone: VirtualPhone) -> Iterator[DirectConnection]:
    with transport.connect(shared_phone.address, soon()) as opened:
        yield opened


class TestTransfer:
    def test_the_banner_is_the_profiles(self, connection: DirectConnection, shared_phone: VirtualPhone) -> None:
        model = run(connection, "getprop ro.product.model").decode().strip()
        assert connection.banner["ro.product.model"] == model
        assert ("shell_v2" in connection.features) is (shared_phone.profile != "phone-2014")

    @pytest.mark.parametrize("size", [1, 4096, 4097, 10 * MB])
    def test_through_and_back(self, connection: DirectConnection, size: int) -> None:
        assert through_cat(connection, size) == pattern(size)

    def test_many_streams_at_once(self, connection: DirectConnection) -> None:
        def one(number: int) -> bool:
            size = number * 10_007
            return through_cat(connection, size) == pattern(size)

        with ThreadPoolExecutor(16) as pool:
            assert all(pool.map(one, range(1, 65)))

    def test_a_reader_that_sleeps_costs_one_window(self, connection: DirectConnection) -> None:
        with bounded((WINDOW + 3 * MAX_PAYLOAD) / MB), connection.open("exec:cat /dev/zero", soon()) as stream:
            time.sleep(1.0)
            assert stream.read(10, soon()) == bytes(10)
        assert run(connection, "echo still here") == b"still here\n"

    def test_closing_a_stream_ends_its_input_on_the_phone(self, connection: DirectConnection) -> None:
        stream = connection.open("exec:echo $$; exec cat", soon())
        pid = stream.read(100, soon()).decode().strip()
        assert run(connection, f"kill -0 {pid} && echo yes") == b"yes\n"
        stream.close()
        wait_until(lambda: run(connection, f"kill -0 {pid} 2>/dev/null || echo gone") == b"gone\n")

    def test_a_command_that_does_not_read_its_input(self, connection: DirectConnection) -> None:
        with connection.open("exec:echo done", soon()) as stream:
            with pytest.raises(StreamClosedError):
                stream.write(bytes(64 * MB), soon())
            assert drain(stream) == b"done\n"

    def test_a_service_that_adbd_does_not_know(self, connection: DirectConnection) -> None:
        began = time.monotonic()
        for _ in range(5):
            with pytest.raises(ServiceRefusedError):
                connection.open("no-such-service:", soon())
        assert time.monotonic() - began < 10

    def test_a_long_command(self, connection: DirectConnection, shared_phone: VirtualPhone) -> None:
        words = "x" * 3000
        assert run(connection, f"echo {words}") == words.encode() + b"\n"
        if shared_phone.profile == "phone-2014":
            with pytest.raises(ServiceRefusedError, match="4096 bytes"):
                run(connection, f"echo {words}{words}")


class TestFaults:
    def test_a_killed_phone_ends_every_wait_at_once(
        self, phone: VirtualPhone, transport: DirectTransport
    ) -> None:
        with transport.connect(phone.address, soon()) as connection:
            streams = [connection.open("exec:sleep 100", soon()) for _ in range(3)]
            with ThreadPoolExecutor(3) as pool:
                waits = [pool.submit(stream.read, 1, soon(60)) for stream in streams]
                phone.kill()
                for wait in waits:
                    with pytest.raises(DeviceLostError) as caught:
                        wait.result(timeout=20)
                    assert caught.value.device == phone.address
            assert not connection.alive()
        with pytest.raises(DeviceLostError, match="cannot be reached"):
            transport.connect(phone.address, soon())
        phone.start()
        with transport.connect(phone.address, soon()) as connection:
            assert run(connection, "echo back") == b"back\n"

    def test_a_frozen_phone_holds_up_nobody_beyond_the_deadline(
        self, phone: VirtualPhone, transport: DirectTransport
    ) -> None:
        with transport.connect(phone.address, soon()) as connection:
            stream = connection.open("exec:cat", soon())
            phone.freeze()
            with idle():
                with pytest.raises(DeadlineError) as caught:
                    stream.read(1, soon(0.7))
                assert caught.value.device == phone.address
                with pytest.raises(DeadlineError):
                    connection.open("exec:echo", soon(0.7))
                with pytest.raises(DeadlineError) as caught:
                    transport.connect(phone.address, soon(0.7))
                assert caught.value.device == phone.address
            phone.thaw()
            stream.write(b"awake", soon())
            assert stream.read(10, soon()) == b"awake"
            assert run(connection, "echo all is well") == b"all is well\n"

    def test_a_write_cut_off_by_its_deadline_leaves_the_connection_in_step(
        self, phone: VirtualPhone, transport: DirectTransport
    ) -> None:
        with transport.connect(phone.address, soon()) as connection:
            stream = connection.open("exec:cat >/dev/null", soon())
            phone.freeze()
            with pytest.raises(DeadlineError):
                stream.write(bytes(64 * MB), soon(1.0))
            stream.close()
            phone.thaw()
            assert run(connection, "echo all is well") == b"all is well\n"

    def test_a_pulled_cable(self, phone: VirtualPhone, transport: DirectTransport) -> None:
        with transport.connect(phone.address, soon()) as connection:
            stream = connection.open("exec:cat /dev/zero", soon())
            stream.read(MB, soon())
            phone.unplug()
            with pytest.raises(DeviceLostError):
                drain(stream)
        phone.replug()
        transport.connect(phone.address, soon()).close()

    def test_watching_sees_it_go_and_come_back(self, phone: VirtualPhone, transport: DirectTransport) -> None:
        stop = threading.Event()
        states: list[EndpointState] = []
        came_back = gone = 0.0
        for (endpoint,) in transport.watch([phone.address], stop):
            if not states or states[-1] is not endpoint.state:
                states.append(endpoint.state)
                if len(states) == 1:
                    phone.unplug()
                    gone = time.monotonic()
                elif len(states) == 2:
                    assert time.monotonic() - gone < 15
                    phone.replug()
                    came_back = time.monotonic()
                else:
                    assert time.monotonic() - came_back < 15
                    stop.set()
        assert states == [EndpointState.ONLINE, EndpointState.ABSENT, EndpointState.ONLINE]


class TestAuthorization:
    def test_the_question_on_the_screen_is_the_one_that_the_hint_describes(
        self, desk: VirtualDesk, transport: DirectTransport, own_home: Path
    ) -> None:
        (phone,) = desk.up(["unauthorized"])
        questions: list[str] = []

        def look() -> None:
            wait_until(lambda: bool(phone.status()["questions"]))
            questions.extend(phone.status()["questions"])

        patient = DirectTransport(usb=False, scan_emulators=False, authorize_wait=2.0)
        with ThreadPoolExecutor(1) as pool:
            looking = pool.submit(look)
            with pytest.raises(DeviceUnauthorizedError) as caught:
                patient.connect(phone.address, soon())
            looking.result()
        fingerprint = str(caught.value.hint).rpartition(" ")[2].rstrip(".")
        assert fingerprint in questions[0]

    def test_allowed_once_means_allowed_for_adb_too(
        self, desk: VirtualDesk, own_home: Path, adb_server: AdbServer
    ) -> None:
        """One key for both: what the owner allowed us, adb's own server may do, and without asking."""
        (phone,) = desk.up(["unauthorized"])
        keys = Path(adb_server.environment["HOME"]) / ".android"
        transport = DirectTransport(keys_dir=keys, usb=False, authorize_wait=20.0)
        with ThreadPoolExecutor(1) as pool:
            connecting = pool.submit(transport.connect, phone.address, soon(60))
            wait_until(lambda: bool(phone.status()["questions"]))
            phone.authorize("always")
            with connecting.result(timeout=60) as connection:
                assert run(connection, "echo in") == b"in\n"
        hasty = DirectTransport(keys_dir=keys, usb=False, authorize_wait=0.1)
        hasty.connect(phone.address, soon()).close()
        adb_server.adb("connect", phone.address)
        wait_until(lambda: f"{phone.address}\tdevice".encode() in adb_server.adb("devices").stdout)
        assert not phone.status()["questions"]
