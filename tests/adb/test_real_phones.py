"""Shell and files on Google's real adbd, old and new, through two generations of servers and directly."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from devicelab.adb.compression import available
from devicelab.adb.connection import Connection, EndpointState, Transport
from devicelab.adb.direct import DirectTransport
from devicelab.adb.program import ServerAddress
from devicelab.adb.server import ServerTransport
from devicelab.adb.shell import Channel, ShellProcess, run
from devicelab.adb.sync import SyncSession
from devicelab.adb.transfer import PART, pull_bytes, pull_file, push_file, remove, sweep_parts
from devicelab.deadline import Deadline
from devicelab.errors import (
    AdbUnavailableError,
    DeadlineError,
    DeviceFullError,
    DeviceLostError,
    DeviceNotReadyError,
    OutputLimitError,
    RemoteCommandError,
    RemoteFileError,
    ServiceRefusedError,
)
from devicelab.virtual.client import VirtualPhone
from devicelab.virtual.desk import VirtualDesk
from tests.servers import ADB, AdbServer, run_server

MB = 1 << 20
BASE = "/data/local/tmp/test"


def soon(seconds: float = 60.0) -> Deadline:
    return Deadline("test", seconds)


def _server(server: AdbServer) -> ServerTransport:
    return ServerTransport.running(ServerAddress("127.0.0.1", server.port), deadline=soon())


@pytest.fixture(scope="module", params=["direct", "server", "old server"])
def transport(request: pytest.FixtureRequest) -> Iterator[Transport]:
    made: Transport
    if request.param == "direct":
        made = DirectTransport(usb=False, scan_emulators=False)
    else:
        fixture = "adb_server" if request.param == "server" else "old_adb_server"
        made = _server(request.getfixturevalue(fixture))
    yield made
    made.close()


@pytest.fixture(scope="module", params=["pixel", "phone-2014"])
def shared(request: pytest.FixtureRequest, module_desk: VirtualDesk) -> VirtualPhone:
    """A phone of today and one of Android 4.4. Nothing may be done to them."""
    running = {phone.profile: phone for phone in module_desk.list()}
    return running.get(request.param) or module_desk.up([request.param])[0]


@pytest.fixture
def connection(shared: VirtualPhone, transport: Transport) -> Iterator[Connection]:
    transport.endpoints([shared.address], soon())
    with transport.connect(shared.address, soon()) as made:
        yield made
        remove(made, [BASE], deadline=soon(), recursive=True)


# --- shell ---


def test_words_output_and_codes(connection: Connection) -> None:
    words = ["a  b", "it's", '"$HOME"', "`id`", "\\n", "*", "", "ü", "-n", "a\nb"]
    script = ["sh", "-c", 'for word; do print -r "<$word>"; done', "sh", *words]
    assert run(connection, script, deadline=soon()).stdout == "".join(f"<{word}>\n" for word in words).encode()
    with pytest.raises(RemoteCommandError, match="exited with 7: oops"):
        run(connection, ["sh", "-c", "echo oops >&2; exit 7"], deadline=soon())
    with pytest.raises(RemoteCommandError, match=r"was killed \(SIGKILL\)"):
        run(connection, ["sh", "-c", "kill -9 $$"], deadline=soon())
    with pytest.raises(RemoteCommandError, match="exited with 127"):
        run(connection, ["no-such-program"], deadline=soon())
    assert run(connection, ["exit", "3"], deadline=soon(), check=False).code == 3
    assert run(connection, ["cat"], deadline=soon()).stdout == b""  # its input is empty, and ends


def test_binary_output_is_exact_and_channels_are_apart_where_they_can_be(connection: Connection) -> None:
    content = bytes(range(256)) * 4000 + b"\r\n\r\r\n\n" * 1000
    push_file(connection, content, f"{BASE}/binary", deadline=soon())
    result = run(connection, ["cat", f"{BASE}/binary"], deadline=soon())
    assert result.stdout == content
    both = run(connection, ["sh", "-c", "echo out; echo err >&2"], deadline=soon())
    if "shell_v2" in connection.features:
        assert (both.stdout, both.stderr) == (b"out\n", b"err\n")
    else:
        assert (both.stdout, both.stderr) == (b"out\nerr\n", b"")


def test_input_where_there_is_shell_v2(connection: Connection) -> None:
    data = os.urandom(3 * MB)
    if "shell_v2" in connection.features:
        result = run(connection, ["sha256sum"], stdin=data, deadline=soon())
        assert result.text.split()[0] == hashlib.sha256(data).hexdigest()
        assert run(connection, ["true"], stdin=data, deadline=soon()).code == 0  # which reads none of it
    else:
        with pytest.raises(DeviceNotReadyError):
            run(connection, ["cat"], stdin=data, deadline=soon())


def test_output_comes_while_a_command_runs(connection: Connection) -> None:
    script = ["sh", "-c", "echo one; sleep 0.3; echo two; sleep 300"]
    with ShellProcess(connection, script, deadline=soon()) as process:
        assert process.read(soon()) == (Channel.STDOUT, b"one\n")
        assert process.read(soon()) == (Channel.STDOUT, b"two\n")
        process.kill(soon())
        assert process.wait(soon()) >= 128


@pytest.mark.parametrize("how", ["deadline", "limit", "exception"])
def test_giving_up_ends_the_whole_group(how: str, connection: Connection) -> None:
    run(connection, ["mkdir", "-p", BASE], deadline=soon())
    script = f"sleep 300 & echo $! >{BASE}/child; echo $$ >{BASE}/parent; "
    flood = "while true; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done"
    command = ["sh", "-c", script + (flood if how == "limit" else "sleep 300")]
    if how == "deadline":
        with pytest.raises(DeadlineError, match=f"^{connection.serial}: nap"):
            run(connection, command, deadline=Deadline("nap", 1.5))
    elif how == "limit":
        with pytest.raises(OutputLimitError):
            run(connection, command, deadline=soon(), limit=1000)
    else:
        with ShellProcess(connection, command, deadline=soon()):
            _wait_for(connection, f"{BASE}/parent")
    for name in ("child", "parent"):
        pid = pull_bytes(connection, f"{BASE}/{name}", max_bytes=100, deadline=soon()).decode().strip()
        assert pid.isdigit()
        assert _ends(connection, pid)


def _wait_for(connection: Connection, path: str) -> None:
    with SyncSession(connection, soon()) as session:
        while (found := session.lstat(path, soon())) is None or not found.size:
            time.sleep(0.05)


def _ends(connection: Connection, pid: str) -> bool:
    """Whether a process on the phone is gone, or goes now."""
    for _ in range(100):
        if run(connection, ["kill", "-0", pid], deadline=soon(), check=False).code:
            return True
        time.sleep(0.05)
    return False


def test_many_commands_at_once(connection: Connection) -> None:
    def one(number: int) -> str:
        return run(connection, ["sh", "-c", f"sleep 0.1; echo {number}"], deadline=soon()).text

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(40))) == [str(number) for number in range(40)]


def test_a_service_that_no_adbd_has(connection: Connection) -> None:
    with pytest.raises(ServiceRefusedError):
        connection.open("no-such-service:", soon())
    assert connection.alive()


def test_a_command_too_long_for_the_phone_harms_nobody(connection: Connection) -> None:
    words = ["x" * 5000]
    if "shell_v2" in connection.features:
        assert run(connection, ["echo", *words], deadline=soon()).text == words[0]
    else:
        with pytest.raises(ServiceRefusedError, match="4096"):
            run(connection, ["echo", *words], deadline=soon())
    assert run(connection, ["echo", "still there"], deadline=soon()).text == "still there"


# --- files ---


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 3 * MB + 1])
def test_files_arrive_whole(size: int, connection: Connection, tmp_path: Path) -> None:
    content = os.urandom(size)
    report = push_file(
        connection, content, f"{BASE}/deep/er/file", mode=0o600, mtime=1_000_000_000, deadline=soon()
    )
    old = "shell_v2" not in connection.features  # and so without sha256sum
    assert (report.size, report.verified) == (size, "size" if old else "sha256")
    pull_file(connection, f"{BASE}/deep/er/file", tmp_path / "file", max_bytes=size, deadline=soon())
    assert (tmp_path / "file").read_bytes() == content
    with SyncSession(connection, soon()) as session:
        found = session.lstat(f"{BASE}/deep/er/file", soon())
        assert found is not None
        assert (found.mode, found.size, found.mtime) == (0o100600, size, 1_000_000_000)
        assert [entry.name for entry in session.list(f"{BASE}/deep/er", soon())] == ["file"]


def test_every_compression_that_is_announced(connection: Connection, tmp_path: Path) -> None:
    content = os.urandom(MB) + bytes(5 * MB) + b"text " * MB
    methods = available(connection.features)
    assert methods or "sendrecv_v2" not in connection.features
    for method in methods:
        push_file(connection, content, f"{BASE}/f", compression=method, deadline=soon())
        pull_file(
            connection, f"{BASE}/f", tmp_path / "f", max_bytes=len(content), compression=method, deadline=soon()
        )
        assert (tmp_path / "f").read_bytes() == content


def test_what_cannot_be_pushed_or_pulled(connection: Connection, tmp_path: Path) -> None:
    push_file(connection, b"x", f"{BASE}/dir/file", deadline=soon())
    attempts: list[tuple[Callable[[], object], str]] = [
        (lambda: push_file(connection, b"x", f"{BASE}/dir", deadline=soon()), "it is a directory"),
        (lambda: push_file(connection, b"x", "/proc/x", deadline=soon()), "/proc/x"),
        (lambda: pull_bytes(connection, f"{BASE}/none", max_bytes=9, deadline=soon()), "there is no such file"),
        (lambda: pull_bytes(connection, f"{BASE}/dir", max_bytes=9, deadline=soon()), "it is no regular file"),
        (lambda: pull_bytes(connection, "/dev/zero", max_bytes=9, deadline=soon()), "it is no regular file"),
        (lambda: pull_bytes(connection, f"{BASE}/dir/file", max_bytes=0, deadline=soon()), "more than the 0"),
    ]
    for attempt, words in attempts:
        with pytest.raises(RemoteFileError, match=words) as caught:
            attempt()
        assert caught.value.device == connection.serial
    with SyncSession(connection, soon()) as session:
        assert [entry.name for entry in session.list(BASE, soon())] == ["dir"]
        assert session.list(f"{BASE}/none", soon()) == []
        assert session.stat(f"{BASE}/none", soon()) is None


def test_parts_of_killed_pushes_are_swept(connection: Connection) -> None:
    push_file(connection, b"x", f"{BASE}/whole", deadline=soon())
    push_file(connection, b"x", f"{BASE}/half{PART}", deadline=soon())
    assert sweep_parts(connection, BASE, deadline=soon()) == [f"{BASE}/half{PART}"]
    with SyncSession(connection, soon()) as session:
        assert [entry.name for entry in session.list(BASE, soon())] == ["whole"]


# --- a phone of one's own, to which things happen ---


@pytest.fixture
def online(phone: VirtualPhone, transport: Transport) -> Iterator[Connection]:
    transport.endpoints([phone.address], soon())
    with transport.connect(phone.address, soon()) as made:
        yield made


def test_a_full_phone_says_so_early_and_keeps_nothing(phone: VirtualPhone, online: Connection) -> None:
    phone.fill(8 * MB)
    sent: list[int] = []
    with pytest.raises(DeviceFullError, match="No space left on device"):
        push_file(online, os.urandom(100 * MB), f"{BASE}/big", progress=sent.append, deadline=soon())
    assert max(sent) < 100 * MB
    with SyncSession(online, soon()) as session:
        assert session.list(BASE, soon()) == []


def test_a_dead_phone_breaks_what_waits_and_stays_noticed(
    phone: VirtualPhone, online: Connection, transport: Transport
) -> None:
    with ShellProcess(online, ["sh", "-c", "echo here; sleep 300"], deadline=soon()) as process:
        process.read(soon())
        threading.Timer(0.3, phone.kill).start()
        with pytest.raises(DeviceLostError) as caught:
            process.read(soon())
        assert caught.value.device == phone.address
    assert not online.alive()
    phone.start()
    endpoints = {endpoint.serial: endpoint.state for endpoint in transport.endpoints([phone.address], soon())}
    assert endpoints[phone.address] is EndpointState.ONLINE
    assert not online.alive()  # back, but not this connection
    with transport.connect(phone.address, soon()) as again:
        assert again.alive()
        assert run(again, ["echo", "back"], deadline=soon()).text == "back"


def test_a_frozen_phone_is_not_taken_for_reachable(
    phone: VirtualPhone, online: Connection, transport: Transport
) -> None:
    phone.freeze()
    operations: list[Callable[[Deadline], object]] = [
        lambda deadline: run(online, ["true"], deadline=deadline),
        lambda deadline: push_file(online, bytes(MB), f"{BASE}/f", deadline=deadline),
        lambda deadline: pull_bytes(online, "/system/build.prop", max_bytes=MB, deadline=deadline),
        lambda deadline: transport.connect(phone.address, deadline),
    ]
    for operation in operations:
        begin = time.monotonic()
        with pytest.raises(DeadlineError, match=f"^{phone.address}: "):
            operation(Deadline("operation", 0.5))
        assert time.monotonic() - begin < 15
    phone.thaw()
    assert run(online, ["echo", "awake"], deadline=soon()).text == "awake"


def test_watching_sees_a_cable_pulled_and_put_back(phone: VirtualPhone, transport: Transport) -> None:
    stop = threading.Event()
    lists = transport.watch([phone.address], stop)

    def until(wanted: EndpointState) -> None:
        end = time.monotonic() + 60
        for endpoints in lists:
            state = next(endpoint.state for endpoint in endpoints if endpoint.serial == phone.address)
            if state is wanted:
                return
            assert time.monotonic() < end, state

    try:
        until(EndpointState.ONLINE)
        phone.unplug()
        until(EndpointState.ABSENT)
        phone.replug()
        begin = time.monotonic()
        until(EndpointState.ONLINE)
        assert time.monotonic() - begin < 20
    finally:
        stop.set()
        assert list(lists) == []


def test_a_server_that_dies_is_not_a_lost_phone(phone: VirtualPhone, tmp_path: Path) -> None:
    with run_server(ADB, tmp_path) as server:
        transport = _server(server)
        transport.endpoints([phone.address], soon())
        connection = transport.connect(phone.address, soon())
        with ShellProcess(connection, ["sleep", "300"], deadline=soon()) as process:
            threading.Timer(0.3, lambda: server.adb("kill-server")).start()
            with pytest.raises(AdbUnavailableError, match="no adb server answers"):
                process.read(soon())
        assert not connection.alive()
        connection.close()
