"""Which device hosts which client in a round, and who cannot take part because their device is away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from devicelab.data.placement import Capacity, Load, place
from devicelab.data.shards import ShardSet
from devicelab.rounds.events import Exclusion
from devicelab.rounds.station import Station
from devicelab.store.reading import LedgerReader

__all__ = ["Placing", "place_clients"]

_MEBI: Final = 1 << 20
_SPARE: Final = 64  # MiB that a device keeps for what a job writes


@dataclass(frozen=True)
class Placing:
    """Where everybody is.

    Attributes:
        device: Identity of each client's device; clients that cannot take part are not in it.
        excluded: Those, by device.
    """

    device: Mapping[str, str]
    excluded: tuple[Exclusion, ...]


def place_clients(
    shards: ShardSet, stations: Sequence[Station], ledger: LedgerReader | None, *, keeps: bool
) -> Placing:
    """Give every client a device.

    Args:
        shards: Everybody's data.
        stations: The devices that may work; at least one.
        ledger: Of the run, if there is one: clients stay where they were before as long as that is fair.
        keeps: Whether clients keep something on their devices. Those that do stay there whatever happens, and
            while their device is away they cannot take part.

    Raises:
        NoDeviceError: The devices have no room for a client's data.
    """
    before, bound, names = _history(ledger, keeps=keeps)
    here = {station.identity for station in stations}
    away = {client: device for client, device in bound.items() if device not in here}
    excluded = []
    for device in sorted(set(away.values())):
        clients = tuple(sorted(client for client, where in away.items() if where == device))
        reason = "what these clients keep is on it, and it is not here"
        excluded.append(Exclusion(names.get(device, device), reason, clients))
    loads = {
        client: Load(parts["train"].examples, sum(shard.size for shard in parts.values()))
        for client, parts in shards.clients.items()
        if client not in away
    }
    previous = {**before, **bound}
    placed = place(
        loads,
        {station.identity: _capacity(station, previous, loads) for station in stations},
        previous=previous,
        pinned=[client for client in bound if client not in away],
    )
    return Placing(placed, tuple(excluded))


def _history(
    ledger: LedgerReader | None, *, keeps: bool
) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Where clients were last, where those are that keep something, and how devices are called."""
    if ledger is None:
        return {}, {}, {}
    return (
        ledger.whereabouts(),
        ledger.whereabouts(accepted=True) if keeps else {},
        {device.identity: device.serial for device in ledger.devices()},
    )


def _capacity(station: Station, previous: Mapping[str, str], loads: Mapping[str, Load]) -> Capacity:
    facts = station.device.facts
    if facts.free_storage_mb is None:
        return Capacity(cores=facts.cores)
    has = sum(
        loads[client].size
        for client, device in previous.items()
        if device == station.identity and client in loads
    )
    return Capacity(cores=facts.cores, room=max(0, facts.free_storage_mb - _SPARE) * _MEBI + has)
