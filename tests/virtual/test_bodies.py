"""What every body owes its phone, seen through the desk."""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import get_args

import psutil
import pytest

from devicelab.virtual import registry
from devicelab.virtual.body import BodyKind
from devicelab.virtual.client import VirtualPhone
from devicelab.virtual.desk import VirtualDesk
from tests.virtual.wire import Wire, shell

KINDS: tuple[BodyKind, ...] = get_args(BodyKind)


@pytest.fixture(params=KINDS)
def any_phone(request: pytest.FixtureRequest, desk: VirtualDesk) -> VirtualPhone:
    return desk.up(["pixel"], body=request.param)[0]


def test_it_is_the_profiles_phone(any_phone: VirtualPhone) -> None:
    with Wire(any_phone.port) as wire:
        assert "ro.product.model=Pixel 9;" in wire.banner
        assert wire.shell("getprop ro.serialno") == f"{any_phone.serial}\n"
        assert "  level: 78\n" in wire.shell("dumpsys battery")
        assert wire.shell("cat /proc/sys/kernel/random/boot_id").strip() == any_phone.status()["boot_id"]
        assert "MemTotal:       11748520 kB" in wire.shell("cat /proc/meminfo")
        assert wire.shell("echo x >/data/local/tmp/x && cat /data/local/tmp/x && rm /data/local/tmp/x") == "x\n"
    assert (any_phone.limits == ()) == (any_phone.body == "namespaces")


def test_its_programs_ignore_no_signal(any_phone: VirtualPhone) -> None:
    """Or a command would outlive the cable here, and nowhere else."""
    hex_digits = shell(any_phone.port, "sed -n 's/SigIgn:[^0-9a-f]*//p' /proc/self/status").strip()
    ignored = {number for number in signal.Signals if int(hex_digits, 16) >> (number - 1) & 1}
    assert not ignored & {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGPIPE}


def test_its_data_outlives_it(any_phone: VirtualPhone) -> None:
    shell(any_phone.port, "echo kept >/data/local/tmp/file")
    before = any_phone.status()["boot_id"]

    any_phone.kill()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", any_phone.port), 5)
    any_phone.start()

    assert shell(any_phone.port, "cat /data/local/tmp/file") == "kept\n"
    assert any_phone.status()["boot_id"] != before


def test_it_freezes_and_thaws(any_phone: VirtualPhone) -> None:
    with Wire(any_phone.port) as wire:
        any_phone.freeze()
        wire.sock.settimeout(1)
        with pytest.raises(TimeoutError):
            wire.shell("echo anybody")
        any_phone.thaw()
        wire.sock.settimeout(60)
        assert wire.shell("echo back") == "back\n"


def test_its_keepers_death_is_the_end_of_everything(any_phone: VirtualPhone, desk: VirtualDesk) -> None:
    shell(any_phone.port, "setsid sleep 1000 >/dev/null 2>&1 </dev/null &")
    family = psutil.Process(any_phone.pid).children(recursive=True)
    assert len(family) >= 2

    os.kill(any_phone.pid, signal.SIGKILL)

    _, alive = psutil.wait_procs(family, timeout=60)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
    end = time.monotonic() + 60
    while not registry.is_free(any_phone.directory):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert desk.list() == []
    assert not any_phone.directory.exists()


def test_an_unauthorized_phone_asks(desk: VirtualDesk) -> None:
    phones = [desk.up(["unauthorized"], body=kind)[0] for kind in KINDS]
    for phone in phones:
        with pytest.raises(AssertionError, match="answers CNXN with AUTH"):
            Wire(phone.port)
