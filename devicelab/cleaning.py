"""Removes what devicelab has left on phones and on this host: looks first, then removes what it has shown.

On a phone a job goes unless it runs or a run of this host still needs it, and of the cache what no job uses,
the least recently used first. Clients' private values exist nowhere else and go only on request. On the host
old runs go; updates that are averaged need no cleaning: rounds see to that themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from devicelab.devices.device import Device
from devicelab.errors import ConfigError, DevicelabError, StoreError
from devicelab.lab import Lab
from devicelab.report.litter import Litter, OldRun, PhoneLitter
from devicelab.report.runs import run_state
from devicelab.runner.remains import Remains, remains_of, remove_remains
from devicelab.store.runs import sweep_runs
from devicelab.store.tidying import needed_jobs, old_runs, remove_run, tree_bytes

__all__ = ["Cleaning", "Wishes"]

_AT_ONCE: Final = 8
_PURPOSE: Final = "clean"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is to be cleaned.

    Attributes:
        phones: Jobs and caches of phones.
        room: How many bytes may stay in each phone's cache.
        private: With the phones, their clients' private values.
        keep_runs: How many of the newest runs stay; None: all.
    """

    phones: bool = False
    room: int = 0
    private: bool = False
    keep_runs: int | None = None

    def __post_init__(self) -> None:
        if not self.phones and self.keep_runs is None:
            raise ConfigError(
                "it is not said what to clean",
                hint="--phones: jobs and caches on phones; --runs: old runs on this host; or both",
            )
        if (self.private or self.room) and not self.phones:
            raise ConfigError("private values and caches are on phones", hint="say --phones, too")


class Cleaning:
    """One tidying-up: :meth:`look`, then :meth:`remove`.

    Args:
        state: The state directory.
        wishes: What is to be cleaned.
        lab: The lab, where phones are to be cleaned.
        devices: Its devices that are meant.
    """

    def __init__(
        self, state: Path, wishes: Wishes, lab: Lab | None = None, devices: Sequence[Device] = ()
    ) -> None:
        self._state = state
        self._wishes = wishes
        self._lab = lab
        self._devices = list(devices)

    def look(self) -> Litter:
        """What there is to remove; nothing is changed.

        Raises:
            StoreError: The state directory cannot be looked at.
        """
        wishes = self._wishes
        old = [] if wishes.keep_runs is None else old_runs(self._state, wishes.keep_runs)
        going = {each.path for each in old}
        needed = {
            job: f"run {run} goes on with it (run-round --resume)"
            for job, run in needed_jobs(self._state, without=going).items()
        }
        phones = self._each(lambda device: self._litter(device, remains_of(device, needed, room=wishes.room)))
        runs = tuple(OldRun(each.path, tree_bytes(each.path), run_state(each)[0]) for each in old)
        return Litter(phones, runs)

    def remove(self, found: Litter) -> Litter:
        """Remove what was found, as far as it still can go.

        Args:
            found: What :meth:`look` returned.

        Returns:
            What went, and what could not.
        """
        by_serial = {each.device: each for each in found.phones}
        phones = self._each(lambda device: self._clean(device, by_serial[device.serial]))
        runs: list[OldRun] = []
        problems: list[str] = []
        for run in found.runs:
            try:
                remove_run(run.path)
            except StoreError as error:
                problems.append(error.message)
            else:
                runs.append(run)
        sweep_runs(self._state)
        return Litter(phones, tuple(runs), tuple(problems))

    def _clean(self, device: Device, litter: PhoneLitter) -> PhoneLitter:
        if litter.problem:
            return litter
        wishes = self._wishes
        now = remains_of(device, litter.staying, room=wishes.room)
        jobs = tuple(job for job in litter.going if job in now.going)
        gone = remove_remains(device, jobs=jobs, room=wishes.room, private=wishes.private)
        return replace(self._litter(device, now), going=jobs, files=len(gone), bytes=sum(gone.values()))

    def _litter(self, device: Device, remains: Remains) -> PhoneLitter:
        return PhoneLitter(
            device.serial,
            remains.going,
            remains.staying,
            len(remains.spare),
            sum(remains.spare.values()),
            remains.private,
            self._wishes.private,
        )

    def _each(self, what: Callable[[Device], PhoneLitter]) -> tuple[PhoneLitter, ...]:
        """Do something with each device under a lease, some at a time; a failure is that device's alone."""

        def one(device: Device) -> PhoneLitter:
            assert self._lab is not None  # there are no devices without one
            try:
                with self._lab.lease(device, _PURPOSE):
                    return what(device)
            except DevicelabError as error:
                hint = f": {error.hint}" if error.hint else ""
                return PhoneLitter(device.serial, problem=f"{error.message}{hint}")

        with ThreadPoolExecutor(max_workers=_AT_ONCE, thread_name_prefix=_PURPOSE) as pool:
            return tuple(pool.map(one, self._devices))
