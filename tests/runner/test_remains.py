"""What jobs leave on real adbds, and how it goes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from devicelab.adb.direct import DirectTransport
from devicelab.devices.device import Device
from devicelab.devices.discovery import Discovery
from devicelab.devices.leases import Leases
from devicelab.devices.quarantine import Quarantine
from devicelab.errors import ConfigError
from devicelab.runner.cache import Blob
from devicelab.runner.installation import jobs_on
from devicelab.runner.layout import CACHE, ENGINES, JOBS, PRIVATE, ROOT
from devicelab.runner.remains import remains_of, remove_remains
from devicelab.runner.session import Patience
from devicelab.virtual.client import VirtualPhone
from devicelab.virtual.desk import VirtualDesk
from tests.runner.standin import Bench

FOREVER = "i=0; while :; do i=$((i+1)); progress $i; sleep 0.1; done"


@pytest.fixture(scope="module")
def phones(module_desk: VirtualDesk) -> dict[str, VirtualPhone]:
    return {name: module_desk.up([name])[0] for name in ("pixel", "phone-2014")}


@pytest.fixture(params=["pixel", "phone-2014"])
def device(request: pytest.FixtureRequest, phones: dict[str, VirtualPhone], tmp_path: Path) -> Iterator[Device]:
    transport = DirectTransport(keys_dir=tmp_path / "keys", scan_emulators=False, usb=False)
    with Leases(tmp_path / "leases") as leases:
        [device] = Discovery(transport, leases, Quarantine(tmp_path), patience=20).look(
            [phones[request.param].address]
        )
        with device:
            yield device
            device.remove(ROOT, recursive=True)
    transport.close()


def kept(device: Device, plan: str, client: str) -> None:
    device.push(b"own factors", f"{PRIVATE}/{plan}/{client}.safetensors")


def present(device: Device) -> bool:
    return "devicelab" in {entry.name for entry in device.listing("/data/local/tmp")}


def test_a_phone_that_never_did_anything(device: Device) -> None:
    remains = remains_of(device, {})
    assert (remains.going, dict(remains.staying), dict(remains.spare), remains.private) == ((), {}, {}, 0)
    assert remove_remains(device, jobs=()) == {}
    assert not present(device)


def test_all_of_it_goes_and_private_values_only_on_request(device: Device, tmp_path: Path) -> None:
    bench = Bench(device, tmp_path)
    session = bench.session()
    session.prepare()
    session.start()
    session.follow(patience=Patience(total=120, idle=60, away=60))
    kept(device, "plan", "17")
    kept(device, "plan", "18")
    device.push(b"half", f"{CACHE}/{'0' * 64}.aa.part")
    remains = remains_of(device, {})
    assert (remains.going, dict(remains.staying), remains.private) == (("JOB",), {}, 2)
    assert len(remains.spare) == 3, "runner, engine and plan, which only this job uses"
    assert jobs_on(device) == ["JOB"], "to look changes nothing"
    assert remove_remains(device, jobs=remains.going) == remains.spare
    assert [entry.name for entry in device.listing(ROOT)] == ["private"]
    assert remains_of(device, {}).private == 2
    remove_remains(device, jobs=(), private=True)
    assert not present(device)


def test_what_runs_and_what_is_needed_stays_with_all_that_it_uses(device: Device, tmp_path: Path) -> None:
    bench = Bench(device, tmp_path)
    running = bench.session("running", work=f"{FOREVER} & trap 'kill $!; exit 75' TERM; wait")
    running.prepare()
    running.start()
    for job in ("needed", "spent"):
        bench.session(job).prepare()
    spare = Blob.of(b"nobody's")
    bench.cache.ensure([spare])
    try:
        remains = remains_of(device, {"needed": "run 7 needs it", "elsewhere": "no matter"})
        assert remains.going == ("spent",)
        assert dict(remains.staying) == {"needed": "run 7 needs it", "running": "it runs"}
        assert dict(remains.spare) == {spare.sha256: spare.size}
        assert remove_remains(device, jobs=remains.going) == remains.spare
        assert jobs_on(device) == ["needed", "running"]
        assert running.look().state == "running"
        assert len(device.listing(ENGINES)) == 1, "its file is still there"
    finally:
        running.remove()


def test_a_part_of_the_cache_may_stay(device: Device, tmp_path: Path) -> None:
    old, new = Blob.of(b"o" * 1000), Blob.of(b"n" * 1000)
    bench = Bench(device, tmp_path)
    bench.cache.ensure([old, new])
    device.shell("touch", "-t", "202001010000.00", f"{CACHE}/{old.sha256}")
    everything = sum(bench.cache.contents().values())
    assert dict(remains_of(device, {}, room=everything).spare) == {}
    assert dict(remains_of(device, {}, room=everything - 1).spare) == {old.sha256: 1000}
    assert dict(remove_remains(device, jobs=(), room=everything - 1)) == {old.sha256: 1000}
    assert old.sha256 not in bench.cache.contents()
    assert new.sha256 in bench.cache.contents()
    assert len(device.listing(ENGINES)) == 1


def test_names_of_jobs_that_are_none_are_left_alone(device: Device) -> None:
    device.push(b"{}", f"{JOBS}/.hidden/job.json")
    device.push(b"{}", f"{JOBS}/{'x' * 65}/job.json")
    assert remains_of(device, {}).going == ()
    for job in ("..", "a/b", ".hidden", ""):
        with pytest.raises(ConfigError):
            remove_remains(device, jobs=[job])
    assert len(device.listing(JOBS)) == 2
