"""The devices of a run: looked for before every round, leased once they are used, given back at the end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Protocol

from devicelab.devices.device import Device
from devicelab.devices.health import Gates
from devicelab.devices.leases import Lease
from devicelab.errors import DeviceBusyError, DevicelabError
from devicelab.rounds.events import Exclusion
from devicelab.rounds.lanes import Lanes
from devicelab.rounds.selection import fit_for_work, meant
from devicelab.rounds.station import Station
from devicelab.runner.packs import Pack

__all__ = ["Crew", "Desk"]


_GOOD_SECONDS: Final = 5.0


class Desk(Protocol):
    """Where devices are found: a :class:`devicelab.lab.Lab`."""

    @property
    def gates(self) -> Gates:
        """The health limits."""
        ...

    def discover(self, selectors: Iterable[str] = ()) -> list[Device]:
        """Look at all devices now."""
        ...

    def lanes(self) -> Lanes:
        """Turns for what is large, as this desk's cables bear it."""
        ...

    def lease(self, device: Device, purpose: str) -> Lease:
        """Take a device, so that nobody else on this host does."""
        ...


class Crew:
    """Stations by identity.

    Args:
        desk: Where devices are found.
        purpose: What they are leased for, in a word or two.
        selectors: Those of the experiment, and those of the command line.
        engine: An engine that somebody gave.
    """

    def __init__(
        self,
        desk: Desk,
        purpose: str,
        *,
        selectors: tuple[Sequence[str], Sequence[str]] = ((), ()),
        engine: Path | None = None,
    ) -> None:
        self._desk = desk
        self._purpose = purpose
        self._selectors = selectors
        self._engine = engine
        self._packs: dict[str, Pack] = {}
        self._stations: dict[str, Station] = {}
        self._mustered: tuple[list[Station], list[Exclusion]] = ([], [])
        self._good_until = 0.0

    @property
    def gates(self) -> Gates:
        """The health limits."""
        return self._desk.gates

    def doubt(self) -> None:
        """Something went wrong with a device: the next muster looks at all of them in any case."""
        self._good_until = 0.0

    def muster(self) -> tuple[list[Station], list[Exclusion]]:
        """Look at all devices: those that may work now, sorted by identity, and why the others may not.

        If all were fit a few seconds ago they are taken to be so still, unless one has gone since or
        :meth:`doubt` was called. No station may be at work meanwhile.

        Raises:
            ConfigError: This host lacks something that a device needs, or a selector makes no sense.
        """
        stations, _ = self._mustered
        if time.monotonic() < self._good_until and all(station.device.alive() for station in stations):
            for station in stations:
                station.lease.check()
            return self._mustered
        devices = self._desk.discover()
        chosen = meant(devices, *self._selectors)
        selection = fit_for_work(devices, chosen=chosen, engine=self._engine, known=self._packs)
        excluded = list(selection.excluded)
        ready: list[Station] = []
        for device, pack in selection.ready:
            try:
                ready.append(self._station(device, pack))
            except DeviceBusyError as error:
                excluded.append(Exclusion(device.serial, error.message))
        used = {station.device.serial for station in ready}
        for device in devices:
            if device.serial not in used:
                device.close()
        everybody = len(ready) == len(chosen) and len(ready) == len(self._stations) > 0
        self._mustered = ready, excluded
        self._good_until = time.monotonic() + _GOOD_SECONDS if everybody else 0.0
        return self._mustered

    def _station(self, device: Device, pack: Pack) -> Station:
        identity = device.identity
        assert identity is not None  # it is ready
        known = self._stations.get(identity)
        if known is not None:
            known.lease.check()
            known.adopt(device)
            return known
        lease = self._desk.lease(device, self._purpose)
        self._stations[identity] = Station(device, identity, pack, lease)
        return self._stations[identity]

    def close(self) -> None:
        """Wait for all devices' threads and give the devices back; may be called twice."""
        stations, self._stations = self._stations, {}
        self.doubt()
        with contextlib.ExitStack() as stack:
            for station in stations.values():
                stack.callback(_give_back, station)


def _give_back(station: Station) -> None:
    with contextlib.suppress(DevicelabError):  # a lease that cannot be given back runs out by itself
        station.close()
