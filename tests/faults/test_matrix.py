"""Every fault x every operation x both transports: it ends in time, says what happened and to whom, costs
next to no processor time while it waits, leaves no half file anywhere, and the next operation works."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from devicelab.adb.connection import Transport
from devicelab.adb.direct import DirectTransport
from devicelab.adb.program import ServerAddress
from devicelab.adb.server import ServerTransport
from devicelab.deadline import Deadline
from devicelab.devices.device import Device
from devicelab.devices.discovery import Discovery
from devicelab.devices.leases import Leases
from devicelab.devices.quarantine import Quarantine
from devicelab.devices.states import DeviceState
from devicelab.errors import (
    DeadlineError,
    DeviceFullError,
    DevicelabError,
    DeviceLostError,
)
from devicelab.virtual.client import VirtualPhone
from devicelab.virtual.desk import VirtualDesk
from tests.servers import AdbServer

MB = 1 << 20
REMOTE = "/data/local/tmp/matrix/payload"
SOURCE = "/data/local/tmp/source"
LARGE = 12 * MB
SLOW = 3.0 * MB  # bytes a second, so that the fault strikes in the middle of a transfer
PAYLOAD = os.urandom(LARGE)  # so that compression does not help
CRAWL = 64.0 * 1024
UNDER_WAY = 0.3  # seconds until an operation is in its middle
HELD_UP = 2.0  # seconds for an operation that ends by its deadline and by nothing else
ALLOWED = 30.0  # for one that ends by itself, on a machine however busy
GRACE = 6.0  # what is given up is also ended on the phone, for at most 1.5 s; the rest is for a busy machine
RECOVERY = 30.0  # an adb server needs up to ten to notice that a phone is back


@dataclass
class Bench:
    """One phone under test."""

    phone: VirtualPhone
    discovery: Discovery
    device: Device
    local: Path
    nap: float = 0.0  # how long a command runs

    def shell(self, seconds: float) -> None:
        self.device.shell("sleep", f"{self.nap:g}", seconds=seconds)

    def push(self, seconds: float) -> None:
        self.device.push(PAYLOAD, REMOTE, seconds=seconds)

    def pull(self, seconds: float) -> None:
        self.device.pull(SOURCE, self.local / "pulled", seconds=seconds)

    def connect(self, seconds: float) -> None:
        serial = self.device.serial
        self.device.transport.connect(serial, Deadline("connection", seconds, serial)).close()

    def discover(self, seconds: float) -> None:
        self.discovery.patience = min(seconds, ALLOWED)
        found = find(self.discovery, self.phone)
        found.close()
        if not found.ready:
            raise NotReadyError(found)


def find(discovery: Discovery, phone: VirtualPhone) -> Device:
    """The phone among what is listed: the adb server remembers those of other tests, too."""
    devices = discovery.look([phone.address])
    for device in devices:
        if device.serial != phone.address:
            device.close()
    return next(device for device in devices if device.serial == phone.address)


class NotReadyError(DevicelabError):
    """A discovery that shows the fault as a state and a reason."""

    def __init__(self, device: Device) -> None:
        super().__init__(device.reason, device=device.serial)
        self.state = device.state


@dataclass(frozen=True)
class Fault:
    """How a fault strikes, how it is undone and whether it must strike in the middle of the operation."""

    strike: Callable[[VirtualPhone], None]
    undo: Callable[[VirtualPhone], None]
    midway: bool = True


FAULTS = {
    "kill": Fault(VirtualPhone.kill, VirtualPhone.start),
    "freeze": Fault(VirtualPhone.freeze, VirtualPhone.thaw),
    "unplug": Fault(VirtualPhone.unplug, VirtualPhone.replug),
    "full": Fault(lambda phone: phone.fill(4 * MB), lambda phone: phone.set_disk(512 * MB), midway=False),
    "slow": Fault(lambda phone: phone.set_link(CRAWL, 0.02), lambda phone: phone.set_link(None), midway=False),
}
_GONE = {"connect": DeviceLostError, "shell": DeviceLostError, "push": DeviceLostError, "pull": DeviceLostError}
_SILENT = dict.fromkeys(("connect", "shell", "push", "pull"), DeadlineError)
EXPECTED: dict[str, dict[str, type[DevicelabError] | DeviceState]] = {
    "kill": {**_GONE, "discover": DeviceState.ABSENT},
    "unplug": {**_GONE, "discover": DeviceState.ABSENT},
    "freeze": {**_SILENT, "discover": DeviceState.OFFLINE},
    "full": {"push": DeviceFullError, "discover": DeviceState.QUARANTINED},
    "slow": {"push": DeadlineError, "pull": DeadlineError},
}
OPERATIONS = ("connect", "shell", "push", "pull", "discover")


@pytest.fixture(params=["direct", "server"])
def transport(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Transport]:
    if request.param == "direct":
        made: Transport = DirectTransport(keys_dir=tmp_path / "keys", scan_emulators=False, usb=False)
    else:
        server: AdbServer = request.getfixturevalue("adb_server")
        address = ServerAddress(port=server.port)
        made = ServerTransport.running(address, deadline=Deadline("adb server", 10))
    yield made
    made.close()


@pytest.fixture
def sound_phone(module_desk: VirtualDesk) -> VirtualPhone:
    """That of the cell before, or another one where that cell failed to undo its fault."""
    for phone in module_desk.list():
        status = phone.status()
        if status["power"] == "on" and status["plugged"]:
            return phone
    module_desk.down()
    return module_desk.up(["pixel"])[0]


@pytest.fixture
def bench(transport: Transport, sound_phone: VirtualPhone, tmp_path: Path) -> Iterator[Bench]:
    phone = sound_phone
    phone.set_link(None)
    phone.set_disk(512 * MB)
    with Leases(tmp_path / "leases") as leases:
        discovery = Discovery(transport, leases, Quarantine(tmp_path / "state"), patience=ALLOWED)
        device = find(discovery, phone)
        assert device.ready, device.verdict
        device.shell("dd", "if=/dev/urandom", f"of={SOURCE}", f"bs={MB}", f"count={LARGE // MB}")
        local = tmp_path / "local"
        local.mkdir()
        with device:
            yield Bench(phone, discovery, device, local)


@dataclass
class Outcome:
    error: DevicelabError | None
    seconds: float
    processor: float


def _run(operation: Callable[[float], None], seconds: float, strike: Callable[[], None] | None) -> Outcome:
    """Run an operation; ``strike`` in the middle of it, unless that has already been done."""
    timer = threading.Timer(UNDER_WAY, strike) if strike is not None else None
    if timer is not None:
        timer.start()
    error: DevicelabError | None = None
    begin, processor = time.monotonic(), time.process_time()
    try:
        operation(seconds)
    except DevicelabError as caught:
        error = caught
    outcome = Outcome(error, time.monotonic() - begin, time.process_time() - processor)
    if timer is not None:
        timer.join()
    return outcome


def _no_parts(bench: Bench) -> None:
    listed = bench.device.shell("ls", "-R", "/data/local/tmp", seconds=RECOVERY).text
    assert ".part" not in listed
    assert not [path for path in bench.local.rglob("*") if ".part" in path.name]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", FAULTS)
def test_cell(bench: Bench, name: str, operation: str) -> None:
    fault, expected = FAULTS[name], EXPECTED[name].get(operation)
    run = getattr(bench, operation)
    midway = fault.midway and operation not in {"connect", "discover"}
    if midway:
        bench.phone.set_link(SLOW)
        bench.nap = 2 * ALLOWED
    else:
        fault.strike(bench.phone)
    allowed = HELD_UP if expected in {DeadlineError, DeviceState.OFFLINE} else ALLOWED

    outcome = _run(run, allowed, (lambda: fault.strike(bench.phone)) if midway else None)

    assert outcome.seconds < allowed + GRACE
    # This process's own time, which no other's takes from it. What ends by itself has also done some work.
    assert outcome.processor < 0.2 * outcome.seconds + (0.0 if allowed == HELD_UP else 0.5)
    if expected is None:
        assert outcome.error is None
    elif isinstance(expected, DeviceState):
        assert isinstance(outcome.error, NotReadyError)
        assert outcome.error.state is expected
        assert outcome.error.message
    else:
        assert type(outcome.error) is expected
    if outcome.error is not None:
        assert outcome.error.device == bench.device.serial

    fault.undo(bench.phone)
    bench.phone.set_link(None)
    bench.nap = 0.0
    deadline = Deadline("recovery", RECOVERY)
    while True:  # the next operation works, as soon as the transport has found the phone again
        try:
            run(deadline.remaining())
            break
        except NotReadyError:
            time.sleep(deadline.capped(0.2))
    _no_parts(bench)
