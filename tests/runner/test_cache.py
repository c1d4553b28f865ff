"""The device's cache: pushed once, verified, and evicted only where nobody needs it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from devicelab.adb.direct import DirectTransport
from devicelab.devices.device import Device
from devicelab.devices.discovery import Discovery
from devicelab.devices.leases import Leases
from devicelab.devices.quarantine import Quarantine
from devicelab.errors import ConfigError, DeviceFullError
from devicelab.runner.cache import Blob, DeviceCache
from devicelab.runner.layout import CACHE, JOBS
from devicelab.virtual.client import VirtualPhone
from devicelab.virtual.desk import VirtualDesk

KB = 1 << 10


@pytest.fixture(scope="module")
def standing(module_desk: VirtualDesk) -> dict[str, VirtualPhone]:
    return {name: module_desk.up([name])[0] for name in ("pixel", "phone-2014")}


@pytest.fixture(params=["pixel", "phone-2014"])
def device(
    request: pytest.FixtureRequest, standing: dict[str, VirtualPhone], tmp_path: Path
) -> Iterator[Device]:
    phone = standing[request.param]
    transport = DirectTransport(keys_dir=tmp_path / "keys", scan_emulators=False, usb=False)
    with Leases(tmp_path / "leases") as leases:
        [device] = Discovery(transport, leases, Quarantine(tmp_path), patience=20).look([phone.address])
        with device:
            yield device
            device.remove("/data/local/tmp/devicelab", recursive=True)
    transport.close()


def blob(letter: str, size: int = 100 * KB) -> Blob:
    return Blob.of(letter.encode() * size)


def age(device: Device, blob: Blob, days: int) -> None:
    """Make a file look as if it had been used so many days ago."""
    stamp = time.strftime("%Y%m%d%H%M.%S", time.gmtime(time.time() - 86400 * days))
    device.shell("touch", "-t", stamp, f"{CACHE}/{blob.sha256}")


def test_only_what_is_missing_is_pushed(device: Device, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"f" * 1000)
    program = Blob.of(tmp_path / "file", executable=True)
    cache = DeviceCache(device)
    first = cache.ensure([blob("a"), blob("a"), program])
    assert (first.pushed, first.bytes, first.evicted) == (2, 100 * KB + 1000, ())
    assert cache.contents() == {blob("a").sha256: 100 * KB, program.sha256: 1000}
    again = cache.ensure([blob("a"), program, blob("b")])
    assert (again.pushed, again.bytes) == (1, 100 * KB)
    modes = {entry.name: entry.stat.mode & 0o777 for entry in device.listing(CACHE)}
    assert modes == {blob("a").sha256: 0o444, program.sha256: 0o555, blob("b").sha256: 0o444}
    assert device.read(f"{CACHE}/{program.sha256}", max_bytes=2000) == b"f" * 1000


def test_what_has_another_size_is_pushed_again_and_parts_go(device: Device) -> None:
    cache = DeviceCache(device)
    device.push(b"half", f"{CACHE}/{blob('a').sha256}")
    device.push(b"half", f"{CACHE}/{blob('b').sha256}.0123.part")
    assert cache.ensure([blob("a")]).pushed == 1
    assert [entry.name for entry in device.listing(CACHE)] == [blob("a").sha256]
    content = device.read(f"{CACHE}/{blob('a').sha256}", max_bytes=1 << 20)
    assert hashlib.sha256(content).hexdigest() == blob("a").sha256


def test_the_least_recently_used_goes_first(device: Device) -> None:
    cache = DeviceCache(device, budget=350 * KB)
    cache.ensure([blob("a"), blob("b"), blob("c")])
    for days, each in enumerate((blob("c"), blob("a"), blob("b")), start=1):
        age(device, each, days)
    cache.ensure([blob("b")])  # the oldest, but now it was used
    assert cache.ensure([blob("d")]).evicted == (blob("a").sha256,)
    assert set(cache.contents()) == {blob(letter).sha256 for letter in "bcd"}


def test_what_is_needed_stays_even_over_the_budget(device: Device) -> None:
    cache = DeviceCache(device, budget=250 * KB)
    cache.ensure([blob("a"), blob("b")])
    device.push(f"{blob('a').sha256}\n".encode(), f"{JOBS}/r1/uses")
    report = cache.ensure([blob("c"), blob("d")], keep=[blob("b").sha256])
    assert report.evicted == ()
    assert len(cache.contents()) == 4
    assert set(cache.trim()) == {blob(letter).sha256 for letter in "bcd"}
    assert set(cache.contents()) == {blob("a").sha256}


def test_many_hashes_fit_into_commands(device: Device) -> None:
    cache = DeviceCache(device)
    blobs = [Blob.of(b"%d" % n) for n in range(90)]
    assert cache.ensure(blobs).pushed == 90
    assert cache.ensure(blobs).pushed == 0
    assert set(cache.trim()) == {each.sha256 for each in blobs}


def test_a_full_device_loses_what_it_need_not_have(desk: VirtualDesk, tmp_path: Path) -> None:
    phone = desk.up(["pixel"])[0]
    transport = DirectTransport(keys_dir=tmp_path / "keys", scan_emulators=False, usb=False)
    with Leases(tmp_path / "leases") as leases:
        [device] = Discovery(transport, leases, Quarantine(tmp_path), patience=20).look([phone.address])
        with device:
            phone.set_disk(32 << 20)
            cache = DeviceCache(device)
            cache.ensure([blob("a", 12 << 20), blob("b", 12 << 20)])
            report = cache.ensure([blob("c", 16 << 20)], keep=[blob("b", 12 << 20).sha256])
            assert report.evicted == (blob("a", 12 << 20).sha256,)
            with pytest.raises(DeviceFullError):
                cache.ensure([blob("d", 40 << 20)])
            assert not [entry.name for entry in device.listing(CACHE) if entry.name.endswith(".part")]
    transport.close()


def test_nonsense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds nothing"):
        DeviceCache(None, budget=0)  # type: ignore[arg-type] # refused before it is looked at
    with pytest.raises(ConfigError, match="cannot be read"):
        Blob.of(tmp_path / "missing")
