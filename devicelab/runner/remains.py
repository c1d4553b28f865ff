"""What jobs have left on a device, and how it goes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from devicelab.devices.device import Device
from devicelab.errors import ConfigError
from devicelab.runner.cache import DeviceCache
from devicelab.runner.fitness import ENGINE_LIBRARY
from devicelab.runner.installation import jobs_on
from devicelab.runner.job import check_id
from devicelab.runner.launch import look_command, parse_look
from devicelab.runner.layout import ENGINES, PRIVATE, ROOT, job_directory

__all__ = ["Remains", "remains_of", "remove_remains"]

_SECONDS: Final = 60.0
_MAX_PLANS: Final = 1000  # that are looked at

# $1 ENGINES, $2 the library's name, $3 ROOT. The directory of an engine whose file is gone goes; then what is
# empty.
_TIDY: Final = (
    'for d in "$1"/*;do [ -e "$d/$2" ]||rm -rf "$d";done;'
    'cd "$3"&&rmdir cache engines jobs private/* private;cd ..&&rmdir "$3"'
)


@dataclass(frozen=True, slots=True)
class Remains:
    """What is on a device.

    Attributes:
        going: The ids of jobs that can go.
        staying: The ids of the others, and why they stay.
        spare: What of its cache can go with them: hash to bytes, the least recently used first.
        private: How many files of clients' private values there are.
    """

    going: tuple[str, ...]
    staying: Mapping[str, str]
    spare: Mapping[str, int]
    private: int


def remains_of(device: Device, needed: Mapping[str, str], *, room: int = 0) -> Remains:
    """Look at a device; nothing is changed.

    Args:
        device: The device, leased by the caller.
        needed: Ids of jobs that must stay, and why.
        room: How many bytes may stay in its cache.

    Raises:
        DeviceLostError, DeadlineError: As everywhere.
    """
    jobs = [job for job in jobs_on(device) if _is_id(job)]
    staying = {job: needed.get(job) or "it runs" for job in jobs if job in needed or _runs(device, job)}
    going = tuple(job for job in jobs if job not in staying)
    return Remains(going, staying, DeviceCache(device).spare(room=room, without=going), _private(device))


def remove_remains(
    device: Device, *, jobs: Collection[str], room: int | None = 0, private: bool = False
) -> Mapping[str, int]:
    """Remove what is not needed any more.

    Args:
        device: The device, leased by the caller.
        jobs: Which of its jobs; none that runs.
        room: How many bytes may stay in its cache; None: all of it stays. What jobs use stays in any case.
        private: Whether to remove the clients' private values, which exist nowhere else.

    Returns:
        What of the cache was removed: hash to bytes.

    Raises:
        ConfigError: That is no job's id.
        RemoteCommandError: Something cannot be removed.
        DeviceLostError, DeadlineError: As everywhere.
    """
    for job in jobs:
        check_id("job", job)
    device.remove(*(job_directory(job) for job in jobs), recursive=True)
    if private:
        device.remove(PRIVATE, recursive=True)
    gone = {} if room is None else DeviceCache(device).trim(room=room)
    device.shell("sh", "-c", _TIDY, "sh", ENGINES, ENGINE_LIBRARY, ROOT, seconds=_SECONDS, check=False)
    return gone


def _is_id(job: str) -> bool:
    try:
        check_id("job", job)
    except ConfigError:
        return False
    return True


def _runs(device: Device, job: str) -> bool:
    said = device.shell(*look_command(job, 0), seconds=_SECONDS, check=False)
    look = parse_look(said.stdout, 0)
    return look is None or look.state == "running"  # one that cannot be asked is left alone


def _private(device: Device) -> int:
    plans = [entry.name for entry in device.listing(PRIVATE) if entry.stat.is_directory][:_MAX_PLANS]
    return sum(sum(entry.stat.is_file for entry in device.listing(f"{PRIVATE}/{plan}")) for plan in plans)
