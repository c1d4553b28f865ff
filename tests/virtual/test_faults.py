"""Every fault, done to real phones and seen from the host."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devicelab.errors import ConfigError, VirtualPhoneError
from devicelab.virtual.client import VirtualPhone
from devicelab.virtual.desk import VirtualDesk
from devicelab.virtual.faults import FAULTS, require_fault
from tests.virtual.adbclient import Adb
from tests.virtual.wire import Wire, shell


def wait_for(what: Callable[[], Any], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def refused(phone: VirtualPhone) -> bool:
    try:
        socket.create_connection(("127.0.0.1", phone.port), 5).close()
    except ConnectionRefusedError:
        return True
    return False


def boot_id(phone: VirtualPhone) -> str:
    return shell(phone.port, "cat /proc/sys/kernel/random/boot_id").strip()


def drain(wire: Wire) -> None:
    while True:
        wire.receive()


@contextmanager
def hung_up(wire: Wire) -> Iterator[None]:
    """The connection ends within the block."""
    yield
    wire.sock.settimeout(30)
    with pytest.raises(ConnectionError):
        drain(wire)


def test_a_killed_phone_boots_again_with_its_data(phone: VirtualPhone) -> None:
    shell(
        phone.port,
        "echo kept >/data/local/tmp/file; setprop debug.mine 1; setsid sleep 1000 >/dev/null 2>&1 </dev/null &",
    )
    before = boot_id(phone)

    with Wire(phone.port) as wire, hung_up(wire):
        phone.kill()

    assert refused(phone)
    assert phone.status()["power"] == "off"
    phone.kill()
    phone.start()
    with pytest.raises(VirtualPhoneError, match="running already"):
        phone.start()
    assert shell(phone.port, "cat /data/local/tmp/file; getprop debug.mine; pgrep -c sleep") == "kept\n\n0\n"
    assert boot_id(phone) not in ("", before)
    assert boot_id(phone) == phone.status()["boot_id"]


def test_a_frozen_phone_accepts_and_never_answers(phone: VirtualPhone) -> None:
    with Wire(phone.port) as wire:
        phone.freeze()
        assert phone.status()["power"] == "frozen"
        late = socket.create_connection(("127.0.0.1", phone.port), 5)
        wire.sock.settimeout(1)
        with pytest.raises(TimeoutError):
            wire.shell("echo anybody")

        phone.thaw()

        wire.sock.settimeout(30)
        assert wire.shell("echo back") == "back\n"
        late.close()


def test_a_frozen_phone_can_be_killed(phone: VirtualPhone) -> None:
    phone.freeze()
    phone.kill()
    phone.start()
    assert shell(phone.port, "echo alive") == "alive\n"


def test_an_unplugged_phone_runs_on(phone: VirtualPhone) -> None:
    shell(phone.port, "setsid sh -c 'sleep 1; echo done >/data/local/tmp/job' >/dev/null 2>&1 </dev/null &")
    before = boot_id(phone)

    with Wire(phone.port) as wire, hung_up(wire):
        phone.unplug()

    assert refused(phone)
    assert phone.status()["power"] == "on"
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):  # the port stays the phone's
            thief.bind(("127.0.0.1", phone.port))
    phone.replug()
    assert boot_id(phone) == before
    wait_for(lambda: shell(phone.port, "cat /data/local/tmp/job 2>/dev/null") == "done\n")


def test_a_phone_killed_while_unplugged_stays_unplugged(phone: VirtualPhone) -> None:
    phone.unplug()
    phone.kill()
    phone.start()
    assert refused(phone)
    phone.replug()
    assert shell(phone.port, "echo here") == "here\n"


def test_a_rebooting_phone_is_gone_for_a_while(phone: VirtualPhone) -> None:
    before = boot_id(phone)

    phone.reboot(1.0)

    assert refused(phone)
    assert phone.status()["power"] == "off"
    wait_for(lambda: not refused(phone))
    assert boot_id(phone) != before


def test_kill_ends_a_reboot(phone: VirtualPhone) -> None:
    phone.reboot(0.2)
    phone.kill()
    time.sleep(1)
    assert phone.status()["power"] == "off"


def test_a_small_disk_fills_up(phone: VirtualPhone) -> None:
    phone.set_disk(1 << 20)

    assert "No space left on device" in shell(phone.port, "head -c 3000000 /dev/zero >/data/local/tmp/big")
    assert int(shell(phone.port, "wc -c </data/local/tmp/big")) <= 1 << 20

    phone.set_disk(8 << 20)
    assert (
        shell(phone.port, "head -c 3000000 /dev/zero >/data/local/tmp/big; wc -c </data/local/tmp/big")
        == "3000000\n"
    )
    phone.set_disk(1000)  # less than what is in use: as small as it gets
    assert df(phone)["Available"] < 16
    assert shell(phone.port, "wc -c </data/local/tmp/big") == "3000000\n"


def df(phone: VirtualPhone) -> dict[str, int]:
    """Kilobytes of /data as the phone prints them."""
    head, line = shell(phone.port, "df -k /data").splitlines()
    return dict(zip(head.split()[1:4], map(int, line.split()[1:4]), strict=True))


def test_a_filled_phone_is_as_large_as_before(phone: VirtualPhone) -> None:
    before = df(phone)

    phone.fill(50 << 20)
    after = df(phone)
    assert after["Available"] == 50 << 10
    assert after["1K-blocks"] == before["1K-blocks"]
    assert after["Used"] == before["1K-blocks"] - (50 << 10)

    phone.fill(1 << 20)
    assert df(phone)["1K-blocks"] == before["1K-blocks"]
    assert "No space left" in shell(phone.port, "head -c 2000000 /dev/zero >/data/local/tmp/big")


def test_a_slow_link_is_as_slow_as_asked_and_fast_again(phone: VirtualPhone) -> None:
    def seconds(size: int) -> float:
        with Wire(phone.port) as wire:
            begin = time.monotonic()
            assert len(wire.call(f"exec:head -c {size} /dev/zero")) == size
            return time.monotonic() - begin

    phone.set_link(1e6)
    assert seconds(1_500_000) > 1.3
    phone.set_link(None, latency=0.15)
    assert seconds(1) > 0.3  # there and back
    phone.set_link(None)
    assert seconds(20_000_000) < 15


def test_a_slow_link_is_slow_for_streams_that_are_open_already(phone: VirtualPhone) -> None:
    with Wire(phone.port) as wire:
        assert wire.shell("echo quick") == "quick\n"
        phone.set_link(2e5)
        begin = time.monotonic()
        wire.call("exec:head -c 400000 /dev/zero")
        assert time.monotonic() - begin > 1.5


def test_unplug_ends_a_transfer_over_a_slow_link_at_once(phone: VirtualPhone) -> None:
    phone.set_link(1000)
    with Wire(phone.port) as wire:
        errors: list[BaseException] = []

        def transfer() -> None:
            try:
                wire.call("exec:head -c 10000000 /dev/zero")
            except ConnectionError as error:
                errors.append(error)

        thread = threading.Thread(target=transfer)
        thread.start()
        time.sleep(0.5)
        phone.unplug()
        thread.join(20)
        assert not thread.is_alive()
        assert errors


def test_battery_and_temperature_show_in_the_phones_words(phone: VirtualPhone) -> None:
    phone.set_battery(15)
    phone.set_temperature(41.5)
    phone.set_thermal_status(2)

    battery = shell(phone.port, "dumpsys battery")
    thermal = shell(phone.port, "dumpsys thermalservice")

    assert "\n  level: 15\n" in battery
    assert "\n  temperature: 415\n" in battery
    assert "Thermal Status: 2\n" in thermal
    assert "mValue=41.5, mType=2, mName=battery" in thermal


def test_sensors_follow_curves(phone: VirtualPhone) -> None:
    phone.set_temperature([(0, 20.0), (2, 60.0)])
    phone.set_battery([(0, 100), (1, 10), (60, 10)])

    first = phone.status()
    assert 19 <= first["celsius"] < 60
    wait_for(lambda: phone.status()["celsius"] == 60.0)
    assert phone.status()["level"] == 10
    assert "temperature: 600" in shell(phone.port, "dumpsys battery")

    phone.set_battery(50)  # the curve is over
    time.sleep(1)
    assert phone.status()["level"] == 50


def test_authorization_is_asked_for_and_answered(desk: VirtualDesk, adb: Adb) -> None:
    phone = desk.up(["unauthorized"])[0]
    with pytest.raises(VirtualPhoneError, match="no computer is asking"):
        phone.authorize("allow")

    adb("connect", phone.address)
    adb.wait(phone.address, "unauthorized")
    wait_for(lambda: phone.status()["questions"])
    assert "Allow USB debugging?" in phone.status()["questions"][0]

    phone.authorize("always")
    adb.wait(phone.address, "device")
    wait_for(lambda: not phone.status()["questions"])  # adb may know a moment before the screen does
    assert adb("-s", phone.address, "shell", "id -u").stdout == b"2000\n"

    phone.kill()
    phone.start()
    adb("disconnect", phone.address)
    adb("connect", phone.address)
    adb.wait(phone.address, "device")  # it remembers


def test_a_phone_that_is_off_says_so(phone: VirtualPhone) -> None:
    phone.kill()
    for fault in (phone.freeze, phone.thaw):
        with pytest.raises(VirtualPhoneError, match="it is off"):
            fault()


def test_adbd_that_crashes_comes_back_by_itself(phone: VirtualPhone) -> None:
    time.sleep(3)  # init takes an adbd that dies at once for one that cannot run at all
    with Wire(phone.port) as wire, hung_up(wire):
        wire.send_open("exec:kill -9 $(pidof adbd)")

    def answers() -> bool:
        try:
            return shell(phone.port, "echo here") == "here\n"
        except ConnectionError:
            return False

    wait_for(answers)


def test_numbers_that_make_no_sense_change_nothing(phone: VirtualPhone) -> None:
    before = phone.status()
    nonsense: list[Callable[[], None]] = [
        lambda: phone.set_battery(101),
        lambda: phone.set_battery([(0, 50), (1, float("nan"))]),
        lambda: phone.set_battery([(1, 50), (0, 50)]),
        lambda: phone.set_battery([]),
        lambda: phone.set_temperature(float("nan")),
        lambda: phone.set_thermal_status(7),
        lambda: phone.set_link(0),
        lambda: phone.set_link(1e6, latency=-1),
        lambda: phone.set_disk(-1),
        lambda: phone.fill(1 << 60),
        lambda: phone.reboot(-1),
    ]
    for wrong in nonsense:
        with pytest.raises(VirtualPhoneError, match=r"outside|order of time"):
            wrong()
    assert phone.status() == before
    assert shell(phone.port, "echo well") == "well\n"


CALLS = [
    ("kill", None),
    ("start", None),
    ("freeze", None),
    ("thaw", None),
    ("unplug", None),
    ("replug", None),
    ("disk", "64MB"),
    ("fill", "10MB"),
    ("link", "1MB/5ms"),
    ("link", "none"),
    ("battery", "0:80,1:20"),
    ("battery", "42"),
    ("temperature", "36.6"),
    ("thermal", "1"),
    ("reboot", None),
]


def test_every_fault_by_name(phone: VirtualPhone) -> None:
    for name, value in CALLS:
        FAULTS[name].run(phone, value)
    assert {name for name, _ in CALLS} | {"authorize"} == set(FAULTS)
    status = phone.status()
    assert (status["level"], status["celsius"], status["thermal_status"]) == (42, 36.6, 1)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("kill", "now", "takes no value"),
        ("disk", None, "needs a value"),
        ("disk", "much", "not a size"),
        ("link", "0", "at least one byte"),
        ("link", "1MB/soon", "not milliseconds"),
        ("battery", "101", "outside"),
        ("battery", "5:1,3:2", "backwards"),
        ("battery", "nan", "outside"),
        ("temperature", "warm", "not degrees"),
        ("thermal", "1.5", "not a thermal status"),
        ("authorize", "maybe", "not an answer"),
        ("reboot", "-1", "outside"),
    ],
)
def test_wrong_values_are_refused_before_a_phone_is_asked(name: str, value: str | None, message: str) -> None:
    nobody: Any = None
    with pytest.raises(ConfigError, match=message):
        FAULTS[name].run(nobody, value)


def test_an_unknown_fault_is_refused_with_the_nearest() -> None:
    assert require_fault("kill") is FAULTS["kill"]
    with pytest.raises(ConfigError, match="no fault 'unplugg'") as error:
        require_fault("unplugg")
    assert error.value.hint == "did you mean unplug?"
    with pytest.raises(ConfigError) as error:
        require_fault("x")
    assert "freeze" in str(error.value.hint)


@given(st.sampled_from([name for name, fault in FAULTS.items() if fault.argument]), st.text(max_size=20))
def test_any_text_is_read_or_refused(name: str, text: str) -> None:
    with contextlib.suppress(ConfigError):
        FAULTS[name].parse(text)
