"""The Python body keeps a body's promises."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devicelab.deadline import Deadline
from devicelab.devices.probe import build_script, new_nonce, parse_reply
from devicelab.errors import VirtualPhoneError
from devicelab.virtual import family
from devicelab.virtual.body import Body
from devicelab.virtual.packets import CLSE, CNXN, HEADER_SIZE, OKAY, OPEN, WRTE, Packet, pack, unpack_header
from devicelab.virtual.pythonbody import PythonBody
from devicelab.virtual.spec import BodySpec


@pytest.fixture
def spec(tmp_path: Path) -> BodySpec:
    directory = tmp_path / "a phone's directory"
    vendor = directory / "vendor"
    for name, text in {
        "properties/ro.product.model": "Fake\n",
        "dumpsys/battery": "Current Battery Service state:\n  level: 50\n  temperature: 251\n",
        "proc/meminfo": "MemTotal: 4000000 kB\nMemAvailable: 2000000 kB\n",
        "proc/cpuinfo": "processor : 0\n",
        "proc/sys/kernel/random/boot_id": "00000000-1111-2222-3333-444444444444\n",
        "sys/devices/system/cpu/present": "0-7\n",
    }.items():
        (vendor / name).parent.mkdir(parents=True, exist_ok=True)
        (vendor / name).write_text(text)
    return BodySpec(
        name="fake",
        directory=directory,
        image=None,
        bin=None,
        vendor=vendor,
        banner="device::ro.product.model=Fake;features=shell_v2,cmd,stat_v2;",
        disk=1 << 20,
        log=directory / "adbd.log",
    )


@pytest.fixture
def body(spec: BodySpec) -> Iterator[PythonBody]:
    body = PythonBody(spec)
    yield body
    body.close()


def deadline() -> Deadline:
    return Deadline("test", 60)


def wait_for(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def read(sock: socket.socket) -> Packet:
    header = unpack_header(sock.recv(HEADER_SIZE, socket.MSG_WAITALL), limit=1 << 20)
    payload = sock.recv(header.length, socket.MSG_WAITALL) if header.length else b""
    return Packet(header.command, header.arg0, header.arg1, payload)


def run(body: Body, command: str) -> str:
    """What a command prints, over a connection of its own."""
    with body.connect(deadline()) as sock:
        sock.settimeout(30)
        sock.sendall(pack(Packet(CNXN, 0x01000001, 1 << 20, b"host::")))
        assert b"ro.devicelab.adbd=python" in read(sock).payload
        sock.sendall(pack(Packet(OPEN, 1, 0, f"exec:{command}\0".encode())))
        said = b""
        while (packet := read(sock)).command != CLSE:
            if packet.command == WRTE:
                said += packet.payload
                sock.sendall(pack(Packet(OKAY, 1, packet.arg0)))
        return said.decode()


def test_it_boots_answers_and_says_what_it_is(body: PythonBody) -> None:
    as_body: Body = body
    assert as_body.kind == "python"
    assert any("Python" in limit for limit in as_body.limits)
    assert not body.alive()
    with pytest.raises(ConnectionError):
        body.connect(deadline())
    body.boot(deadline())
    assert body.alive()
    assert run(body, "getprop ro.product.model") == "Fake\n"
    with pytest.raises(VirtualPhoneError, match="already running"):
        body.boot(deadline())


def test_it_passes_the_probe_of_a_usable_phone(body: PythonBody) -> None:
    body.boot(deadline())
    nonce = new_nonce()
    found = parse_reply(run(body, build_script(nonce)), nonce)
    assert found.problem is None
    assert found.facts.ram_mb == 4000000 // 1024
    assert found.facts.cores == 8
    assert found.facts.boot_id == "00000000-1111-2222-3333-444444444444"
    assert found.facts.storage_mb == 1
    assert found.facts.battery.percent == 50


def test_data_outlives_the_boot_and_properties_do_not(body: PythonBody, spec: BodySpec) -> None:
    body.boot(deadline())
    run(body, "echo kept > /data/local/tmp/x; setprop debug.x 1")
    assert run(body, "getprop debug.x") == "1\n"
    body.kill()
    assert not body.alive()
    with pytest.raises(ConnectionError):
        body.connect(deadline())
    body.boot(deadline())
    assert run(body, "cat /data/local/tmp/x; getprop debug.x") == "kept\n\n"
    body.close()
    assert not (spec.directory / "body").exists()
    body.close()


def test_kill_ends_what_hid_from_the_shell(body: PythonBody, tmp_path: Path) -> None:
    body.boot(deadline())
    run(body, f"setsid nohup sh -c 'echo $$ > {tmp_path}/pid; sleep 1007' </dev/null >/dev/null 2>&1 &")
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
    pid = (tmp_path / "pid").read_text().strip()
    assert Path("/proc", pid).exists()
    body.kill()
    assert not Path("/proc", pid).exists()


def test_a_frozen_phone_accepts_and_says_nothing_until_thawed(body: PythonBody) -> None:
    body.boot(deadline())
    body.freeze()
    assert body.alive()
    with body.connect(deadline()) as sock:
        sock.settimeout(0.3)
        sock.sendall(pack(Packet(CNXN, 0x01000001, 1 << 20, b"host::")))
        with pytest.raises(TimeoutError):
            sock.recv(1)
        body.thaw()
        sock.settimeout(30)
        assert read(sock).command == CNXN
    body.freeze()
    body.kill()
    assert not body.alive()


def test_the_disk_is_as_large_as_said(body: PythonBody) -> None:
    body.boot(deadline())
    assert body.disk_usage() == (1 << 20, 0)
    run(body, "head -c 100000 /dev/zero > /data/local/tmp/x")
    used = body.disk_usage()[1]
    assert used == 25 * 4096
    body.set_disk(1)
    assert body.disk_usage() == (used, used)
    assert run(body, "df -k /data").splitlines()[1].split()[1] == "100"


def test_an_adbd_that_dies_is_not_alive(body: PythonBody) -> None:
    body.boot(deadline())
    process = body._process
    assert process is not None
    (adbd,) = family.descendants(process.pid)
    os.kill(adbd, signal.SIGKILL)
    wait_for(lambda: not body.alive())
    body.boot(deadline())
    assert run(body, "echo again") == "again\n"


def test_what_does_not_start_says_why(spec: BodySpec, monkeypatch: pytest.MonkeyPatch) -> None:
    body = PythonBody(spec)
    monkeypatch.setattr(body, "_command", lambda: ["/bin/sh", "-c", "echo no adbd today; exit 3"])
    with pytest.raises(VirtualPhoneError, match="fake: adbd did not start: no adbd today"):
        body.boot(deadline())
    assert not body.alive()
    body.close()


def test_nothing_listens_on_a_port(body: PythonBody) -> None:
    body.boot(deadline())
    process = body._process
    assert process is not None
    inodes = {
        link.readlink().name
        for pid in [process.pid, *family.descendants(process.pid)]
        for link in Path(f"/proc/{pid}/fd").iterdir()
        if link.is_symlink()
    }
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{process.pid}/net/{table}").read_text().splitlines()[1:]:
            assert f"socket:[{line.split()[9]}]" not in inodes
