"""Runner and engine on a device, and the jobs that are there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from devicelab.devices.device import Device
from devicelab.runner.cache import Blob, DeviceCache
from devicelab.runner.fitness import ENGINE_LIBRARY
from devicelab.runner.layout import CACHE, JOBS, engine_directory
from devicelab.runner.packs import Pack

__all__ = ["Installation", "install", "jobs_on"]

_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True)
class Installation:
    """Runner and engine on a device.

    Attributes:
        runner: Path of the program.
        library_path: The directory that holds the engine under the name that the linker looks for.
        hashes: What of the device's cache they are.
    """

    runner: str
    library_path: str
    hashes: tuple[str, ...]


def install(device: Device, cache: DeviceCache, pack: Pack, *, seconds: float = _SECONDS) -> Installation:
    """Have a runner and its engine on a device.

    Args:
        device: The device.
        cache: Its cache.
        pack: What it shall have; must fit (:func:`devicelab.runner.fitness.require_fit`).
        seconds: For each push.

    Raises:
        DeviceFullError, RemoteFileError: It cannot store them.
        DeviceLostError, DeadlineError: As everywhere.
    """
    cache.ensure([Blob.of(pack.runner, executable=True), Blob.of(pack.engine)], seconds=seconds)
    directory = engine_directory(pack.engine.sha256)
    target = f"../../cache/{pack.engine.sha256}"
    script = 'mkdir -p "$1" && cd "$1" && rm -f "$2" && ln -s "$3" "$2"'
    device.shell("sh", "-c", script, "sh", directory, ENGINE_LIBRARY, target, seconds=seconds)
    hashes = (pack.runner.sha256, pack.engine.sha256)
    return Installation(f"{CACHE}/{pack.runner.sha256}", directory, hashes)


def jobs_on(device: Device) -> list[str]:
    """The ids of the jobs that a device has a directory of, whatever became of them."""
    return [entry.name for entry in device.listing(JOBS) if entry.stat.is_directory]
