from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from devicelab.deadline import Deadline
from devicelab.devices.processes import start_time
from devicelab.errors import ConfigError, VirtualPhoneError
from devicelab.virtual import registry
from devicelab.virtual.client import VirtualPhone
from devicelab.virtual.desk import VirtualDesk
from devicelab.virtual.plan import plan_phone
from devicelab.virtual.profile import Profile, load_profile
from tests.virtual.wire import shell


def directories(desk: VirtualDesk) -> list[str]:
    return sorted(path.name for path in desk.directory.iterdir() if path.is_dir())


def processes(desk: VirtualDesk) -> list[psutil.Process]:
    """Every process that has to do with this desk: by its command line, its log or what it was started from."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(desk.directory) in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
                found += process.children(recursive=True)
        except psutil.Error:
            continue
    return [process for process in found if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def wait_until_gone(desk: VirtualDesk, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while left := processes(desk):
        assert time.monotonic() < end, left
        time.sleep(0.05)


def test_phones_come_up_are_listed_and_go_down(desk: VirtualDesk) -> None:
    phones = desk.up(["pixel", "pixel"])

    assert [phone.name for phone in phones] == ["pixel-1", "pixel-2"]
    assert desk.list() == sorted(phones, key=lambda phone: phone.port)
    assert desk.addresses() == [phone.address for phone in desk.list()]
    assert desk.find("pixel-2") == phones[1]
    for phone in phones:
        assert shell(phone.port, "getprop ro.serialno") == f"{phone.serial}\n"
        assert phone.status()["power"] == "on"
        assert not 5555 <= phone.port <= 5585
    assert phones[0].serial != phones[1].serial

    assert desk.down(["pixel-1"]) == ["pixel-1"]
    assert [phone.name for phone in desk.list()] == ["pixel-2"]
    assert desk.down() == ["pixel-2"]
    assert directories(desk) == []
    wait_until_gone(desk)
    with pytest.raises(VirtualPhoneError, match=r"pixel-1: its keeper does not answer"):
        phones[0].status()


def test_nothing_is_there_before_up(desk: VirtualDesk) -> None:
    assert desk.list() == []
    assert desk.down() == []
    assert not desk.directory.exists()


def test_unknown_names_are_refused_with_the_known_ones(desk: VirtualDesk) -> None:
    desk.up(["pixel"])
    with pytest.raises(ConfigError, match="no virtual phone is called 'pixel-9'") as error:
        desk.down(["pixel-9"])
    assert "pixel-1" in str(error.value.hint)
    with pytest.raises(ConfigError, match="no virtual phone is called 'x'"):
        desk.find("x")


def test_a_phone_keeps_its_port_and_serial_by_name(desk: VirtualDesk) -> None:
    first = desk.up(["pixel"])[0]
    desk.down()
    again = desk.up(["pixel"])[0]

    assert again.serial == first.serial


def test_up_is_all_or_nothing(desk: VirtualDesk, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("based_on: pixel\ncommands: [no-such-command]\n", encoding="utf-8")

    with pytest.raises(ConfigError, match="no-such-command"):
        desk.up(["pixel", str(bad)])

    assert directories(desk) == []


def test_a_phone_that_does_not_start_takes_the_others_with_it(
    desk: VirtualDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = plan_phone

    def broken(profile: Profile, *rest: object) -> object:
        spec = real(profile, *rest)  # type: ignore[arg-type]  # passed through
        if profile.name == "hot":
            (spec.directory / "body").touch()  # where the body wants a directory
        return spec

    monkeypatch.setattr("devicelab.virtual.desk.plan_phone", broken)
    with pytest.raises(ConfigError, match=r"hot-1: cannot start it: .*/hot-1/body"):
        desk.up(["pixel", "hot", "pixel"])

    assert directories(desk) == []
    wait_until_gone(desk)


def test_a_killed_keeper_leaves_no_process_and_its_directory_is_swept(desk: VirtualDesk) -> None:
    dead, living = desk.up(["pixel", "pixel"])
    assert len(processes(desk)) > 4

    os.kill(dead.pid, signal.SIGKILL)

    end = time.monotonic() + 20
    while not registry.is_free(dead.directory):
        assert time.monotonic() < end
        time.sleep(0.01)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", dead.port), 5)
    assert str(desk.directory) not in Path("/proc/self/mounts").read_text(encoding="utf-8")
    assert [phone.name for phone in desk.list()] == [living.name]
    assert directories(desk) == [living.name]
    assert shell(living.port, "echo here") == "here\n"
    desk.down()
    wait_until_gone(desk)


def test_a_stopped_keeper_is_killed_by_down(desk: VirtualDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devicelab.virtual.desk._PATIENCE_SECONDS", 1.0)
    phone = desk.up(["pixel"])[0]
    os.kill(phone.pid, signal.SIGSTOP)

    assert desk.down() == ["pixel-1"]

    wait_until_gone(desk)


def test_a_recycled_process_id_is_nobody_to_end(tmp_path: Path) -> None:
    bystander = subprocess.Popen(["sleep", "100"])
    try:
        (tmp_path / "lock").write_text(f"{bystander.pid} 1\n", encoding="utf-8")
        registry.stop(tmp_path)
        time.sleep(0.2)
        assert bystander.poll() is None

        (tmp_path / "lock").write_text(f"{bystander.pid} {start_time(bystander.pid)}\n", encoding="utf-8")
        registry.stop(tmp_path)
        assert bystander.wait(30) == -signal.SIGTERM
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.parametrize("remains", ["nothing", "lock", "phone.json", "everything"])
def test_leftovers_are_swept(desk: VirtualDesk, remains: str) -> None:
    phone = desk.up(["pixel"])[0]
    leftover = desk.directory / "pixel-2"
    leftover.mkdir()
    if remains in ("lock", "everything"):
        (leftover / "lock").write_text("4194000 77\n", encoding="utf-8")
    if remains in ("phone.json", "everything"):
        (leftover / "phone.json").write_text(json.dumps({"name": "pixel-2", "pid": 4194000}), encoding="utf-8")

    assert desk.list() == [phone]

    assert directories(desk) == ["pixel-1"]


_UP = """
import sys
from pathlib import Path
from devicelab.virtual.desk import VirtualDesk
VirtualDesk(Path(sys.argv[1])).up(["pixel"] * 3)
"""


def test_up_killed_at_any_moment_leaves_what_the_next_command_cleans(desk: VirtualDesk) -> None:
    chance = random.Random(20)
    state = desk.directory.parent
    for _ in range(8):
        command = subprocess.Popen([sys.executable, "-c", _UP, str(state)], start_new_session=True)
        time.sleep(chance.uniform(0.05, 0.9))
        command.kill()
        command.wait()
        # All phones or none; and a moment later, when keepers have noticed that nobody wants them, all is calm.
        end = time.monotonic() + 30
        while (count := len(desk.list())) not in (0, 3):
            assert time.monotonic() < end, directories(desk)
            time.sleep(0.05)
        assert len(desk.down()) in (0, count, 3)
        wait_until_gone(desk)
        if desk.directory.exists():
            assert directories(desk) == []
    assert len(desk.up(["pixel"])) == 1


def test_the_launcher_killed_leaves_what_up_itself_cleans(
    desk: VirtualDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Assassin(subprocess.Popen[bytes]):
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options)  # type: ignore[call-overload]  # passed through
            time.sleep(0.05)
            self.kill()

    monkeypatch.setattr("devicelab.virtual.desk.subprocess.Popen", Assassin)
    with pytest.raises(VirtualPhoneError, match="its keeper"):
        desk.up(["pixel", "pixel"])

    assert directories(desk) == []
    wait_until_gone(desk)


def _one_up(state: Path) -> list[tuple[str, int]]:
    return [(phone.name, phone.port) for phone in VirtualDesk(state).up(["pixel", "hot"])]


def test_a_keeper_killed_at_its_start_is_reported_at_once(
    desk: VirtualDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = plan_phone

    def slow(profile: Profile, *rest: object) -> object:
        spec = real(profile, *rest)  # type: ignore[arg-type]  # passed through
        if profile.name == "hot":
            os.mkfifo(spec.directory / "keeper.log")  # to be opened by nobody: there the keeper hangs
        return spec

    def kill() -> None:
        lock = desk.directory / "hot-1/lock"
        while not (lock.exists() and lock.read_text(encoding="utf-8")):
            time.sleep(0.01)
        time.sleep(1)  # the other phone has reported by then
        os.kill(int(lock.read_text(encoding="utf-8").split()[0]), signal.SIGKILL)

    monkeypatch.setattr("devicelab.virtual.desk.plan_phone", slow)
    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(VirtualPhoneError, match=r"hot-1: its keeper was killed \(SIGKILL\)"):
        desk.up(["pixel", "hot"], deadline=Deadline("starting virtual phones", 600))
    killer.join()
    assert directories(desk) == []
    wait_until_gone(desk)


def test_the_current_directory_is_not_imported_from(
    desk: VirtualDesk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("socket.py", "devicelab.py"):
        (tmp_path / name).write_text("raise SystemExit('not this one')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert desk.up(["pixel"])[0].status()["power"] == "on"


def test_a_phone_whose_namespaces_died_is_off_for_good(desk: VirtualDesk) -> None:
    phone = desk.up(["pixel"])[0]
    (holder,) = psutil.Process(phone.pid).children()
    holder.kill()

    end = time.monotonic() + 30
    while phone.status()["power"] != "off":
        assert time.monotonic() < end
        time.sleep(0.05)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", phone.port), 5)
    with pytest.raises(VirtualPhoneError, match="is gone") as error:
        phone.start()
    assert "bring it up again" in str(error.value.hint)
    phone.kill()
    assert desk.down() == ["pixel-1"]


def test_parallel_ups_share_the_desk(desk: VirtualDesk) -> None:
    state = desk.directory.parent
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        found = [phone for phones in pool.map(_one_up, [state] * 3) for phone in phones]

    assert sorted(name for name, _ in found) == ["hot-1", "hot-2", "hot-3", "pixel-1", "pixel-2", "pixel-3"]
    assert len({port for _, port in found}) == 6
    assert {phone.port for phone in desk.list()} == {port for _, port in found}


def test_listing_does_not_wait_for_other_commands(desk: VirtualDesk) -> None:
    phone = desk.up(["pixel"])[0]
    with (desk.directory / ".lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        begin = time.monotonic()
        assert desk.list() == [phone]
        assert time.monotonic() - begin < 20


def test_the_registry_is_for_its_owner_alone(desk: VirtualDesk) -> None:
    phone = desk.up(["pixel"])[0]

    assert desk.directory.stat().st_mode & 0o777 == 0o700
    assert (phone.directory / "control.sock").stat().st_mode & 0o777 == 0o600


def test_a_keeper_survives_nonsense_on_its_control_socket(desk: VirtualDesk) -> None:
    phone = desk.up(["pixel"])[0]
    for nonsense in (
        b"\n",
        b"{}\n",
        b"[]\n",
        b'{"command": "fly"}\n',
        b'{"command": "disk", "value": []}\n',
        b"x" * 70000,
    ):
        with socket.socket(socket.AF_UNIX) as sock:
            fd = os.open(phone.directory, os.O_PATH)
            sock.connect(f"/proc/self/fd/{fd}/control.sock")
            os.close(fd)
            sock.settimeout(30)
            try:
                sock.sendall(nonsense)
                reply = sock.recv(65536)
            except ConnectionError:
                reply = b""  # too long: hung up on
        assert not reply or "bad request" in json.loads(reply)["error"]
    assert phone.status()["power"] == "on"


def test_a_phone_outlives_its_up_command(desk: VirtualDesk) -> None:
    subprocess.run([sys.executable, "-c", _UP, str(desk.directory.parent)], check=True, timeout=60)

    phones = desk.list()

    assert len(phones) == 3
    assert shell(phones[2].port, "id -u") == "2000\n"


def test_a_phone_is_read_from_its_directory(desk: VirtualDesk, tmp_path: Path) -> None:
    phone = desk.up([load_profile("pixel")])[0]

    assert VirtualPhone.read(phone.directory) == phone
    with pytest.raises(VirtualPhoneError, match="holds no running phone"):
        VirtualPhone.read(tmp_path)


def test_one_damaged_phone_hides_no_other_and_goes_down_with_the_rest(desk: VirtualDesk) -> None:
    good, bad = desk.up(["pixel", "pixel"])
    (bad.directory / "phone.json").write_bytes(b"\xff\x00damaged")
    (desk.directory / "link").symlink_to("/etc")
    assert [phone.name for phone in desk.list()] == [good.name]
    assert sorted(desk.down()) == sorted([good.name, bad.name])
    assert Path("/etc").is_dir()
    assert desk.list() == []
