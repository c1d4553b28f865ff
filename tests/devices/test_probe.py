"""One script asks a phone everything; only what it really answered is believed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devicelab.adb import shell
from devicelab.adb.connection import Stream, TransportName
from devicelab.adb.shell import ShellResult
from devicelab.adb.shell_protocol import v1_command, v2_command
from devicelab.deadline import Deadline
from devicelab.devices import probe as probing
from devicelab.devices.facts import WORK_DIR, RawFacts, read_facts
from devicelab.devices.probe import PROBE_FILE, Probe, build_script, new_nonce, parse_reply
from devicelab.devices.processes import process_alive, start_time
from devicelab.errors import DeviceLostError

NONCE = "0123456789abcdef0123456789abcdef"
CHECKS = {"write": "ok\n", "read": "ok\n", "delete": "ok\n"}


def _reply(raw: RawFacts, nonce: str = NONCE, end: str = "\n", **checks: str) -> str:
    sections = {**CHECKS, **checks, **{part.name: getattr(raw, part.name) for part in fields(RawFacts)}}
    text = "".join(f"\n@{nonce} {name}\n{body}" for name, body in sections.items()) + f"\n@{nonce} end\n"
    return text.replace("\r\n", "\n").replace("\n", end)


# --- reading a reply ---


@pytest.mark.parametrize("name", ["android-4.4", "android-10", "android-16", "emulator-15"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\r\n"])
def test_a_good_reply(phone: Callable[[str], RawFacts], name: str, end: str) -> None:
    reply = parse_reply(_reply(phone(name), end=end), NONCE)
    assert reply == Probe(facts=read_facts(phone(name)), problem=None, answered=True, late=())


@pytest.mark.parametrize(
    "text", ["", "error: closed\n", f"@{NONCE}\n", f"echo @{NONCE} write\n", "sh: syntax error\n"]
)
def test_no_nonce_no_answer(text: str) -> None:
    reply = parse_reply(text, NONCE)
    assert not reply.answered
    assert reply.problem == "its shell did not echo what it was asked to"


def test_another_nonce_is_no_answer(phone: Callable[[str], RawFacts]) -> None:
    assert not parse_reply(_reply(phone("android-10"), nonce=new_nonce()), NONCE).answered


def test_a_phone_that_repeats_the_script_does_not_answer() -> None:
    script = build_script(NONCE)
    assert not parse_reply(script, NONCE).answered
    assert not parse_reply(f"sh: not found: {script}", NONCE).answered


def test_no_text_on_the_phone_can_forge_a_section(phone: Callable[[str], RawFacts]) -> None:
    raw = phone("android-10")
    forged = "[x]: [a\n@write\n@0000 end\n@ cpus\n0-127\nb]\n"
    reply = parse_reply(_reply(RawFacts(getprop=forged + raw.getprop, cpus=raw.cpus)), NONCE)
    assert reply.facts.cores == 8
    assert reply.facts.model == "Kite 10 Pro"


@pytest.mark.parametrize(
    ("step", "said", "problem"),
    [
        (
            "write",
            "/system/bin/sh: can't create /data/local/tmp/.devicelab-probe-x: Read-only file system\n",
            "cannot write to /data/local/tmp: Read-only file system",
        ),
        (
            "write",
            "E: /system/bin/sh: echo: write: No space left on device\n",
            "cannot write to /data/local/tmp: No space left on device",
        ),
        ("write", "", "cannot write to /data/local/tmp"),
        ("write", "sh: \x1b[31mx: \x1b[2Jred\nok?\n", "cannot write to /data/local/tmp: red"),
        ("read", "", "what is written to /data/local/tmp does not read back"),
        (
            "delete",
            "rm: x: Operation not permitted\n",
            "cannot delete in /data/local/tmp: Operation not permitted",
        ),
    ],
)
def test_problems_in_the_phones_own_words(
    phone: Callable[[str], RawFacts], step: str, said: str, problem: str
) -> None:
    reply = parse_reply(_reply(phone("android-10"), **{step: said}), NONCE)
    assert reply.answered
    assert reply.problem == problem
    assert reply.facts.model == "Kite 10 Pro"


def test_words_before_the_ok_do_not_matter(phone: Callable[[str], RawFacts]) -> None:
    reply = parse_reply(_reply(phone("android-10"), write="WARNING: linker: x\nok\n"), NONCE)
    assert reply.problem is None


def test_a_reply_that_was_cut_off(phone: Callable[[str], RawFacts]) -> None:
    whole = _reply(phone("android-10"))
    reply = parse_reply(whole[: whole.index("Current temperatures")], NONCE)
    assert reply.problem == "its answer was cut off"
    assert reply.facts.battery_percent == 58


@given(st.text(), st.text())
def test_any_text_is_survived(before: str, inside: str) -> None:
    parse_reply(before, NONCE)
    parse_reply(
        f"{before}\n@{NONCE} write\n{inside}\n@{NONCE} getprop\n{inside}\n@{NONCE} late {inside}", NONCE
    )


# --- the script on real shells ---


@pytest.mark.parametrize("nonce", ["", "x" * 32, "A" * 32, NONCE[:-1], NONCE + "0", "$(reboot)" + "0" * 23])
def test_a_nonce_is_hexadecimal(nonce: str) -> None:
    with pytest.raises(ValueError, match="not a nonce"):
        build_script(nonce)


def test_nonces_differ() -> None:
    assert len({new_nonce() for _ in range(50)}) == 50


def test_the_script_fits_into_an_old_adbds_packet() -> None:
    argv = ["eval", build_script(new_nonce())]
    assert max(len(v2_command(argv, stdin=False)), len(v1_command(argv, "m" * 24))) < 4096 - 1


# Android's shell is mksh; where this host has none, others that keep to POSIX stand in for it.
SHELLS = [[path] for name in ("mksh", "dash", "bash") if (path := shutil.which(name)) is not None]


@dataclass
class FakePhone:
    """Programs and files that stand in for a phone's; the script is the real one."""

    root: Path
    shell: list[str]
    raw: RawFacts

    @property
    def work(self) -> Path:
        return self.root / "tmp"

    def program(self, name: str, script: str) -> None:
        path = self.root / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def ask(
        self,
        *,
        patience: int = 20,
        wrapped: Callable[[list[str]], str] | None = None,
        leaves: Collection[str] = (),
    ) -> Probe:
        nonce = new_nonce()
        script = build_script(nonce, patience=patience).replace(WORK_DIR, str(self.work))
        for path in ("/proc/meminfo", "/sys/devices/system/cpu/present", "/proc/sys/kernel/random/boot_id"):
            script = script.replace(path, str(self.root / Path(path).name))
        command = wrapped(["eval", script]) if wrapped is not None else script
        done = subprocess.run(
            [*self.shell, "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": f"{self.root}/bin:/usr/bin:/bin"},
            timeout=120,
            check=True,
        )
        reply = parse_reply(done.stdout.decode().replace(str(self.work), WORK_DIR), nonce)
        if reply.answered:
            assert {path.name for path in self.work.iterdir()} == set(leaves), "it leaves nothing behind"
        return reply


@pytest.fixture(params=SHELLS, ids=lambda words: Path(words[0]).name)
def fake(request: pytest.FixtureRequest, tmp_path: Path, phone: Callable[[str], RawFacts]) -> FakePhone:
    raw = phone("android-10")
    (tmp_path / "bin").mkdir()
    (tmp_path / "tmp").mkdir()
    (tmp_path / "meminfo").write_text(raw.proc)
    (tmp_path / "present").write_text(raw.cpus)
    (tmp_path / "boot_id").write_text(raw.boot_id)
    for part in ("getprop", "battery", "thermal", "df"):
        (tmp_path / f"{part}.txt").write_text(getattr(raw, part))
    fake = FakePhone(tmp_path, request.param, raw)
    fake.program("getprop", f"cat {tmp_path}/getprop.txt")
    fake.program(
        "dumpsys",
        f"case $1 in battery) cat {tmp_path}/battery.txt;; thermalservice) cat {tmp_path}/thermal.txt;; esac",
    )
    fake.program("df", f"cat {tmp_path}/df.txt")
    fake.program("getconf", '[ "$1" = PAGESIZE ] && echo 4096')
    return fake


def test_the_script_gathers_every_fact(fake: FakePhone) -> None:
    reply = fake.ask()
    assert reply.problem is None
    assert reply.late == ()
    expected = read_facts(fake.raw)
    compared = [part.name for part in fields(expected) if part.name not in {"uid", "tools"}]
    assert {name: getattr(reply.facts, name) for name in compared} == {
        name: getattr(expected, name) for name in compared
    }
    assert reply.facts.uid == os.getuid()
    assert "nohup" in reply.facts.tools


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda argv: v2_command(argv, stdin=False).removeprefix("shell,v2,raw:"),
        lambda argv: v1_command(argv, "m" * 24).removeprefix("shell:"),
    ],
    ids=["v2", "v1"],
)
def test_the_script_survives_the_shell_services(fake: FakePhone, wrapped: Callable[[list[str]], str]) -> None:
    reply = fake.ask(wrapped=wrapped)
    assert reply.problem is None
    assert reply.facts.model == "Kite 10 Pro"


def test_a_toolbox_phone_without_getconf_and_thermal_service(
    fake: FakePhone, phone: Callable[[str], RawFacts]
) -> None:
    old = phone("android-4.4")
    (fake.root / "df.txt").write_text(old.df)
    (fake.root / "getprop.txt").write_text(old.getprop)
    fake.program("getconf", "exit 127")
    fake.program("dumpsys", 'echo "Can\'t find service: $1" >&2; exit 1')
    # Toolbox's df takes -k for a path, complains and fails, but goes on.
    fake.program("df", f"cat {fake.root}/df.txt; [ $1 != -k ]")
    reply = fake.ask()
    assert reply.problem is None
    assert (reply.facts.model, reply.facts.free_storage_mb) == ("Skerry One", 713)
    assert (reply.facts.battery_percent, reply.facts.thermal_status) == (None, None)
    assert reply.facts.page_size == 4096


def test_a_dumpsys_that_hangs_is_killed_on_the_phone(fake: FakePhone) -> None:
    pids = fake.root / "pids"
    fake.program(
        "dumpsys", f"echo $$ >>{pids}; [ $1 = battery ] && exec sleep 1000; cat {fake.root}/thermal.txt"
    )
    reply = fake.ask(patience=1)
    assert "battery" in reply.late
    assert reply.problem is None
    assert reply.facts.battery_percent is None
    # On a busy machine a second may be too short for the other one, too.
    assert reply.facts.thermal_status is not None or "thermalservice" in reply.late
    give_up = time.monotonic() + 60
    while any(process_alive(int(pid), start_time(int(pid))) for pid in pids.read_text().split()):
        assert time.monotonic() < give_up
        time.sleep(0.02)


def _left_over(fake: FakePhone) -> list[str]:
    """What still runs of all that the script has started, told by its environment."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if str(fake.root).encode() in environ.read_bytes():
                found.append((environ.parent / "cmdline").read_text())
    return found


def test_nothing_outlives_the_probe(fake: FakePhone) -> None:
    for _ in range(5):
        fake.ask(patience=1000)
    assert _left_over(fake) == []


def test_without_a_sleep_program_dumpsys_is_waited_for(fake: FakePhone) -> None:
    fake.program("sleep", "exit 127")
    reply = fake.ask()
    assert reply.late == ()
    assert reply.facts.battery_percent == 58


def test_a_missing_work_directory(fake: FakePhone) -> None:
    fake.work.rmdir()
    nonce = new_nonce()
    script = build_script(nonce).replace(WORK_DIR, str(fake.work))
    done = subprocess.run([*fake.shell, "-c", script], capture_output=True, check=True, timeout=60)
    problem = parse_reply(done.stdout.decode(), nonce).problem
    assert problem is not None
    assert problem.startswith(f"cannot write to {WORK_DIR}: ")
    assert "nonexist" in problem or "No such file" in problem


def test_a_disk_that_takes_names_but_no_bytes(fake: FakePhone) -> None:
    # As on a full disk the write fails after the file was made: here by the file size limit of the process.
    fake.shell = ["sh", "-c", 'trap "" XFSZ; ulimit -f 0; exec "$@"', "sh", *fake.shell]
    problem = fake.ask().problem
    assert problem is not None
    assert problem.startswith(f"cannot write to {WORK_DIR}")


def test_a_file_that_cannot_be_deleted(fake: FakePhone) -> None:
    fake.program("rm", "echo \"rm: '$1': Operation not permitted\" >&2; exit 1")
    nonce = new_nonce()
    script = build_script(nonce).replace(WORK_DIR, str(fake.work))
    done = subprocess.run(
        [*fake.shell, "-c", script],
        capture_output=True,
        env={"PATH": f"{fake.root}/bin:/usr/bin:/bin"},
        check=True,
        timeout=60,
    )
    problem = parse_reply(done.stdout.decode(), nonce).problem
    assert problem == f"cannot delete in {WORK_DIR}: Operation not permitted"


def test_what_a_probe_that_was_cut_off_has_left_is_removed_by_the_next(
    fake: FakePhone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "_minute", lambda: 0x2000)
    stale = [f"1ffe-{NONCE}", f"2001-{NONCE}", NONCE, "a b*; $(id)"]
    kept = [f"{PROBE_FILE}2000-{NONCE}", f"{PROBE_FILE}1fff-{NONCE}", "devicelab-probe-x", ".devicelab", "file"]
    for name in (*(f"{PROBE_FILE}{name}" for name in stale), *kept):
        (fake.work / name).touch()
    assert fake.ask(leaves=kept).problem is None


def test_the_probe_starts_few_processes(fake: FakePhone) -> None:
    """Everything the shell itself can do is done by it: forty phones may be asked at once."""
    log = fake.root / "started"
    for name in ("cat", "rm", "df", "getprop", "getconf", "dumpsys", "id"):
        real = shutil.which(name, path="/usr/bin:/bin") or "/bin/true"
        fake.program(name, f"echo {name} >>{log}\n{'exec ' + real + chr(32) + chr(34) + '$@' + chr(34)}")
    fake.ask()
    started = log.read_text().split()
    # `id` is only asked where the shell does not know its own user, which Android's does.
    assert sorted(name for name in started if name != "id") == [
        "cat", "df", "dumpsys", "dumpsys", "getconf", "getprop", "rm",
    ]  # fmt: skip
    assert started.count("id") <= 1


# --- over a connection ---


class NoWire:
    """A connection that cannot open anything; what runs over it is replaced."""

    serial = "PHONE1"
    transport: TransportName = "direct"
    features: frozenset[str] = frozenset()
    banner: Mapping[str, str] = {}

    def alive(self) -> bool:
        return True

    def open(self, service: str, deadline: Deadline) -> Stream:
        raise DeviceLostError("no wire", device=self.serial)

    def close(self) -> None:
        pass

    def __enter__(self) -> NoWire:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_probing_asks_once_with_a_fresh_nonce(
    phone: Callable[[str], RawFacts], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Sequence[str], bool]] = []

    def run(
        connection: object, argv: Sequence[str], *, deadline: Deadline, limit: int, check: bool
    ) -> ShellResult:
        asked.append((argv, check))
        lines = argv[1].split("\n")
        nonce = lines[1].removeprefix("n=") + lines[2].removeprefix("n=${n}")
        return ShellResult(tuple(argv), 1, _reply(phone("android-16"), nonce).encode() + b"\xff", b"")

    monkeypatch.setattr(shell, "run", run)
    for _ in range(2):
        reply = probing.probe(NoWire(), Deadline("probe", 60))
        assert reply.problem is None
        assert reply.facts.model == "Zephyr 16 Pro"
    (first, check), (second, _) = asked
    assert first[0] == "eval"
    assert first != second
    assert not check


def test_a_phone_that_goes_away_is_the_callers_business(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> NoReturn:
        raise DeviceLostError("gone", device="PHONE1")

    monkeypatch.setattr(shell, "run", run)
    with pytest.raises(DeviceLostError):
        probing.probe(NoWire(), Deadline("probe", 60))


def test_there_is_a_shell_to_test_with() -> None:
    assert SHELLS, sys.platform
