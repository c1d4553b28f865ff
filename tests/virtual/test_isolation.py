"""What a phone cannot reach, and who cannot reach a phone."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import platformdirs
import psutil
import pytest
import yaml

import devicelab
from devicelab.virtual.client import VirtualPhone
from devicelab.virtual.desk import VirtualDesk
from devicelab.virtual.inside import SHELL_ID
from devicelab.virtual.probe import namespaces_problem
from tests.virtual.wire import shell

NOBODY = 65534
LISTEN = "0A"
LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}


def family(phones: list[VirtualPhone]) -> list[psutil.Process]:
    """Every process of some phones: their keepers and all below them."""
    keepers = [psutil.Process(phone.pid) for phone in phones]
    found = [process for keeper in keepers for process in (keeper, *keeper.children(recursive=True))]
    assert len(found) >= 4 * len(phones)  # keeper, holder, init, adbd
    return found


def own_sockets(process: psutil.Process) -> set[str]:
    """Inode numbers of a process's sockets."""
    inodes = set()
    for fd in Path(f"/proc/{process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it has just been closed
            target = str(fd.readlink())
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    return inodes


def listeners(process: psutil.Process) -> Iterator[tuple[str, str]]:
    """(address, inode) of each listening TCP socket in a process's network namespace."""
    for name in ("tcp", "tcp6"):
        table = Path(f"/proc/{process.pid}/net/{name}").read_text(encoding="ascii")
        for line in table.splitlines()[1:]:
            words = line.split()
            if words[3] == LISTEN:
                yield words[1].partition(":")[0], words[9]


def namespace(process: psutil.Process | str, kind: str = "net") -> str:
    pid = process if isinstance(process, str) else process.pid
    return str(Path(f"/proc/{pid}/ns/{kind}").readlink())


def test_nothing_of_ours_listens_outside_loopback(desk: VirtualDesk) -> None:
    phones = desk.up(["pixel", "phone-2014", "unauthorized"])
    processes = family(phones)
    ours = {inode for process in processes for inode in own_sockets(process)}
    ports = 0

    for process in processes:
        if namespace(process) == namespace("self"):
            for address, inode in listeners(process):
                if inode in ours:
                    assert address in LOOPBACK, f"process {process} listens on {address}"
                    ports += 1
        else:  # whatever listens in here, there is only the phone's own loopback to hear it
            lines = Path(f"/proc/{process.pid}/net/dev").read_text(encoding="ascii").splitlines()[2:]
            assert [line.partition(":")[0].strip() for line in lines] == ["lo"]
            routes = Path(f"/proc/{process.pid}/net/route").read_text(encoding="ascii").splitlines()[1:]
            assert routes == []
    assert ports >= len(phones)  # the test has seen what it is about
    assert len({namespace(process) for process in processes}) == 1 + len(phones)


def _vsock_listeners(inodes: set[str]) -> list[str]:
    """Those of some sockets that are AF_VSOCK, as the kernel lists them (sock_diag(7))."""
    request = 20  # SOCK_DIAG_BY_FAMILY
    body = bytes([40, 0, 0, 0]) + (0xFFFFFFFF).to_bytes(4, sys.byteorder) + bytes(16)  # struct vsock_diag_req
    header = (16 + len(body)).to_bytes(4, sys.byteorder) + request.to_bytes(2, sys.byteorder)
    header += (0x301).to_bytes(2, sys.byteorder) + bytes(8)  # NLM_F_REQUEST | NLM_F_DUMP
    found: list[str] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as sock:  # NETLINK_SOCK_DIAG
        sock.settimeout(10)
        sock.send(header + body)
        while True:
            data = sock.recv(1 << 16)
            while data:
                size = int.from_bytes(data[:4], sys.byteorder)
                kind = int.from_bytes(data[4:6], sys.byteorder)
                if kind in (2, 3):  # NLMSG_ERROR (no vsock in this kernel at all), NLMSG_DONE
                    return found
                inode = str(int.from_bytes(data[32:36], sys.byteorder))  # vsock_diag_msg.vdiag_ino
                if inode in inodes:
                    found.append(inode)
                data = data[(size + 3) & ~3 :]


def test_no_vsock_socket_and_none_to_be_had(desk: VirtualDesk) -> None:
    phones = desk.up(["pixel"])
    assert _vsock_listeners({inode for process in family(phones) for inode in own_sockets(process)}) == []

    # The same filter in a process of ours: exactly AF_VSOCK is refused.
    script = """
import errno, socket
from devicelab.virtual.kernel import refuse_vsock
refuse_vsock()
socket.socket(socket.AF_INET).close()
socket.socket(socket.AF_UNIX).close()
try:
    socket.socket(40)
except OSError as error:
    assert error.errno == errno.EAFNOSUPPORT, error
else:
    raise SystemExit("a vsock socket")
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
assert libc.syscall(425, 1, 0) == -1 and ctypes.get_errno() == errno.ENOSYS  # io_uring_setup
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)

    for process in family(phones):
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        if process.name() in ("adbd", "init"):
            assert "Seccomp:\t2" in status
            assert "NoNewPrivs:\t1" in status
            assert "CapEff:\t0000000000000000" in status


def test_a_phone_sees_nothing_of_the_host(phone: VirtualPhone, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("mine", encoding="utf-8")

    assert "No such file" in shell(phone.port, f"cat {secret} /proc/1/root/{secret} /proc/2/root/{secret}")
    assert shell(phone.port, "id") == "uid=2000(shell) gid=2000(shell) groups=2000(shell)\n"
    names = shell(phone.port, "ps -A -o NAME").split()[1:]
    assert {"sh", "adbd"} <= set(names) <= {"sh", "adbd", "ps"}  # init is a script
    assert shell(phone.port, "hostname") == "localhost\n"
    assert shell(phone.port, "ls /sys") == "devices\n"
    assert str(tmp_path) not in shell(phone.port, "env; cat /proc/self/mountinfo | cut -d' ' -f5")


@pytest.mark.parametrize(
    "path", ["/x", "/system/bin/x", "/vendor/x", "/vendor/properties/x", "/sys/x", "/proc/sys/kernel/hostname"]
)
def test_only_data_can_be_written(phone: VirtualPhone, path: str) -> None:
    assert "failed" in shell(phone.port, f"echo x >{path} || echo failed")
    assert (
        shell(phone.port, "echo x >/data/local/tmp/x && cat /data/local/tmp/x /sdcard/none 2>/dev/null")
        == "x\n"
    )


def test_phones_do_not_see_each_other(desk: VirtualDesk) -> None:
    one, two = desk.up(["pixel", "pixel"])
    shell(one.port, "echo one >/data/local/tmp/file; setsid sleep 600 >/dev/null 2>&1 </dev/null &")

    assert "No such file" in shell(two.port, "cat /data/local/tmp/file")
    assert shell(two.port, "pgrep sleep; echo $?") == "1\n"
    processes = {process.pid: process for process in family([one, two]) if process.name() == "adbd"}
    for kind in ("net", "mnt", "pid", "uts", "ipc", "user"):
        assert len({namespace(process, kind) for process in processes.values()}) == 2


def test_adbd_is_nobody_on_the_host(phone: VirtualPhone) -> None:
    (adbd,) = (process for process in family([phone]) if process.name() == "adbd")
    uid = adbd.uids().real
    assert uid == os.getuid() if os.getuid() else uid not in (0, SHELL_ID)


_SCENARIO = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
import os
assert os.getuid() == 65534
from devicelab.virtual.desk import VirtualDesk
from devicelab.virtual.probe import namespaces_problem
assert namespaces_problem() is None, namespaces_problem()
desk = VirtualDesk(Path(sys.argv[1]))
try:
    phones = desk.up(["pixel", "phone-2014"], body="namespaces")
    from tests.virtual.wire import shell
    for phone in phones:
        assert phone.limits == ()
        print(shell(phone.port, "id -u; echo x >/data/local/tmp/x && cat /data/local/tmp/x"))
        phone.set_disk(1 << 20)
        phone.kill()
        phone.start()
        phone.freeze()
        phone.thaw()
        assert shell(phone.port, "cat /data/local/tmp/x") == "x\\n"
finally:
    desk.down()
"""


def _python_for_nobody() -> str:
    """An interpreter that an ordinary user may run; this one may live in root's home."""
    for path in (sys.executable, "/usr/bin/python3"):
        try:
            subprocess.run([path, "-c", ""], user=NOBODY, group=NOBODY, extra_groups=[], check=True)
        except OSError:
            continue
        return path
    raise AssertionError("no Python that nobody may run")


def _copy_for_nobody(image: Path, base: Path) -> Path:
    """Copies of the image, of our sources and of what they import, wherever the originals are hidden."""
    shutil.copytree(image, base / "cache/images" / image.name, symlinks=True)
    source = base / "source"
    package = Path(devicelab.__file__).parent
    shutil.copytree(package, source / "devicelab", ignore=shutil.ignore_patterns("__pycache__", "plans"))
    wire = Path("tests", "virtual", "wire.py")
    (source / wire).parent.mkdir(parents=True)
    shutil.copy2(package.parent / wire, source / wire)
    for library in (platformdirs, yaml):
        home = Path(str(library.__file__)).parent
        shutil.copytree(home, source / home.name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for path in (base, *base.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    return source


def test_an_ordinary_user_has_the_same_phones(image: Path) -> None:
    """The whole of it as nobody, if we are root; else all other tests are this one already."""
    if os.getuid() != 0:
        assert namespaces_problem() is None
        return
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        root = _copy_for_nobody(image, base)
        done = subprocess.run(
            [_python_for_nobody(), "-c", _SCENARIO, str(base / "state"), str(root)],
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            env={
                "PATH": "/usr/bin:/bin",
                "DEVICELAB_CACHE": str(base / "cache"),
                "PYTHONPATH": str(root),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            cwd="/",
            check=False,
            timeout=150,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("2000\nx\n") == 2
