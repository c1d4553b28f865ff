"""Who is at the other end: ourselves, a stranger, or nobody any more."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from devicelab.virtual.client import VirtualPhone
from devicelab.virtual.desk import VirtualDesk
from devicelab.virtual.packets import CNXN, Packet, pack
from devicelab.virtual.peer import find_owner, is_ours, peer_user
from tests.virtual.wire import Wire

NOBODY = 65534
HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
ROW = (
    "   1: 0100007F:{:04X} 0100007F:{:04X} 01 00000000:00000000 00:00000000 00000000"
    " {:5} 0 {} 1 0 20 4 30 10 -1\n"
)


def test_the_kernels_table() -> None:
    table = (
        HEADER
        + ROW.format(6100, 40000, 7, 11)
        + ROW.format(40000, 6100, 1000, 12)
        + ROW.format(40001, 6100, 0, 0)
    )
    host = "127.0.0.1"
    assert find_owner(table, (host, 40000), (host, 6100)) == 1000
    assert find_owner(table, (host, 6100), (host, 40000)) == 7
    assert find_owner(table, (host, 40001), (host, 6100)) is None  # closed by its process
    assert find_owner(table, (host, 40002), (host, 6100)) is None
    assert find_owner(HEADER, (host, 40000), (host, 6100)) is None


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def test_we_are_ours(listener: socket.socket) -> None:
    client = socket.create_connection(listener.getsockname())
    accepted, _ = listener.accept()
    with accepted:
        assert peer_user(accepted) == os.geteuid()
        assert is_ours(accepted)
        client.sendall(b"said before leaving")
        client.close()
        assert not is_ours(accepted)


CONNECT = """
import encodings.idna, os, socket, sys  # all of it while Python's own files can be read
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
sock = socket.socket()
sock.connect(("127.0.0.1", int(sys.argv[1])))
print("connected", flush=True)
sock.settimeout(60)
try:
    sock.sendall(bytes.fromhex(sys.argv[2]))
    print("greeted" if sock.recv(100) else "refused")
except ConnectionError:
    print("refused")
"""


def connect_as_nobody(port: int) -> subprocess.Popen[str]:
    """As another user where we may become one (root); else as ourselves."""
    hello = pack(Packet(CNXN, 0x01000001, 1 << 20, b"host::")).hex()
    command = [sys.executable, "-S", "-c", CONNECT, str(port), hello]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_strangers_are_not(listener: socket.socket) -> None:
    listener.settimeout(60)
    with connect_as_nobody(listener.getsockname()[1]):
        accepted, _ = listener.accept()
        with accepted:
            assert is_ours(accepted) == (os.geteuid() != 0)
            assert peer_user(accepted) == (os.geteuid() or NOBODY)


@pytest.fixture
def phone(desk: VirtualDesk) -> VirtualPhone:
    return desk.up(["pixel"], body="python")[0]


def test_a_phone_on_the_hosts_own_files_is_for_its_owner(phone: VirtualPhone) -> None:
    with connect_as_nobody(phone.port) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "connected\n"
        assert process.stdout.readline() == ("refused\n" if os.geteuid() == 0 else "greeted\n")
    with Wire(phone.port) as wire:
        assert wire.shell("echo mine") == "mine\n"
