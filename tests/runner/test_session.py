"""Jobs on real adbds, with a runner that does as it is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from devicelab.adb.direct import DirectTransport
from devicelab.devices.device import Device
from devicelab.devices.discovery import Discovery
from devicelab.devices.leases import Leases
from devicelab.devices.quarantine import Quarantine
from devicelab.errors import DeadlineError, DeviceLostError, RemoteFileError, RunnerError
from devicelab.runner.installation import jobs_on
from devicelab.runner.messages import Hello, Progress, TrainResult
from devicelab.runner.session import JobSession, Patience
from devicelab.virtual.client import VirtualPhone
from devicelab.virtual.desk import VirtualDesk
from tests.runner.standin import CONTENT, Bench

FOREVER = "i=0; while :; do i=$((i+1)); progress $i; sleep 0.1; done"
PATIENCE = Patience(total=120, idle=60, away=60)


@pytest.fixture(scope="module")
def phones(module_desk: VirtualDesk) -> dict[str, VirtualPhone]:
    return {name: module_desk.up([name])[0] for name in ("pixel", "phone-2014")}


@pytest.fixture(params=["pixel", "phone-2014"])
def phone(request: pytest.FixtureRequest, phones: dict[str, VirtualPhone]) -> VirtualPhone:
    return phones[request.param]


@pytest.fixture
def device(phone: VirtualPhone, tmp_path: Path) -> Iterator[Device]:
    transport = DirectTransport(keys_dir=tmp_path / "keys", scan_emulators=False, usb=False)
    with Leases(tmp_path / "leases") as leases:
        [device] = Discovery(transport, leases, Quarantine(tmp_path), patience=20).look([phone.address])
        assert device.ready, device.verdict
        with device:
            yield device
            device.remove("/data/local/tmp/devicelab", recursive=True)
    transport.close()


@pytest.fixture
def bench(device: Device, tmp_path: Path) -> Bench:
    return Bench(device, tmp_path)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def processes(session: JobSession) -> int:
    """How many processes on the phone name the job's directory, this question aside."""
    script = (
        "exec 2>/dev/null; n=0; for f in /proc/[0-9]*/cmdline; do "
        'case "$(cat $f)" in *"$1/$2"*) n=$((n+1));; esac; done; echo $n'
    )
    return int(session.device.shell("sh", "-c", script, "sh", *session.directory.rsplit("/", 1)).text)


@pytest.mark.parametrize("attached", [True, False])
def test_from_the_first_line_to_the_last_file(bench: Bench, attached: bool, tmp_path: Path) -> None:
    session = bench.session()
    session.prepare()
    heard: list[Hello | Progress] = []
    if attached:
        result = session.run(patience=PATIENCE, on_message=heard.append)
    else:
        assert session.start() == "started"
        result = session.follow(patience=PATIENCE, on_message=heard.append)
    assert isinstance(result, TrainResult)
    assert [type(message) for message in heard] == [Hello, Progress]
    assert jobs_on(bench.device) == ["JOB"]

    session.collect(result, tmp_path / "update", max_bytes=100)
    assert (tmp_path / "update").read_bytes() == CONTENT
    session.commit()
    session.commit()
    assert bench.lines(session, "commits") == 2

    session.prepare()  # all of it again, and nothing is done twice
    assert session.start() == "started"
    assert session.follow(patience=PATIENCE) == result
    assert bench.lines(session, "starts") == 1
    session.finish(commit=True)
    assert jobs_on(bench.device) == []
    session.finish(commit=True)  # nothing to be done


def test_who_started_a_job_is_told_of_its_end(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    session = bench.session(work="progress 1")
    session.prepare()
    session.start()
    until(lambda: session.look().state == "gone")
    monkeypatch.delattr(JobSession, "look")
    heard: list[Hello | Progress] = []
    result = session.follow(patience=PATIENCE, on_message=heard.append)
    assert isinstance(result, TrainResult)
    assert [type(message) for message in heard] == [Hello, Progress]


def test_a_launcher_that_was_ended_is_no_end_of_the_job(bench: Bench) -> None:
    session = bench.session(work='until [ -f "$d/go" ]; do progress 1; sleep 0.1; done')
    session.prepare()
    session.start()
    until(lambda: b'"step":1' in session.look().log)
    kill = (
        "for f in /proc/[0-9]*/cmdline; do p=${f%/cmdline}; p=${p##*/}; "
        '[ $p != $$ ] && case "$(cat $f)" in *echo\\ started*) kill -9 $p;; esac; done; touch "$1/go"'
    )
    bench.device.shell("sh", "-c", kill, "sh", session.directory, check=False)
    assert isinstance(session.follow(patience=PATIENCE), TrainResult)


def test_what_runs_is_stopped_before_it_is_finished(bench: Bench) -> None:
    session = bench.session(work=FOREVER)
    session.prepare()
    session.start()
    session.finish(commit=False)
    until(lambda: processes(session) == 0)
    assert jobs_on(bench.device) == []


def test_a_commit_that_fails_leaves_the_job_as_it_is(bench: Bench) -> None:
    session = bench.session()
    session.prepare()
    session.start()
    session.follow(patience=PATIENCE)
    bench.device.shell("sh", "-c", 'cd "$1" && mkdir commits', "sh", session.directory)
    with pytest.raises(RunnerError):
        session.finish(commit=True)
    assert jobs_on(bench.device) == ["JOB"]
    bench.device.remove(f"{session.directory}/commits", recursive=True)
    session.finish(commit=True)
    assert jobs_on(bench.device) == []


def test_a_running_job_is_found_and_not_started_twice(bench: Bench) -> None:
    session = bench.session(work=f"{FOREVER} & trap 'kill $!; exit 75' TERM; wait")
    session.prepare()
    assert session.start() == "started"
    assert session.start() == "running"
    assert session.look().state == "running"
    with pytest.raises(RunnerError, match="runs already") as caught:
        session.run(patience=PATIENCE)
    assert caught.value.code == "busy"
    again = bench.session(work=f"{FOREVER} & trap 'kill $!; exit 75' TERM; wait")
    again.prepare()
    assert again.start() == "running"
    until(lambda: bench.lines(session, "starts") > 0)
    assert bench.lines(session, "starts") == 1
    again.stop()
    assert session.look().state == "gone"
    with pytest.raises(RunnerError):
        session.follow(patience=PATIENCE)
    session.stop()  # nothing to be done


def test_who_follows_may_leave_and_a_stop_is_heard(bench: Bench) -> None:
    session = bench.session(work=FOREVER)
    session.prepare()
    session.start()
    steps: list[int] = []

    def listen(message: Hello | Progress) -> None:
        if isinstance(message, Progress):
            steps.append(message.step)

    def leave() -> None:
        if steps and steps[-1] >= 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        session.follow(patience=PATIENCE, on_message=listen, between=leave)
    assert steps == sorted(set(steps))
    assert session.look().state == "running"
    session.stop()
    with pytest.raises(RunnerError, match="job JOB: signal") as caught:
        session.follow(patience=PATIENCE)
    assert caught.value.code == "stopped"
    until(lambda: processes(session) == 0)


def test_who_does_not_stop_is_killed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devicelab.runner.session._STOP_SECONDS", 1.0)
    session = bench.session(work=f"trap '' TERM; {FOREVER}")
    session.prepare()
    session.start()
    until(lambda: b'"step":2' in session.look().log)
    session.stop()
    until(lambda: processes(session) == 0)
    with pytest.raises(RunnerError, match="gone without a word") as caught:
        session.follow(patience=PATIENCE)
    assert caught.value.code == "killed"


def test_a_runner_without_its_shell_is_found_and_ended(bench: Bench) -> None:
    session = bench.session(work=FOREVER)
    session.prepare()
    session.start()
    until(lambda: b'"step":2' in session.look().log)
    bench.device.shell("sh", "-c", 'read p g <"$1/pid"; kill -9 $p', "sh", session.directory)
    until(lambda: session.look().state == "gone")
    assert session.start() == "running"
    session.stop()
    until(lambda: processes(session) == 0)
    assert session.start() == "started"
    session.stop()


def test_a_job_outlives_the_cable(bench: Bench, phone: VirtualPhone) -> None:
    session = bench.session(work='until [ -f "$d/go" ]; do progress 1; sleep 0.1; done')
    session.prepare()
    session.start()
    until(lambda: b'"step":1' in session.look().log)
    timers = [threading.Timer(0.3, phone.unplug), threading.Timer(2.0, phone.replug)]
    letting_go = threading.Timer(
        3.0, lambda: bench.device.shell("touch", f"{session.directory}/go", seconds=60)
    )
    for timer in (*timers, letting_go):
        timer.start()
    result = session.follow(patience=PATIENCE)
    for timer in (*timers, letting_go):
        timer.join()
    assert isinstance(result, TrainResult)
    assert bench.lines(session, "starts") == 1


def test_an_attached_job_ends_with_the_cable(bench: Bench, phone: VirtualPhone) -> None:
    session = bench.session(work=FOREVER)
    session.prepare()
    with pytest.raises(DeviceLostError):
        session.run(
            patience=PATIENCE,
            on_message=lambda message: phone.unplug() if isinstance(message, Progress) else None,
        )
    phone.replug()
    session.stop()
    until(lambda: processes(session) == 0)


@pytest.mark.parametrize("phone", ["pixel"], indirect=True)
def test_patience_has_an_end(bench: Bench, phone: VirtualPhone) -> None:
    session = bench.session(work="progress 1; sleep 1000")
    session.prepare()
    session.start()
    with pytest.raises(DeadlineError, match="a line of job JOB"):
        session.follow(patience=replace(PATIENCE, idle=1))
    with pytest.raises(DeadlineError, match="job JOB: no end within 1 s"):
        session.follow(patience=replace(PATIENCE, total=1))
    phone.unplug()
    try:
        with pytest.raises(DeviceLostError):
            session.follow(patience=replace(PATIENCE, away=0.5))
    finally:
        phone.replug()
    session.stop()
    with pytest.raises(DeadlineError, match="a line of job JOB"):
        session.run(patience=replace(PATIENCE, idle=1))
    until(lambda: processes(session) == 0)


def test_a_reboot_is_a_death_and_then_a_fresh_start(desk: VirtualDesk, tmp_path: Path) -> None:
    phone = desk.up(["pixel"])[0]
    transport = DirectTransport(keys_dir=tmp_path / "keys", scan_emulators=False, usb=False)
    with Leases(tmp_path / "leases") as leases:
        [device] = Discovery(transport, leases, Quarantine(tmp_path), patience=20).look([phone.address])
        with device:
            bench = Bench(device, tmp_path)
            session = bench.session(work='[ -f "$d/first" ] || { echo x >"$d/first"; sleep 1000; }')
            session.prepare()
            session.start()
            until(lambda: bench.lines(session, "first") == 1)
            phone.kill()
            phone.start()
            with pytest.raises(RunnerError, match="gone without a word"):
                session.follow(patience=PATIENCE)
            assert session.start() == "started"
            assert isinstance(session.follow(patience=PATIENCE), TrainResult)
    transport.close()


@pytest.mark.parametrize("phone", ["pixel"], indirect=True)
@pytest.mark.parametrize(
    ("work", "code", "words"),
    [
        ("kill -9 $$", "killed", "was killed"),
        ("kill -SEGV $$", "crashed", "crashed"),
        ("kill -ILL $$", "crashed", "illegal instruction"),
        ("exit 3", "crashed", "exited with 3"),
        ('echo "CANNOT LINK EXECUTABLE: library not found" >&2; exit 1', "engine", "CANNOT LINK EXECUTABLE"),
        ('echo "x: error while loading shared libraries: y" >&2; exit 127', "engine", "error while loading"),
        ("echo nonsense", "protocol", "not JSON"),
        ("cat /dev/null; exit 0", "protocol", "without a result"),
        (
            """echo '{"type":"error","code":"not-finite","message":"step 3","client":"17"}'; exit 76""",
            "not-finite",
            "client 17: step 3",
        ),
        ("hello", "protocol", "a second hello"),
    ],
)
def test_every_death_has_a_name(bench: Bench, work: str, code: str, words: str) -> None:
    session = bench.session(work=work)
    session.prepare()
    session.start()
    with pytest.raises(RunnerError, match=words) as caught:
        session.follow(patience=PATIENCE)
    assert (caught.value.code, caught.value.device) == (code, bench.device.serial)


@pytest.mark.parametrize("phone", ["pixel"], indirect=True)
def test_another_protocol_names_both_sides(bench: Bench) -> None:
    runner = bench.directory / "runner"
    other = runner.read_text().replace('"protocol":1', '"protocol":2')
    bench.device.push(other.encode(), bench.installation.runner, mode=0o755)
    session = bench.session()
    session.prepare()
    with pytest.raises(RunnerError, match="speaks protocol 2, this devicelab speaks 1"):
        session.run(patience=PATIENCE)


@pytest.mark.parametrize("phone", ["pixel"], indirect=True)
def test_a_result_that_is_not_the_jobs_is_refused(bench: Bench) -> None:
    session = bench.session("OTHER")
    session.prepare()
    with pytest.raises(RunnerError, match="that of job JOB") as caught:
        session.run(patience=PATIENCE)
    assert caught.value.code == "damaged"


@pytest.mark.parametrize("phone", ["pixel"], indirect=True)
def test_another_job_under_the_same_id_is_refused(bench: Bench) -> None:
    session = bench.session()
    session.prepare()
    session.start()
    other = JobSession(bench.device, replace(session.job, epochs=2), bench.installation, uses=[])
    with pytest.raises(RunnerError, match="another job on the device is called JOB"):
        other.prepare()


@pytest.mark.parametrize("phone", ["pixel"], indirect=True)
def test_a_damaged_update_is_not_taken(bench: Bench, tmp_path: Path) -> None:
    session = bench.session()
    session.prepare()
    result = session.run(patience=PATIENCE)
    assert isinstance(result, TrainResult)
    with pytest.raises(RunnerError, match="more than 3"):
        session.collect(result, tmp_path / "update", max_bytes=3)
    bench.device.push(b"an UPDATE", f"{session.directory}/update.safetensors")
    with pytest.raises(RunnerError, match="is not what the runner wrote") as caught:
        session.collect(result, tmp_path / "update", max_bytes=100)
    assert caught.value.code == "damaged"
    bench.device.push(b"an UPDATE that is longer", f"{session.directory}/update.safetensors")
    with pytest.raises(RemoteFileError):
        session.collect(result, tmp_path / "update", max_bytes=100)
    assert not (tmp_path / "update").exists()
