"""The Python adbd: its codecs, its manners on the wire, and the real adb, adb_shell and our transport on it."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from adb_shell.adb_device import AdbDeviceTcp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devicelab.adb import shell
from devicelab.adb.direct import DirectTransport
from devicelab.deadline import Deadline
from devicelab.errors import ServiceRefusedError
from devicelab.virtual.packets import (
    AUTH,
    CLSE,
    CNXN,
    HEADER_SIZE,
    MAX_PAYLOAD,
    OKAY,
    OPEN,
    STLS,
    VERSION_CHECKSUMS,
    VERSION_NO_CHECKSUMS,
    WRTE,
    Packet,
    checksum,
    pack,
    unpack_header,
)
from devicelab.virtual.pyadbd import sync, tools
from devicelab.virtual.pyadbd.server import Server, python_banner
from devicelab.virtual.pyadbd.shell import Command, FrameId, pack_frame, parse_command
from devicelab.virtual.pyadbd.tree import Tree
from tests.virtual.adbclient import Adb

BANNER = python_banner(
    "device::ro.product.model=Fake;features=shell_v2,cmd,stat_v2,ls_v2,sendrecv_v2,abb,apex;"
)


@dataclass
class Phone:
    """A server in a thread, on a port of its own."""

    root: Path
    port: int
    limit: Path

    @property
    def serial(self) -> str:
        return f"127.0.0.1:{self.port}"

    def host(self, **options: int) -> Host:
        return Host(socket.create_connection(("127.0.0.1", self.port), timeout=30), **options)


@dataclass
class Host:
    """The computer's end, packet by packet."""

    sock: socket.socket
    version: int = VERSION_NO_CHECKSUMS
    max_payload: int = MAX_PAYLOAD
    banner: Packet = field(init=False)

    def __post_init__(self) -> None:
        self.sums = True
        self.send(Packet(CNXN, self.version, self.max_payload, b"host::"))
        self.banner = self.read()
        self.sums = self.version < VERSION_NO_CHECKSUMS

    def send(self, *packets: Packet) -> None:
        self.sock.sendall(b"".join(pack(packet, with_checksum=self.sums) for packet in packets))

    def read(self) -> Packet:
        header = unpack_header(self._exactly(HEADER_SIZE), limit=MAX_PAYLOAD)
        packet = Packet(header.command, header.arg0, header.arg1, self._exactly(header.length))
        assert header.checksum == (checksum(packet.payload) if self.sums else 0)
        return packet

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.sock.recv(size - len(data))
            if not part:
                raise ConnectionError("hung up")
            data += part
        return data

    def open(self, service: str, local: int = 7) -> int:
        """Open a service; the phone's id of the stream."""
        self.send(Packet(OPEN, local, 0, service.encode() + b"\0"))
        answer = self.read()
        assert (answer.command, answer.arg1) == (OKAY, local)
        return answer.arg0

    def collect(self, remote: int, local: int = 7) -> bytes:
        """All that a stream says until it is closed, acknowledging each packet."""
        said = b""
        while True:
            packet = self.read()
            assert packet.arg1 == local
            if packet.command == CLSE:
                return said
            if packet.command == WRTE:
                assert len(packet.payload) <= self.max_payload
                said += packet.payload
                self.send(Packet(OKAY, local, remote))

    def write(self, remote: int, data: bytes, local: int = 7) -> None:
        """One WRTE, acknowledged."""
        self.send(Packet(WRTE, local, remote, data))
        assert self.read() == Packet(OKAY, remote, local)

    def closed(self) -> bool:
        with contextlib.suppress(ConnectionError):
            while self.sock.recv(1 << 16):
                pass
        return True


def make_phone(root: Path, **options: int) -> tuple[Server, Phone, socket.socket]:
    for name in ("data/local/tmp", "system/bin", "proc"):
        (root / name).mkdir(parents=True)
    (root / "proc/meminfo").write_text("MemTotal: 1 kB\n")
    limit = root / "disk"
    limit.write_text("1000000000")
    listener = socket.create_server(("127.0.0.1", 0))
    phone = Phone(root, listener.getsockname()[1], limit)
    return Server(Tree(root, limit), str(root), BANNER, **options), phone, listener


@pytest.fixture
def phone(tmp_path: Path) -> Iterator[Phone]:
    with serving(tmp_path / "root") as phone:
        yield phone


@contextlib.contextmanager
def serving(root: Path, **options: int) -> Iterator[Phone]:
    server, phone, listener = make_phone(root, **options)
    thread = threading.Thread(target=server.serve, args=(listener,))
    thread.start()
    try:
        yield phone
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture
def host(phone: Phone) -> Iterator[Host]:
    host = phone.host()
    yield host
    host.sock.close()


def frames(said: bytes) -> list[tuple[int, bytes]]:
    """Shell v2's frames."""
    found, at = [], 0
    while at < len(said):
        number, length = struct.unpack_from("<BI", said, at)
        found.append((number, said[at + 5 : at + 5 + length]))
        at += 5 + length
    return found


def wait_for(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


# -- pure parts ------------------------------------------------------------------------------------------------


def test_the_banner_announces_what_it_can_and_whose_it_is() -> None:
    assert BANNER == (
        "device::ro.product.model=Fake;ro.devicelab.adbd=python;features=shell_v2,cmd,stat_v2,ls_v2,sendrecv_v2"
    )
    assert python_banner("device::features=cmd;") == "device::ro.devicelab.adbd=python;features=cmd"


@pytest.mark.parametrize(
    ("service", "command"),
    [
        ("shell:ls -l", Command("ls -l", frames=False)),
        ("shell,v2,raw:a:b", Command("a:b", frames=True)),
        ("shell,v2,TERM=xterm,pty:", Command("", frames=True)),
        ("exec:cat", Command("cat", frames=False)),
        ("exec,v2:cat", None),
        ("shell", None),
        ("shellx:ls", None),
        ("sync:", None),
        ("tcp:80", None),
    ],
)
def test_service_names(service: str, command: Command | None) -> None:
    assert parse_command(service) == command


@given(st.text(max_size=30), st.integers(0, 2**32 - 1))
def test_a_send_argument_is_path_and_mode(path: str, mode: int) -> None:
    assert sync.parse_send_path(f"{path},{mode}") == (path, mode)


@given(st.text(max_size=30))
def test_a_send_argument_is_refused_or_read_back(argument: str) -> None:
    try:
        path, mode = sync.parse_send_path(argument)
    except ValueError:
        return
    assert argument.startswith(f"{path},")
    assert int(argument[len(path) + 1 :]) == mode


int64 = st.integers(0, 2**63 - 1)
word = st.integers(0, 2**32 - 1)
stats = st.tuples(*(word, int64, int64, word, st.just(0), st.just(0)), *(int64, int64, int64, int64)).map(
    os.stat_result
)


@settings(max_examples=500)
@given(stats, st.binary(min_size=1, max_size=255))
def test_stat_and_list_structures(found: os.stat_result, name: bytes) -> None:
    plain = (found.st_mode, found.st_size & 0xFFFFFFFF, int(found.st_mtime) & 0xFFFFFFFF)
    assert struct.unpack("<4s3I", sync.pack_stat_v1(found)) == (b"STAT", *plain)
    entry = sync.pack_entry_v1(name, found)
    assert struct.unpack("<4s4I", entry[:20]) == (b"DENT", *plain, len(name))
    assert entry[20:] == name
    times = (found.st_atime, found.st_mtime, found.st_ctime)
    whole = (found.st_dev, found.st_ino, found.st_mode, found.st_nlink, 2000, 2000, found.st_size, *times)
    packed = sync.pack_stat_v2(b"LST2", found)
    assert len(packed) == 72
    assert struct.unpack("<4sIQQIIIIQqqq", packed) == (b"LST2", 0, *whole)
    entry = sync.pack_entry_v2(name, found)
    assert entry[4:72] == packed[4:]
    assert entry[72:] == struct.pack("<I", len(name)) + name


def test_a_failed_stat_carries_its_errno() -> None:
    packed = sync.pack_stat_v2(b"STA2", FileNotFoundError(2, "gone"))
    assert struct.unpack("<4sI", packed[:8]) == (b"STA2", 2)
    assert packed[8:] == bytes(64)
    assert sync.pack_stat_v1(None) == b"STAT" + bytes(12)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    for name in ("data/local/tmp", "system/bin", "proc/sys/kernel", "sys"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "proc/meminfo").touch()
    return Tree(tmp_path)


@pytest.mark.parametrize(
    ("command", "translated"),
    [
        ("ls /data", "ls @/data"),
        ("echo a >/data/local/tmp/x", "echo a >@/data/local/tmp/x"),
        ("x=/data/y; cat '/data/z z' \"/data\"", "x=@/data/y; cat '@/data/z z' \"@/data\""),
        ("LD_LIBRARY_PATH=/data/a:/data/b /data/c", "LD_LIBRARY_PATH=@/data/a:@/data/b @/data/c"),
        ("cat /proc/meminfo /proc/version", "cat @/proc/meminfo /proc/version"),
        ("cat /proc/$p/cmdline; ls /proc", "cat /proc/$p/cmdline; ls /proc"),
        ("/system/bin/sh /dev/null /database /usr/bin/x", "@/system/bin/sh /dev/null /database /usr/bin/x"),
        ("ls $HOME/data ${x}/data $(pwd)/data ./data a/data ../data", None),
        ("ls */data http://data.example", None),
        ("cd /; cd / data //data", "cd /; cd / data //data"),
        ("cat /data/../etc/passwd", "cat @/data/../etc/passwd"),
    ],
)
def test_phone_paths_in_commands(tree: Tree, command: str, translated: str | None) -> None:
    assert tree.translate(command, "@") == (translated or command)


@given(st.text(alphabet="ab./\0", max_size=40))
def test_no_path_leads_out_of_the_tree(path: str) -> None:
    assert Tree(Path("/phone")).locate(path).is_relative_to("/phone")
    assert ".." not in Tree(Path("/phone")).locate(path).parts


def test_usage_counts_blocks(tree: Tree) -> None:
    assert tree.used() == 0
    (tree.root / "data/a").write_bytes(b"x")
    (tree.root / "data/local/tmp/b").write_bytes(bytes(4097))
    assert tree.used() == 3 * 4096
    assert tree.room() is None


# -- the protocol ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", ["shell:", "exec:", "shell,v2,raw:"])
def test_a_command_runs_and_its_stream_is_closed(host: Host, service: str) -> None:
    remote = host.open(f"{service}echo out; echo err >&2; exit 3")
    said = host.collect(remote)
    if "v2" in service:
        assert sorted(frames(said)) == [(1, b"out\n"), (2, b"err\n"), (3, b"\3")]
        assert frames(said)[-1] == (3, b"\3")
    else:
        assert sorted(said.splitlines()) == [b"err", b"out"]


def test_a_signal_death_is_128_and_the_signal(host: Host) -> None:
    assert host.collect(host.open("shell,v2,raw:kill -9 $$")) == pack_frame(FrameId.EXIT, bytes([137]))


def test_stdin_goes_in_and_is_closed(host: Host) -> None:
    remote = host.open("shell,v2,raw:cat; echo done")
    host.send(
        Packet(WRTE, 7, remote, pack_frame(FrameId.STDIN, b"some") + pack_frame(FrameId.CLOSE_STDIN, b""))
    )
    said = host.collect(remote)
    assert b"some" in said
    assert b"done\n" in said


def test_a_large_output_comes_in_pieces_the_host_can_take(phone: Phone) -> None:
    host = phone.host(version=VERSION_CHECKSUMS, max_payload=4096)
    with host.sock:
        assert host.banner.payload == BANNER.encode()
        assert len(host.collect(host.open("exec:head -c 100000 /dev/zero"))) == 100_000


def test_many_streams_at_once_do_not_mix(host: Host) -> None:
    remotes = {host.open(f"exec:read x; echo {local}$x", local): local for local in range(1, 21)}
    for remote, local in remotes.items():
        host.send(Packet(WRTE, local, remote, b"!\n"))
    said: dict[int, bytes] = {}
    closed: set[int] = set()
    while len(closed) < 20:
        packet = host.read()
        if packet.command == WRTE:
            said[packet.arg1] = said.get(packet.arg1, b"") + packet.payload
            host.send(Packet(OKAY, packet.arg1, packet.arg0))
        elif packet.command == CLSE:
            closed.add(packet.arg1)
    assert said == {local: f"{local}!\n".encode() for local in remotes.values()}


def test_unknown_services_are_refused(host: Host) -> None:
    for service in ("reboot:", "tcp:80", "jdwp:1", ""):
        host.send(Packet(OPEN, 9, 0, service.encode() + b"\0"))
        assert host.read() == Packet(CLSE, 0, 9)


def test_the_number_of_streams_is_bounded(host: Host) -> None:
    for local in range(1, 257):
        host.open("sync:", local)
    host.send(Packet(OPEN, 300, 0, b"sync:\0"))
    assert host.read() == Packet(CLSE, 0, 300)


def test_a_host_that_leaves_ends_what_reads_from_it(phone: Phone) -> None:
    host = phone.host()
    host.open("shell,v2,raw:echo $$ > /data/local/tmp/pid; exec sleep 1000")
    pid = phone.root / "data/local/tmp/pid"
    wait_for(lambda: pid.exists() and pid.read_text().strip())
    host.sock.close()
    wait_for(lambda: not Path("/proc", pid.read_text().strip()).exists())


def test_exec_in_takes_all_that_came_before_the_end(host: Host, phone: Phone) -> None:
    remote = host.open("exec:sleep 0.2; cat > /data/local/tmp/x")
    host.send(Packet(WRTE, 7, remote, b"x" * 500_000), Packet(CLSE, 7, remote))
    wait_for((phone.root / "data/local/tmp/x").exists)
    wait_for(lambda: (phone.root / "data/local/tmp/x").stat().st_size == 500_000)


@pytest.mark.parametrize(
    "bad",
    [
        Packet(STLS, 1, 0),
        Packet(AUTH, 2, 0, b"x"),
        Packet(CNXN, 1, 1),
        Packet(WRTE, 7, 1, b"x" * (MAX_PAYLOAD + 1)),
    ],
)
def test_a_host_without_manners_is_hung_up_on(host: Host, bad: Packet) -> None:
    with contextlib.suppress(ConnectionError):
        host.send(bad)
    assert host.closed()


def test_writing_before_the_okay_is_a_fault(host: Host) -> None:
    remote = host.open("exec:sleep 3")
    with contextlib.suppress(ConnectionError):
        for _ in range(20):
            host.send(Packet(WRTE, 7, remote, bytes(MAX_PAYLOAD)))
    assert host.closed()


def test_an_old_connection_needs_its_checksums(phone: Phone) -> None:
    host = phone.host(version=VERSION_CHECKSUMS)
    host.sums = False
    with contextlib.suppress(ConnectionError):
        host.send(Packet(OPEN, 7, 0, b"shell:true\0"))
    assert host.closed()
    host.sock.close()


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    junk=st.lists(
        st.one_of(
            st.binary(max_size=100),
            st.builds(
                Packet,
                st.sampled_from([OPEN, WRTE, OKAY, CLSE]),
                st.integers(0, 3),
                st.integers(0, 3),
                st.sampled_from([b"", b"sync:\0", b"shell:true\0", b"LIST\1\0\0\0/", b"\xff" * 30]),
            ).map(pack),
        ),
        max_size=12,
    )
)
def test_no_bytes_break_the_server(phone: Phone, junk: list[bytes]) -> None:
    host = phone.host()
    with host.sock, contextlib.suppress(OSError):
        host.sock.sendall(b"".join(junk))
        host.sock.shutdown(socket.SHUT_WR)
        host.closed()
    again = phone.host()
    with again.sock:
        assert again.collect(again.open("exec:echo fine")) == b"fine\n"


# -- sync ------------------------------------------------------------------------------------------------------


def request(number: bytes, argument: bytes | str) -> bytes:
    raw = argument.encode() if isinstance(argument, str) else argument
    return number + struct.pack("<I", len(raw)) + raw


@pytest.mark.parametrize("version", [1, 2])
def test_send_and_receive(host: Host, phone: Phone, version: int) -> None:
    remote = host.open("sync:")
    path = "/data/local/tmp/new/dir, with comma/x"
    begin = (
        request(b"SEND", f"{path},{0o100755}")
        if version == 1
        else request(b"SND2", path) + b"SND2" + struct.pack("<II", 0o100755, 0)
    )
    data = os.urandom(65536)
    host.write(remote, begin + request(b"DATA", data) + request(b"DATA", b"end"))
    host.write(remote, b"DONE" + struct.pack("<I", 1_600_000_000))
    assert host.read() == Packet(WRTE, remote, 7, b"OKAY\0\0\0\0")
    host.send(Packet(OKAY, 7, remote))
    file = phone.root / path[1:]
    assert file.read_bytes() == data + b"end"
    assert stat.S_IMODE(file.stat().st_mode) == 0o755
    assert file.stat().st_mtime == 1_600_000_000
    receive = request(b"RECV", path) if version == 1 else request(b"RCV2", path) + b"RCV2" + bytes(4)
    host.send(Packet(WRTE, 7, remote, receive + request(b"QUIT", "")))
    said = host.collect(remote)
    assert said == request(b"DATA", data) + request(b"DATA", b"end") + b"DONE" + bytes(4)


def test_a_symbolic_link_is_sent(host: Host, phone: Phone) -> None:
    remote = host.open("sync:")
    host.write(
        remote,
        request(b"SEND", f"/data/link,{0o120777}") + request(b"DATA", b"local/tmp\0") + b"DONE" + bytes(4),
    )
    host.read()
    assert (phone.root / "data/link").readlink() == Path("local/tmp")


def test_a_full_disk_fails_with_the_kernels_words_and_leaves_nothing(host: Host, phone: Phone) -> None:
    phone.limit.write_text("8192")
    remote = host.open("sync:")
    host.send(Packet(WRTE, 7, remote, request(b"SEND", "/data/x,33188") + request(b"DATA", bytes(9000))))
    said = host.read(), host.read()
    assert Packet(OKAY, remote, 7) in said
    (fail,) = (packet for packet in said if packet.command == WRTE)
    assert fail.payload == request(b"FAIL", "write failed: No space left on device")
    assert not (phone.root / "data/x").exists()
    host.send(Packet(OKAY, 7, remote))
    for _ in range(3):  # what the host still sends is drained
        host.write(remote, request(b"DATA", bytes(60000)))
    host.send(Packet(WRTE, 7, remote, b"DONE" + bytes(4)))
    assert host.collect(remote) == b""


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (request(b"SEND", "/data/x") + b"DONE" + bytes(4), "missing , in ID_SEND_V1"),
        (
            request(b"SEND", "/proc/meminfo/x,33188") + b"DONE" + bytes(4),
            "couldn't create file: Not a directory",
        ),
        (request(b"SEND", "/data,33188") + b"DONE" + bytes(4), "couldn't create file: Is a directory"),
        (request(b"SEND", "/data/x,33188") + b"JUNK" + bytes(4), "invalid data message"),
        (request(b"SEND", "/data/x,33188") + b"DATA\1\0\1\0", "oversize data message"),
        (
            request(b"SND2", "/data/x") + b"SND2" + struct.pack("<II", 33188, 4),
            "send with flags 0x4 is not supported",
        ),
        (request(b"RECV", "/data/missing"), "open failed: No such file or directory"),
        (request(b"RECV", "/data"), "open failed: Is a directory"),
        (request(b"RCV2", "/data") + b"RCV2\1\0\0\0", "receive with flags 0x1 is not supported"),
        (request(b"STAT", "x" * 1025), "path too long"),
        (request(b"STAT", b"a\0b"), "path holds a NUL"),
        (request(b"WHAT", "x"), "unknown command 54414857"),
    ],
)
def test_what_fails_says_why(host: Host, phone: Phone, sent: bytes, why: str) -> None:
    remote = host.open("sync:")
    done = b"DONE" + bytes(4) if b"SND2" in sent else b""
    host.send(Packet(WRTE, 7, remote, sent + done))
    assert host.collect(remote) == request(b"FAIL", why)
    assert not (phone.root / "data/x").exists()


def test_stat_and_list(host: Host, phone: Phone) -> None:
    (phone.root / "data/a").write_bytes(b"abc")
    (phone.root / "data/b").symlink_to("a")
    remote = host.open("sync:")
    asked = ((b"STAT", "b"), (b"STA2", "b"), (b"LST2", "none"), (b"LIST", ""), (b"LIS2", "none"))
    requests = b"".join(request(number, f"/data/{name}") for number, name in asked)
    host.send(Packet(WRTE, 7, remote, requests + request(b"QUIT", "")))
    said = host.collect(remote)
    mode, size, _ = struct.unpack_from("<3I", said, 4)
    assert stat.S_ISLNK(mode)
    assert size == 1
    stated = struct.unpack_from("<4sIQQIIIIQqqq", said, 16)
    assert stat.S_ISREG(stated[4])
    assert stated[8] == 3
    assert struct.unpack_from("<4sI", said, 16 + 72) == (b"LST2", 2)
    names, at = [], 16 + 144
    while said[at : at + 4] == b"DENT":
        length = struct.unpack_from("<I", said, at + 16)[0]
        names.append(said[at + 20 : at + 20 + length])
        at += 20 + length
    assert names == [b".", b"..", b"a", b"b", b"local"]
    assert said[at:] == b"DONE" + bytes(16) + b"DONE" + bytes(72)


# -- getprop and its like --------------------------------------------------------------------------------------


@pytest.fixture
def facts(tmp_path: Path) -> Path:
    for name in ("vendor/properties", "vendor/dumpsys", "properties", "data"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "vendor/properties/ro.a").write_text("one\ntwo\n")
    (tmp_path / "vendor/properties/sys.b").write_text("old\n")
    (tmp_path / "vendor/dumpsys/battery").write_text("level: 5\n")
    (tmp_path / "disk").write_text("1048576")
    return tmp_path


def run_tool(facts: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = tools.main([str(facts), *words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_properties(facts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_tool(facts, capsys, "getprop") == (0, "[ro.a]: [one\ntwo]\n[sys.b]: [old]\n", "")
    assert run_tool(facts, capsys, "setprop", "sys.b", "new") == (0, "", "")
    assert run_tool(facts, capsys, "getprop", "sys.b") == (0, "new\n", "")
    assert run_tool(facts, capsys, "getprop", "none", "default") == (0, "default\n", "")
    for name in ("ro.a", "../x", "a/b", ".x", ""):
        assert run_tool(facts, capsys, "setprop", name, "new")[0] == 1
    assert run_tool(facts, capsys, "setprop", "ro.once", "1")[0] == 0
    assert run_tool(facts, capsys, "setprop", "ro.once", "2")[0] == 1


def test_dumpsys(facts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_tool(facts, capsys, "dumpsys", "battery") == (0, "level: 5\n", "")
    assert run_tool(facts, capsys, "dumpsys", "-l")[1] == "Currently running services:\n  battery\n"
    assert run_tool(facts, capsys, "dumpsys")[1].endswith("DUMP OF SERVICE battery:\nlevel: 5\n")
    assert run_tool(facts, capsys, "dumpsys", "../x") == (0, "", "Can't find service: ../x\n")


def test_df_counts_the_quota_and_what_is_said_to_be_taken(
    facts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (facts / "data/x").write_bytes(bytes(262144))
    (facts / "vendor/filled").write_text("1024\n")
    row = run_tool(facts, capsys, "df", "-k", str(facts / "data"))[1].splitlines()[1].split()
    assert row == ["/dev/block/dm-49", "2048", "1280", "768", "63%", "/data"]


# -- other people's hosts --------------------------------------------------------------------------------------


def test_the_real_adb(phone: Phone, adb: Adb, tmp_path: Path) -> None:
    adb("connect", phone.serial)
    adb.wait(phone.serial, "device")
    assert b"model:Fake" in adb("devices", "-l").stdout
    failed = adb("shell", "echo out; echo err >&2; exit 5", check=False)
    assert (failed.stdout, failed.stderr, failed.returncode) == (b"out\n", b"err\n", 5)
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep/big").write_bytes(os.urandom(3_000_000))
    (folder / "empty").touch()
    adb("push", str(folder), "/data/local/tmp/")
    adb("pull", "/data/local/tmp/folder", str(tmp_path / "back"))
    assert (tmp_path / "back/deep/big").read_bytes() == (folder / "deep/big").read_bytes()
    assert (tmp_path / "back/empty").read_bytes() == b""
    out = adb("exec-out", "cat /data/local/tmp/folder/deep/big").stdout
    assert out == (folder / "deep/big").read_bytes()
    phone.limit.write_text("4000000")
    full = adb("push", str(folder / "deep/big"), "/data/local/tmp/second", check=False)
    assert full.returncode != 0
    assert b"No space left on device" in full.stdout + full.stderr
    assert not (phone.root / "data/local/tmp/second").exists()


def test_the_real_adb_fills_in_the_checksums_that_an_old_phone_looks_at(tmp_path: Path, adb: Adb) -> None:
    with serving(tmp_path / "root", version=VERSION_CHECKSUMS, max_payload=4096) as phone:
        adb("connect", phone.serial)
        adb.wait(phone.serial, "device")
        (tmp_path / "x").write_bytes(os.urandom(100_000))
        adb("push", str(tmp_path / "x"), "/data/local/tmp/x")
        assert adb("exec-out", "cat /data/local/tmp/x").stdout == (tmp_path / "x").read_bytes()
        adb("disconnect", phone.serial)


def test_adb_shell(phone: Phone, tmp_path: Path) -> None:
    device = AdbDeviceTcp("127.0.0.1", phone.port, default_transport_timeout_s=30.0)
    try:
        assert device.connect()
        assert device.shell("echo $((6 * 7))") == "42\n"
        (tmp_path / "x").write_bytes(os.urandom(200_000))
        device.push(str(tmp_path / "x"), "/data/local/tmp/x")
        assert device.stat("/data/local/tmp/x")[1] == 200_000
        assert {bytes(entry.filename) for entry in device.list("/data/local/tmp")} == {b".", b"..", b"x"}
        device.pull("/data/local/tmp/x", str(tmp_path / "y"))
        assert (tmp_path / "y").read_bytes() == (tmp_path / "x").read_bytes()
    finally:
        device.close()


def test_our_own_transport(phone: Phone, tmp_path: Path) -> None:
    transport = DirectTransport(keys_dir=tmp_path, scan_emulators=False, usb=False)
    deadline = Deadline("test", 60)
    try:
        with transport.connect(phone.serial, deadline) as connection:
            assert connection.banner["ro.devicelab.adbd"] == "python"
            assert connection.features >= {"shell_v2", "sendrecv_v2"}
            result = shell.run(
                connection,
                ["sh", "-c", "cat; echo err >&2; exit 4"],
                deadline=deadline,
                stdin=b"in" * 100_000,
                check=False,
            )
            assert (result.stdout, result.stderr, result.code) == (b"in" * 100_000, b"err\n", 4)
            with pytest.raises(ServiceRefusedError):
                connection.open("tcp:1", deadline)
    finally:
        transport.close()
