"""Google's adbd under proot: what all bodies owe is in test_bodies; this is what only this one gets wrong."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from devicelab.errors import VirtualPhoneError
from devicelab.virtual.client import VirtualPhone
from devicelab.virtual.desk import VirtualDesk
from devicelab.virtual.proot import fetch_proot
from tests.virtual.adbclient import Adb
from tests.virtual.wire import Wire, shell

LISTEN = "0A"
LOOPBACK = {"0100007F", "00000000000000000000000001000000"}


@pytest.fixture
def phone(desk: VirtualDesk) -> VirtualPhone:
    return desk.up(["pixel"], body="proot")[0]


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def family_of(phone: VirtualPhone) -> list[psutil.Process]:
    """The keeper and everything below it."""
    keeper = psutil.Process(phone.pid)
    return [keeper, *keeper.children(recursive=True)]


def socket_families(pid: int) -> list[int]:
    """The address families of a process's sockets, asked of copies (pidfd_getfd)."""
    found = []
    pidfd = os.pidfd_open(pid)
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        fd = ctypes.CDLL(None).syscall(438, pidfd, int(entry.name), 0)
        try:
            with socket.socket(fileno=fd) as copy:
                found.append(copy.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN))
        except OSError:  # no socket
            os.close(fd)
    os.close(pidfd)
    return found


def listeners(phone: VirtualPhone) -> dict[str, str]:
    """Socket inode -> address of everything that the phone's processes listen on, TCP and bound UDP."""
    inodes = set()
    for process in family_of(phone):
        for fd in Path(f"/proc/{process.pid}/fd").iterdir():
            inodes.add(str(fd.readlink()) if fd.is_symlink() else "")
    found = {}
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
            words = line.split()
            if f"socket:[{words[9]}]" in inodes and (words[3] == LISTEN or table.startswith("udp")):
                found[words[9]] = words[1].partition(":")[0]
    return found


def test_the_real_adb_works_with_it(phone: VirtualPhone, adb: Adb, tmp_path: Path) -> None:
    serial = f"127.0.0.1:{phone.port}"
    adb("connect", serial)
    adb.wait(serial, "device")
    assert b"uid=2000(shell)" in adb("shell", "id").stdout
    assert adb("shell", "exit 7", check=False).returncode == 7
    (tmp_path / "file").write_bytes(os.urandom(300_000))
    adb("push", str(tmp_path / "file"), "/data/local/tmp/file")
    adb("pull", "/data/local/tmp/file", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == (tmp_path / "file").read_bytes()
    assert adb("shell", "env").stdout.decode().count("PROOT") == 0


def test_nothing_listens_but_the_relay(phone: VirtualPhone) -> None:
    with Wire(phone.port) as wire:
        wire.shell("echo it has booted")
        assert set(listeners(phone).values()) == {"0100007F"}
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        wire.send_open(f"exec:exec toybox nc -l -p {port} -s 0.0.0.0")
        wait_for(lambda: len(listeners(phone)) == 2)
        assert set(listeners(phone).values()) <= LOOPBACK


def test_it_has_no_sockets_but_unix_and_internet_ones(phone: VirtualPhone) -> None:
    """vsock is in no table of this kernel's that we could read, so every socket of the family is looked at."""
    with Wire(phone.port) as wire:
        wire.shell("echo it has booted")
        families = [family for process in family_of(phone)[1:] for family in socket_families(process.pid)]
        assert set(families) == {socket.AF_UNIX}
        assert len(families) > 3


def test_a_phone_that_destroys_itself_leaves_the_image_whole(
    phone: VirtualPhone, desk: VirtualDesk, image: Path
) -> None:
    before = sorted(path.name for path in (image / "system/bin").iterdir())
    shell(phone.port, "rm -rf /system /usr /data/local /vendor 2>/dev/null; echo done")
    assert sorted(path.name for path in (image / "system/bin").iterdir()) == before
    desk.down()
    assert desk.list() == []


def test_what_it_cannot_do_it_says(phone: VirtualPhone) -> None:
    assert "no disk quota" in phone.limits
    with pytest.raises(VirtualPhoneError, match="proot knows no quota"):
        phone.set_disk(1 << 20)


WITHOUT_NAMESPACES = """
import sys
from pathlib import Path
from devicelab.virtual.desk import VirtualDesk
from devicelab.virtual.probe import choose_body, namespaces_problem
from tests.virtual.wire import shell
assert namespaces_problem() is not None
assert choose_body() == "proot"
desk = VirtualDesk(Path(sys.argv[1]))
try:
    phone = desk.up(["pixel"])[0]
    print(phone.body, shell(phone.port, "getprop ro.product.model").strip())
finally:
    desk.down()
"""


def test_it_is_chosen_where_namespaces_are_refused(tmp_path: Path, image: Path) -> None:
    fetch_proot()
    inner = f'echo 0 > /proc/sys/user/max_user_namespaces && exec "{sys.executable}" -c "$0" "$1"'
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", inner, WITHOUT_NAMESPACES, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "proot Pixel 9\n", done.stderr


REFUSED = """
import ctypes, platform, struct, sys
from pathlib import Path
from devicelab.deadline import Deadline
from devicelab.errors import VirtualPhoneError
from devicelab.virtual import kernel
from devicelab.virtual.image import build_image
from devicelab.virtual.proot import ProotBody
from devicelab.virtual.spec import BodySpec
directory = Path(sys.argv[1])
vendor, log = directory / "vendor", directory / "log"
(vendor / "sys").mkdir(parents=True)
body = ProotBody(BodySpec("it", directory, build_image(), None, vendor, "device::", 1 << 20, log))
number = {"x86_64": 317, "aarch64": 277}[platform.machine()]
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]
program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
kernel.no_new_privileges()
header = struct.pack("@HxxxxxxQ", len(steps), ctypes.addressof(program))
assert ctypes.CDLL(None).prctl(22, 2, header, 0, 0) == 0
try:
    body.boot(Deadline("boot", 60))
except VirtualPhoneError as error:
    print(error, body.alive())
"""


def test_a_kernel_that_refuses_the_filter_gets_no_phone(tmp_path: Path, image: Path) -> None:
    fetch_proot()
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    why = "cannot confine the phone without namespaces: seccomp with a supervisor: Operation not permitted"
    assert done.stdout == f"it: adbd did not start: {why} False\n", done.stderr
