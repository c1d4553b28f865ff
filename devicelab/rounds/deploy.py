"""Everything that devices must hold for quick rounds: runner, engine, plans and their clients' shards."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from devicelab.deadline import Deadline
from devicelab.errors import AdbUnavailableError, ConfigError, DevicelabError
from devicelab.rounds.events import DeployProgress, DeployStarted, DeviceDeployed, Event
from devicelab.rounds.lanes import Lanes
from devicelab.rounds.setup import Setup
from devicelab.rounds.station import Station
from devicelab.runner.cache import Blob
from devicelab.runner.installation import pack_blobs

__all__ = ["deploy", "items_for"]

_SECONDS: Final = 1800.0  # for all that one device must hold, its turn in the queue included


def items_for(setup: Setup, clients: Sequence[str]) -> dict[str, tuple[str, Blob]]:
    """What a device must hold for some clients, runner and engine apart: name and content by hash.

    Args:
        setup: The experiment, its plan and its data.
        clients: Those that it hosts.
    """
    plans = [("plan", setup.plans.train), ("evaluation plan", setup.plans.evaluate)]
    items = [(name, Blob.of(file.content)) for name, file in plans if file is not None]
    for client in clients:
        for part, shard in setup.shards.clients[client].items():
            if part in ("train", setup.experiment.evaluation.split):  # the other part is read by no round
                items.append((f"shard {client}", Blob(shard.sha256, shard.size, shard.path)))
    return {blob.sha256: (name, blob) for name, blob in items}


def deploy(
    stations: Sequence[Station],
    setup: Setup,
    clients: Mapping[str, Sequence[str]],
    *,
    lanes: Lanes,
    tell: Callable[[Event], object],
) -> list[DeviceDeployed]:
    """Have everything on every device that is to be there; what is there already is not sent again.

    Devices are served at the same time, as far as their cables allow. One that fails holds up nobody.

    Args:
        stations: The devices.
        setup: The experiment, its plan and its data.
        clients: Who lives on which device, by its identity.
        lanes: Turns for what is large.
        tell: Hears events.

    Returns:
        How it went, device by device.

    Raises:
        ConfigError: A file of this host cannot be read.
    """
    tell(DeployStarted(tuple(station.serial for station in stations)))
    futures = [
        station.submit(_Deployment(station, setup, clients.get(station.identity, ()), lanes, tell))
        for station in stations
    ]
    return [future.result() for future in futures]


class _Deployment:
    """One device's."""

    def __init__(
        self,
        station: Station,
        setup: Setup,
        clients: Sequence[str],
        lanes: Lanes,
        tell: Callable[[Event], object],
    ) -> None:
        self._station = station
        self._lanes = lanes
        self._tell = tell
        self._items = items_for(setup, clients)
        for name, blob in zip(("runner", "engine"), pack_blobs(station.pack), strict=True):
            self._items[blob.sha256] = (name, blob)
        self._sent = 0

    def __call__(self) -> DeviceDeployed:
        began = time.monotonic()
        blobs = [blob for _, blob in self._items.values()]
        held = sum(blob.size for blob in blobs)
        deadline = Deadline("deployment", _SECONDS, self._station.serial)
        try:
            with self._lanes.turn(self._station.serial, deadline):
                report = self._station.ensure(blobs, seconds=deadline.remaining(), progress=self._progress)
            done = DeviceDeployed(
                self._station.serial, report.pushed, report.bytes, held, time.monotonic() - began
            )
        except DevicelabError as error:
            if isinstance(error, ConfigError) and not isinstance(error, AdbUnavailableError):
                raise
            problem = f"{error.message}: {error.hint}" if error.hint else error.message
            done = DeviceDeployed(self._station.serial, 0, self._sent, held, time.monotonic() - began, problem)
        self._tell(done)
        return done

    def _progress(self, blob: Blob, sent: int, total: int) -> None:
        self._sent = sent
        name, _ = self._items[blob.sha256]
        self._tell(DeployProgress(self._station.serial, name, self._sent, total))
