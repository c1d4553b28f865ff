"""Runner and engine on a device, and the jobs that are there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from devicelab.deadline import Deadline
from devicelab.devices.device import Device
from devicelab.fetching import Progress
from devicelab.runner.cache import Blob, DeviceCache
from devicelab.runner.fitness import ENGINE_LIBRARY, require_fit
from devicelab.runner.layout import CACHE, JOBS, engine_directory
from devicelab.runner.packs import Pack, find_pack
from devicelab.runner.targets import find_target

__all__ = ["Installation", "install", "jobs_on", "link_engine", "pack_blobs", "pack_for"]

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

    @classmethod
    def of(cls, pack: Pack) -> Self:
        """Where a pack is or will be, which nothing but its content decides."""
        hashes = (pack.runner.sha256, pack.engine.sha256)
        return cls(f"{CACHE}/{pack.runner.sha256}", engine_directory(pack.engine.sha256), hashes)


def pack_for(
    device: Device,
    *,
    engine: Path | None = None,
    deadline: Deadline | None = None,
    progress: Progress | None = None,
) -> Pack:
    """What a device needs, fetched first if this host does not have it, and known to load there.

    Args:
        device: The device; its facts must be known.
        engine: The engine to use instead of the published one: ``libonnxruntime.so`` or an AAR.
        deadline: For fetching.
        progress: Told what is being fetched, if something is.

    Raises:
        DeviceNotReadyError: There is no runner for it, or the engine would not load on it.
        ConfigError: An engine cannot be fetched, or is not what it should be; says what to do.
        DeviceLostError, DeadlineError: As everywhere.
    """
    pack = find_pack(find_target(device), engine=engine, deadline=deadline, progress=progress)
    for path, program in ((pack.runner.path, True), (pack.engine.path, False)):
        require_fit(path, pack.target, device.facts.page_size, program=program, device=device.serial)
    return pack


def install(device: Device, cache: DeviceCache, pack: Pack, *, seconds: float = _SECONDS) -> Installation:
    """Have a runner and its engine on a device.

    Args:
        device: The device.
        cache: Its cache.
        pack: What it shall have, from :func:`pack_for`.
        seconds: For each push.

    Raises:
        DeviceFullError, RemoteFileError: It cannot store them.
        DeviceLostError, DeadlineError: As everywhere.
    """
    cache.ensure(pack_blobs(pack), seconds=seconds)
    return link_engine(device, pack, seconds=seconds)


def pack_blobs(pack: Pack) -> tuple[Blob, Blob]:
    """Runner and engine as a cache takes them."""
    return Blob.of(pack.runner, executable=True), Blob.of(pack.engine)


def link_engine(device: Device, pack: Pack, *, seconds: float = _SECONDS) -> Installation:
    """Give an engine that is in the cache the name that the linker looks for; the rest of :func:`install`."""
    script = 'mkdir -p "$1" && cd "$1" && { [ -e "$2" ] || { rm -f "$2"; ln -s "$3" "$2"; }; }'
    found = Installation.of(pack)
    target = f"../../cache/{pack.engine.sha256}"
    device.shell("sh", "-c", script, "sh", found.library_path, ENGINE_LIBRARY, target, seconds=seconds)
    return found


def jobs_on(device: Device) -> list[str]:
    """The ids of the jobs that a device has a directory of, whatever became of them."""
    return [entry.name for entry in device.listing(JOBS) if entry.stat.is_directory]
