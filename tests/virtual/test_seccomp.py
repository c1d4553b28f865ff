"""The filter, run in a BPF interpreter of our own and in the kernel, with its supervisor."""

from __future__ import annotations

import errno
import socket
import struct
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devicelab.deadline import Deadline
from devicelab.virtual.seccomp import confine, filter_program, parse_notification
from devicelab.virtual.unixsocket import connect_to

ALLOW, ERRNO, NOTIFY = 0x7FFF0000, 0x00050000, 0x7FC00000
X86, I386, ARM64, ARM = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028


def decide(machine: str, arch: int, number: int, first: int = 0) -> int:
    """What the filter answers to a system call: classic BPF, the four instructions that it uses."""
    data = struct.pack("=IIQQ5Q", number, arch, 0, first, *[0] * 5)
    program = filter_program(machine)
    accumulator, at = 0, 0
    while True:
        code, if_true, if_false, operand = program[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, operand)
        elif code == 0x15:
            at += if_true if accumulator == operand else if_false
        elif code == 0x35:
            at += if_true if accumulator >= operand else if_false
        else:
            assert code == 0x06
            return operand


@pytest.mark.parametrize(
    ("machine", "arch", "number", "first", "action"),
    [
        ("x86_64", X86, 49, 3, NOTIFY),  # bind
        ("x86_64", X86, 50, 3, NOTIFY),  # listen
        ("x86_64", X86, 41, 40, ERRNO | errno.EAFNOSUPPORT),  # socket(AF_VSOCK)
        ("x86_64", X86, 41, 40 | 1 << 32, ERRNO | errno.EAFNOSUPPORT),  # the kernel reads an int
        ("x86_64", X86, 41, socket.AF_INET, ALLOW),
        ("x86_64", X86, 425, 0, ERRNO | errno.ENOSYS),  # io_uring_setup
        ("x86_64", X86, 0x40000000 + 49, 3, ERRNO | errno.ENOSYS),  # x32's bind
        ("x86_64", I386, 102, 2, ERRNO | errno.ENOSYS),  # socketcall(SYS_BIND)
        ("x86_64", I386, 361, 3, ERRNO | errno.ENOSYS),
        ("x86_64", I386, 363, 3, ERRNO | errno.ENOSYS),
        ("x86_64", I386, 359, 40, ERRNO | errno.EAFNOSUPPORT),
        ("x86_64", I386, 49, 0, ALLOW),  # geteuid there
        ("aarch64", ARM64, 200, 3, NOTIFY),
        ("aarch64", ARM64, 201, 3, NOTIFY),
        ("aarch64", ARM64, 198, 40, ERRNO | errno.EAFNOSUPPORT),
        ("aarch64", ARM64, 49, 0, ALLOW),  # chdir there
        ("aarch64", ARM, 282, 3, ERRNO | errno.ENOSYS),
        ("aarch64", ARM, 284, 3, ERRNO | errno.ENOSYS),
        ("aarch64", X86, 0, 0, ERRNO | errno.ENOSYS),  # what can that be
    ],
)
def test_decisions(machine: str, arch: int, number: int, first: int, action: int) -> None:
    assert decide(machine, arch, number, first) == action


@given(st.sampled_from(["x86_64", "aarch64"]), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
def test_every_other_native_call_is_allowed(machine: str, number: int, first: int) -> None:
    special = {"x86_64": {41, 49, 50, 425}, "aarch64": {198, 200, 201, 425}}[machine]
    arch = {"x86_64": X86, "aarch64": ARM64}[machine]
    if number in special or (machine == "x86_64" and number >= 0x40000000):
        return
    assert decide(machine, arch, number, first) == ALLOW


@given(st.binary(max_size=128))
def test_what_is_confined_is_on_the_loopback(tail: bytes) -> None:
    for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_PACKET, 40):
        address = struct.pack("=H", family) + tail
        confined = confine(address)
        if family == socket.AF_INET and confined is not None:
            assert (confined[2:4], confined[4:8]) == (tail[:2], b"\x7f\0\0\1")
        elif family == socket.AF_INET6 and confined is not None:
            assert (confined[2:4], confined[8:24]) == (tail[:2], bytes(15) + b"\1")
        elif family == socket.AF_UNIX:
            assert confined == address
        else:
            assert confined is None


@given(
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**31 - 1),
    st.lists(st.integers(0, 2**64 - 1), min_size=6, max_size=6),
)
def test_notifications(number: int, thread: int, arguments: list[int]) -> None:
    data = struct.pack("=QIIiIQ6Q", number, thread, 0, 49, X86, 0, *arguments)
    call = parse_notification(data)
    assert (call.number, call.thread, call.call, list(call.arguments)) == (number, thread, 49, arguments)


# -- in the kernel ---------------------------------------------------------------------------------------------


def run_confined(tmp_path: Path, program: str, port: int = 1) -> str:
    """What a Python program prints under filter and supervisor."""
    result = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path / "door"), str(port), textwrap.dedent(program)],
        stdin=subprocess.PIPE,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return result.stdout + result.stderr


RUN = """
import json, os, sys
from devicelab.virtual.prootinit import main
door, port, program = sys.argv[1:]
command = [sys.executable, "-c", program]
task = {"socket": door, "port": int(port), "command": command, "environment": dict(os.environ)}
reader, writer = os.pipe()  # a keeper that never lets go
os.dup2(reader, 0)
sys.exit(main(json.dumps(task)))
"""


def test_every_listener_is_on_the_loopback(tmp_path: Path) -> None:
    said = run_confined(
        tmp_path,
        """
        import socket
        def say(sock): print(*sock.getsockname()[:1])
        with socket.socket() as sock:
            sock.bind(("", 0)); sock.listen(); say(sock)
        with socket.socket() as sock:
            sock.listen(); say(sock)
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::", 0)); sock.listen(); say(sock)
        with socket.socket(socket.AF_INET6) as sock:
            sock.listen(); say(sock)
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.bind(("0.0.0.0", 0)); say(sock)
        with socket.create_server(("127.0.0.1", 0)) as sock:
            say(sock)
            with socket.create_connection(sock.getsockname()) as client: print(sock.accept()[1][0])
        """,
    )
    assert said.split() == ["127.0.0.1", "127.0.0.1", "::1", "::1", "127.0.0.1", "127.0.0.1", "127.0.0.1"]


def test_other_families(tmp_path: Path) -> None:
    said = run_confined(
        tmp_path,
        f"""
        import os, socket
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind({str(tmp_path / "there")!r}); sock.listen(); print(sock.getsockname())
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind("\\0devicelab-test-%d" % os.getpid()); print(sock.getsockname()[:10])
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW) as sock:
            sock.bind((0, 0)); print("netlink")
        try: socket.socket(40)
        except OSError as error: print(error.errno)
        """,
    )
    assert said.splitlines() == [
        str(tmp_path / "there"),
        "b'\\x00devicelab'",
        "netlink",
        str(errno.EAFNOSUPPORT),
    ]


def test_errors_are_the_kernels_own(tmp_path: Path) -> None:
    said = run_confined(
        tmp_path,
        """
        import ctypes, os, socket
        libc = ctypes.CDLL(None, use_errno=True)
        def say(result): print(result, ctypes.get_errno())
        sock = socket.socket(); sock.bind(("", 0)); sock.listen()
        other = socket.socket()
        try: other.bind(sock.getsockname())
        except OSError as error: print(error.errno)
        say(libc.bind(other.fileno(), ctypes.c_void_p(8), 16))
        say(libc.bind(other.fileno(), ctypes.c_void_p(2**63 + 8), 16))
        say(libc.bind(other.fileno(), ctypes.c_void_p(8), 4096))
        say(libc.bind(999, ctypes.create_string_buffer(16), 16))
        say(libc.listen(0, 1))
        say(libc.bind(other.fileno(), b"\\x11\\0" + bytes(14), 16))
        """,
    )
    expected = [errno.EFAULT, errno.EFAULT, errno.EINVAL, errno.EBADF, errno.ENOTSOCK, errno.EACCES]
    assert said.splitlines() == [str(errno.EADDRINUSE), *(f"-1 {code}" for code in expected)]


def test_a_thread_may_bind_and_many_at_once(tmp_path: Path) -> None:
    said = run_confined(
        tmp_path,
        """
        import socket, threading
        names = []
        def bind():
            for _ in range(20):
                with socket.socket() as sock:
                    sock.bind(("0.0.0.0", 0)); sock.listen(); names.append(sock.getsockname()[0])
        threads = [threading.Thread(target=bind) for _ in range(5)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(len(names), set(names))
        """,
    )
    assert said == "100 {'127.0.0.1'}\n"


def test_a_killed_caller_does_not_stop_the_supervisor(tmp_path: Path) -> None:
    said = run_confined(
        tmp_path,
        """
        import os, signal, socket
        for _ in range(30):
            child = os.fork()
            if child == 0:
                while True:
                    with socket.socket() as sock: sock.bind(("", 0))
            os.kill(child, signal.SIGKILL); os.waitpid(child, 0)
        with socket.socket() as sock:
            sock.bind(("", 0)); print(sock.getsockname()[0])
        """,
    )
    assert said == "127.0.0.1\n"


@contextmanager
def confined_server(tmp_path: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """A program that serves one byte to whoever connects to the port that it believes to have."""
    program = f"""
import socket
for family, where in ((socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")):
    with socket.socket(family) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((where, {port}))
        sock.listen(4)
        print("listening", flush=True)
        connection, _ = sock.accept()
        with connection: connection.sendall(b"!")
"""
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(tmp_path / "door"), str(port), program],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_adbds_port_is_a_door_of_ours(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:  # that it is taken does not matter: it is never bound
        port = taken.getsockname()[1]
        with confined_server(tmp_path, port) as server:
            assert server.stdout is not None
            for _ in range(2):
                assert server.stdout.readline() == "listening\n"
                with connect_to(tmp_path / "door", Deadline("connect", 30)) as sock:
                    sock.settimeout(30)
                    assert sock.recv(10) == b"!"
            assert server.wait(30) == 0


def test_no_filter_no_program(tmp_path: Path) -> None:
    """A second filter with a supervisor is what every kernel refuses."""
    said = run_confined(
        tmp_path,
        """
        from devicelab.virtual.prootinit import start_filtered
        try: start_filtered(["/bin/echo", "it runs"], {})
        except OSError as error: print(error)
        """,
    )
    assert said == "seccomp with a supervisor: Device or resource busy\n"


def test_the_try_out_says_yes_here() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "devicelab.virtual.prootinit", "try"],
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"")
