"""The fake phone keeps the wire's promises, so that tests on it mean something."""

from __future__ import annotations

import threading
import time

import pytest

from devicelab.adb.connection import Connection, Endpoint, EndpointState, Stream, Transport
from devicelab.adb.fake import FakePhone, FakeResult, FakeTransport
from devicelab.adb.shell import run
from devicelab.adb.transfer import push_file
from devicelab.deadline import Deadline
from devicelab.errors import (
    DeadlineError,
    DevicelabError,
    DeviceLostError,
    DeviceNotReadyError,
    DeviceUnauthorizedError,
    RemoteCommandError,
    ServiceRefusedError,
    StreamClosedError,
)
from tests.adb.scripted import soon
from tests.measures import threads_end


def test_it_is_a_transport_with_connections_and_streams() -> None:
    transport = FakeTransport([FakePhone("A", banner={"ro.product.model": "Kite"})], name="server")
    assert isinstance(transport, Transport)
    connection: Connection = transport.connect("A", soon())
    stream: Stream = connection.open("sync:", soon())
    assert (transport.name, connection.transport, connection.serial, stream.serial) == (
        "server",
        "server",
        "A",
        "A",
    )
    assert connection.banner == {"ro.product.model": "Kite"}
    assert transport.description == "1 fake phones"
    transport.close()


def test_the_example_of_its_module() -> None:
    phone = FakePhone("R58M123", shell={"getprop ro.product.model": "Pixel 7\n"})
    with FakeTransport([phone]).connect("R58M123", soon()) as connection:
        push_file(connection, b"...", "/data/local/tmp/model.onnx", deadline=soon())
        assert run(connection, ["getprop", "ro.product.model"], deadline=soon()).text == "Pixel 7"
    assert phone.files["/data/local/tmp/model.onnx"] == b"..."
    assert phone.commands == [["getprop", "ro.product.model"]]


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        (EndpointState.ABSENT, DeviceLostError),
        (EndpointState.OFFLINE, DeviceLostError),
        (EndpointState.UNAUTHORIZED, DeviceUnauthorizedError),
        (EndpointState.NO_PERMISSION, DeviceNotReadyError),
    ],
)
def test_only_an_online_phone_can_be_reached(state: EndpointState, kind: type[DevicelabError]) -> None:
    with pytest.raises(kind) as caught:
        FakeTransport([FakePhone("A", state=state)]).connect("A", soon())
    assert caught.value.device == "A"


def test_the_listing() -> None:
    phones = [
        FakePhone("B"),
        FakePhone("A", state=EndpointState.UNAUTHORIZED),
        FakePhone("C", state=EndpointState.ABSENT),
    ]
    transport = FakeTransport(phones)
    assert transport.endpoints(["D:5555", "B"], soon()) == [
        Endpoint("A", EndpointState.UNAUTHORIZED),
        Endpoint("B", EndpointState.ONLINE),
        Endpoint("D:5555", EndpointState.ABSENT),
    ]
    with pytest.raises(DeviceLostError, match="no such phone"):
        transport.connect("Z", soon())


def test_a_cable_that_is_pulled_breaks_what_waits_and_stays_noticed() -> None:
    phone = FakePhone("A", shell={"wait": FakeResult(hangs=True), "true": ""})
    transport = FakeTransport([phone])
    with transport.connect("A", soon()) as connection:
        stream = connection.open("sync:", soon())
        assert connection.alive()
        threading.Timer(0.1, phone.unplug).start()
        with pytest.raises(DeviceLostError, match="unplugged"):
            stream.read(10, soon())
        with pytest.raises(DeviceLostError):
            stream.write(bytes(10), soon())
        phone.replug()
        assert not connection.alive()
        with pytest.raises(DeviceLostError):
            connection.open("sync:", soon())
        with transport.connect("A", soon()) as again:
            assert run(again, ["true"], deadline=soon()).code == 0


def test_a_frozen_phone_goes_on_where_it_was() -> None:
    phone = FakePhone("A", shell={"x": "done\n"})
    transport = FakeTransport([phone])
    with transport.connect("A", soon()) as connection:
        phone.freeze()
        with pytest.raises(DeadlineError, match=r"^A: "):
            transport.connect("A", Deadline("connection", 0.1))
        with pytest.raises(DeadlineError, match=r"^A: "):
            run(connection, ["x"], deadline=Deadline("x", 0.1))
        threading.Timer(0.2, phone.thaw).start()
        assert run(connection, ["x"], deadline=soon()).text == "done"


def test_closing_ends_everything_even_on_a_frozen_phone() -> None:
    phone = FakePhone("A", shell={"wait": FakeResult(hangs=True)})
    with threads_end():
        connection = FakeTransport([phone]).connect("A", soon())
        connection.open("shell,v2,raw:echo $$;exec </dev/null;wait", soon())
        connection.open("sync:", soon())
        phone.freeze()
        connection.close()
        connection.close()
    assert phone.running == []


def test_services_that_its_adbd_does_not_know() -> None:
    with FakeTransport([FakePhone("A", features=frozenset())]).connect("A", soon()) as connection:
        for service in ("shell,v2,raw:true", "nonsense:"):
            with pytest.raises(ServiceRefusedError, match=service.split(":", maxsplit=1)[0]):
                connection.open(service, soon())


def test_writing_to_a_command_that_has_ended() -> None:
    with FakeTransport([FakePhone("A", shell={"true": ""})]).connect("A", soon()) as connection:
        stream = connection.open("shell,v2,raw:echo $$;exec </dev/null;true", soon())
        while stream.read(100, soon()):
            pass
        with pytest.raises(StreamClosedError):
            stream.write(bytes(1 << 20), soon())


def test_a_command_in_no_table() -> None:
    with (
        FakeTransport([FakePhone("A")]).connect("A", soon()) as connection,
        pytest.raises(RemoteCommandError, match="sh: ls: inaccessible or not found"),
    ):
        run(connection, ["ls"], deadline=soon())


def test_watching() -> None:
    phone = FakePhone("A")
    stop = threading.Event()
    lists = FakeTransport([phone]).watch(["B:1"], stop)
    assert next(lists) == [Endpoint("A", EndpointState.ONLINE), Endpoint("B:1", EndpointState.ABSENT)]
    phone.unplug()
    assert next(lists) == [Endpoint("B:1", EndpointState.ABSENT)]
    begin = time.monotonic()
    assert next(lists) == [Endpoint("B:1", EndpointState.ABSENT)]  # at least once a second
    assert time.monotonic() - begin < 10
    stop.set()
    assert list(lists) == []
