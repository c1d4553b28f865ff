"""Finding, judging and starting the adb program."""

from __future__ import annotations

import json
import os
from pathlib import Path

import adbutils
import pytest

from devicelab.adb.program import (
    ServerAddress,
    adb_version,
    find_adb,
    holes,
    parse_version,
    start_server,
)
from devicelab.deadline import Deadline
from devicelab.errors import AdbUnavailableError, ConfigError, DeadlineError

WHEEL = Path(adbutils.__file__).parent / "binaries" / "adb"


def _program(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("variables", "address"),
    [
        ({}, ServerAddress("127.0.0.1", 5037)),
        ({"ADB_SERVER_SOCKET": "tcp:1234"}, ServerAddress("127.0.0.1", 1234)),
        ({"ADB_SERVER_SOCKET": "tcp:lab:1234"}, ServerAddress("lab", 1234)),
        ({"ADB_SERVER_SOCKET": "tcp:[fe80::1]:1234"}, ServerAddress("fe80::1", 1234)),
        ({"ADB_SERVER_SOCKET": "localfilesystem:/run/adb"}, ServerAddress(path="/run/adb")),
        ({"ANDROID_ADB_SERVER_PORT": "77"}, ServerAddress("127.0.0.1", 77)),
        ({"ANDROID_ADB_SERVER_ADDRESS": "lab"}, ServerAddress("lab", 5037)),
        ({"ADB_SERVER_SOCKET": "tcp:1", "ANDROID_ADB_SERVER_PORT": "2"}, ServerAddress("127.0.0.1", 1)),
    ],
)
def test_the_server_is_where_adb_itself_would_look(variables: dict[str, str], address: ServerAddress) -> None:
    assert ServerAddress.from_environment(variables) == address


@pytest.mark.parametrize(
    "variables",
    [
        {"ADB_SERVER_SOCKET": "vsock:1:5037"},
        {"ADB_SERVER_SOCKET": "tcp:"},
        {"ADB_SERVER_SOCKET": "tcp:lab:adb"},
        {"ADB_SERVER_SOCKET": "localfilesystem:"},
        {"ANDROID_ADB_SERVER_PORT": "65536"},
        {"ANDROID_ADB_SERVER_PORT": "-1"},
        {"ANDROID_ADB_SERVER_PORT": "²"},
    ],
)
def test_a_variable_that_names_no_server_is_named(variables: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=next(iter(variables))):
        ServerAddress.from_environment(variables)


def test_addresses_as_people_write_them() -> None:
    assert str(ServerAddress("lab", 1)) == "lab:1"
    assert str(ServerAddress(path="/run/adb")) == "/run/adb"
    assert ServerAddress("localhost", 1).local
    assert ServerAddress(path="/run/adb").local
    assert not ServerAddress("lab", 1).local


@pytest.mark.parametrize(
    ("text", "release", "build"),
    [
        (
            "Android Debug Bridge version 1.0.41\nVersion 36.0.0-13206524\nInstalled as /x\n",
            (36, 0, 0),
            "13206524",
        ),
        ("Android Debug Bridge version 1.0.41\nVersion 29.0.6-debian\n", (29, 0, 6), "debian"),
        ("Android Debug Bridge version 1.0.41\nVersion 33.0.3\n", (33, 0, 3), ""),
        ("Android Debug Bridge version 1.0.32\n", None, ""),
    ],
)
def test_versions_of_four_times(text: str, release: tuple[int, int, int] | None, build: str) -> None:
    protocol, *rest = parse_version(text)
    assert protocol.startswith("1.0.")
    assert rest == [release, build]


@pytest.mark.parametrize("text", ["", "adb: command not found", "Version 36.0.0-1"])
def test_what_is_no_version(text: str) -> None:
    with pytest.raises(ValueError, match="not what `adb version` prints"):
        parse_version(text)


def test_holes_end_with_the_release_that_closed_them() -> None:
    assert [hole.cve for hole in holes((33, 0, 2))] == ["CVE-2022-20128", "CVE-2022-3168"]
    assert holes((33, 0, 3)) == []
    assert holes((36, 0, 0)) == []
    assert holes(None) == holes((1, 0, 0))


def test_the_search_goes_from_the_named_to_the_bundled(tmp_path: Path) -> None:
    named = _program(tmp_path / "named" / "my-adb", "")
    on_path = _program(tmp_path / "bin" / "adb", "")
    home = _program(tmp_path / "home" / "platform-tools" / "adb", "")
    root = _program(tmp_path / "root" / "platform-tools" / "adb", "")
    variables = {
        "ADB": str(named),
        "PATH": str(on_path.parent),
        "ANDROID_HOME": str(tmp_path / "home"),
        "ANDROID_SDK_ROOT": str(tmp_path / "root"),
    }
    found = []
    for name in ("ADB", "PATH", "ANDROID_HOME", "ANDROID_SDK_ROOT"):
        found.append(find_adb(variables))
        variables[name] = ""
    assert found == [named, on_path, home, root]
    assert find_adb(variables) == WHEEL


def test_a_directory_or_text_file_is_no_program(tmp_path: Path) -> None:
    (tmp_path / "platform-tools" / "adb").mkdir(parents=True)
    assert find_adb({"PATH": "", "ANDROID_HOME": str(tmp_path)}) == WHEEL


def test_a_wrong_adb_variable_is_an_error_and_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\$ADB names /nowhere/adb"):
        find_adb({"ADB": "/nowhere/adb", "PATH": str(tmp_path)})


def test_the_version_of_a_real_adb() -> None:
    program = adb_version(WHEEL, Deadline("adb version", 30))
    assert program.protocol == "1.0.41"
    assert program.release is not None
    assert program.release >= (36, 0, 0)
    assert holes(program.release) == []
    assert str(program).startswith("adb 3")


def test_a_program_that_is_not_adb(tmp_path: Path) -> None:
    other = _program(tmp_path / "adb", "echo hello; exit 3")
    with pytest.raises(AdbUnavailableError, match=r"not a working adb program \(exit 3\).*hello"):
        adb_version(other, Deadline("adb version", 30))


def test_a_program_that_does_not_run(tmp_path: Path) -> None:
    other = tmp_path / "adb"
    other.write_bytes(b"\x7fELF of another machine")
    other.chmod(0o755)
    with pytest.raises(AdbUnavailableError, match="does not run: "):
        adb_version(other, Deadline("adb version", 30))


def test_a_program_that_hangs_is_killed(tmp_path: Path) -> None:
    other = _program(tmp_path / "adb", f"echo $$ >{tmp_path}/pid; exec sleep 60")
    with pytest.raises(DeadlineError, match="adb version"):
        adb_version(other, Deadline("adb version", 3.0))
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_server_is_started_by_its_port_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADB_SERVER_SOCKET", "tcp:elsewhere:1")
    monkeypatch.setenv("ANDROID_ADB_SERVER_ADDRESS", "elsewhere")
    log = tmp_path / "log"
    recorder = _program(
        tmp_path / "adb",
        f'echo "[\\"$*\\", \\"$ADB_SERVER_SOCKET\\", \\"$ANDROID_ADB_SERVER_ADDRESS\\",'
        f' \\"$ANDROID_ADB_SERVER_PORT\\"]" >{log}',
    )
    start_server(recorder, ServerAddress("127.0.0.1", 7777), Deadline("start", 30))
    assert json.loads(log.read_text()) == ["start-server", "", "", "7777"]
    start_server(recorder, ServerAddress(path="/run/adb"), Deadline("start", 30))
    assert json.loads(log.read_text()) == ["start-server", "localfilesystem:/run/adb", "", ""]


def test_a_server_elsewhere_is_not_started(tmp_path: Path) -> None:
    recorder = _program(tmp_path / "adb", f"touch {tmp_path}/ran")
    with pytest.raises(AdbUnavailableError, match="only be started on this machine") as caught:
        start_server(recorder, ServerAddress("lab", 5037), Deadline("start", 30))
    assert caught.value.hint is not None
    assert not (tmp_path / "ran").exists()


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    broken = _program(tmp_path / "adb", "echo 'cannot bind: in use' >&2; exit 1")
    with pytest.raises(AdbUnavailableError, match=r"failed \(exit 1\): cannot bind: in use"):
        start_server(broken, ServerAddress(), Deadline("start", 30))


def test_a_server_left_behind_does_not_hold_the_start_up(tmp_path: Path) -> None:
    daemon = _program(tmp_path / "adb", f"sleep 60 & echo $! >{tmp_path}/pid")
    start_server(daemon, ServerAddress(), Deadline("start", 30))
    os.kill(int((tmp_path / "pid").read_text()), 9)
