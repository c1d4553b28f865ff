"""Which device hosts which client. A pure function, made to be asked again and again.

A client's shard, and whatever it keeps private, lie on one device, so placements should change as little as
devices do:

* Without a history each client prefers devices by weighted rendezvous hashing (Thaler & Ravishankar 1998;
  Schindler & Schomaker 2005), which depends on the two names and the device's speed alone.
* No device gets more than its share of the work by a tolerance (bounded loads: Mirrokni, Thorup & Zadimoghaddam
  2018), nor more bytes than it has room for; then the client's next preference is asked.
* With a history everybody stays, unless their device has too much work and another would be done sooner by more
  than the tolerance. So the same question has the same answer, a device that leaves moves its own clients only,
  a device that comes relieves those that have too much, and speeds that are measured a little differently in
  every run move nobody.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Final

import numpy as np

from devicelab.data.examples import Array
from devicelab.errors import NoDeviceError
from devicelab.seeds import draw

__all__ = ["Capacity", "Load", "place", "relative_speeds"]

_PHI: Final = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Load:
    """What a client costs its device.

    Attributes:
        examples: What it trains on in a round, which is its work.
        size: Bytes of its shards.
    """

    examples: int
    size: int


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a device can bear.

    Attributes:
        speed: Examples a second in an earlier run of the plan; None if it was never measured.
        cores: Its processors; None if it does not tell.
        room: Bytes for shards, those that it has already included; None if it does not tell.
    """

    speed: float | None = None
    cores: int | None = None
    room: int | None = None


def relative_speeds(devices: Mapping[str, Capacity]) -> dict[str, float]:
    """Everybody's speed in one unit: as measured, else as its cores would make it beside those measured."""
    cores = {name: float(device.cores or 1) for name, device in devices.items()}
    measured = {n: d.speed for n, d in devices.items() if d.speed is not None and d.speed > 0}
    one_core = median(speed / cores[name] for name, speed in measured.items()) if measured else 1.0
    return {name: measured.get(name, cores[name] * one_core) for name in devices}


def place(
    clients: Mapping[str, Load],
    devices: Mapping[str, Capacity],
    *,
    previous: Mapping[str, str] | None = None,
    pinned: Collection[str] = (),
    tolerance: float = 0.1,
) -> dict[str, str]:
    """Give every client a device.

    Args:
        clients: Their cost, by id.
        devices: Their capacity, by identity.
        previous: An earlier placement; clients and devices that are gone since do not matter.
        pinned: Clients that stay where they were, whatever the balance, because they keep private values there.
            One whose device is gone is placed like a new one.
        tolerance: How far a device's work may exceed its share, as a part of it.

    Returns:
        The device of each client, in the order of ``clients``.

    Raises:
        NoDeviceError: There is no device, or none with room for a client. (Packing is hard: a placement with
            very little room to spare may be missed.)
    """
    if not devices:
        raise NoDeviceError("there is no device to place clients on")
    fixed = set(pinned)
    before = {c: d for c, d in (previous or {}).items() if c in clients and d in devices}
    table = _Table(clients, devices, tolerance)
    for client in sorted(before, key=lambda c: (c not in fixed, -table.liking(c, before[c]), c)):
        if client in fixed or table.fits(client, before[client]):
            table.put(client, before[client])
    table.relieve(fixed)
    waiting = [client for client in clients if client not in table.where]
    for client in sorted(waiting, key=lambda c: (-clients[c].examples, -clients[c].size, c)):
        table.put(client, table.choose(client))  # the hardest to place first, as in Graham's rule
    return {client: table.where[client] for client in clients}


class _Table:
    """A placement in the making: what is where, and how much of each device that takes."""

    def __init__(self, clients: Mapping[str, Load], devices: Mapping[str, Capacity], tolerance: float) -> None:
        self._clients = clients
        self._devices = devices
        self._tolerance = tolerance
        self._names: list[str] = sorted(devices)
        self._column = {name: n for n, name in enumerate(self._names)}
        self._row = {client: n for n, client in enumerate(sorted(clients))}
        self._speed = relative_speeds(devices)
        total = sum(load.examples for load in clients.values()) / sum(self._speed.values())
        self._limit = {name: (1 + tolerance) * speed * total for name, speed in self._speed.items()}
        self._work = dict.fromkeys(self._names, 0)
        self._bytes = dict.fromkeys(self._names, 0)
        weights = np.array([self._speed[name] for name in self._names])
        self._liking: Array = weights / -np.log(_uniform(sorted(clients), self._names))
        self.where: dict[str, str] = {}

    def liking(self, client: str, device: str) -> float:
        """How much a client likes a device."""
        return float(self._liking[self._row[client], self._column[device]])

    def fits(self, client: str, device: str) -> bool:
        """Whether there is room for a client's bytes."""
        room = self._devices[device].room
        return room is None or self._bytes[device] + self._clients[client].size <= room

    def put(self, client: str, device: str) -> None:
        """Place a client."""
        self.where[client] = device
        self._work[device] += self._clients[client].examples
        self._bytes[device] += self._clients[client].size

    def choose(self, client: str) -> str:
        """The most liked device within its limits; else the one with room that would be done first."""
        order: list[int] = np.argsort(-self._liking[self._row[client]], kind="stable").tolist()
        roomy = [device for device in (self._names[n] for n in order) if self.fits(client, device)]
        examples = self._clients[client].examples
        for device in roomy:
            if self._work[device] + examples <= self._limit[device]:
                return device
        if not roomy:
            size = self._clients[client].size
            raise NoDeviceError(
                f"no device has room for client {client} ({size} bytes)", hint="free storage or add devices"
            )
        return min(roomy, key=lambda device: self._finish(device, examples))

    def relieve(self, fixed: Collection[str]) -> None:
        """Move clients off devices beyond their limit, the least attached first, while that helps."""
        for device in self._names:
            movable = [c for c, where in self.where.items() if where == device and c not in fixed]
            for client in sorted(movable, key=lambda c: (self.liking(c, device), c)):
                if self._work[device] <= self._limit[device]:
                    break
                better = self._sooner(client, device)
                if better is not None:
                    self._work[device] -= self._clients[client].examples
                    self._bytes[device] -= self._clients[client].size
                    self.put(client, better)

    def _sooner(self, client: str, device: str) -> str | None:
        """Who would be done with a client sooner than its device is with all, by more than the tolerance."""
        examples = self._clients[client].examples
        others = [name for name in self._names if name != device and self.fits(client, name)]
        best = min(others, key=lambda name: self._finish(name, examples), default=None)
        if best is None or self._finish(best, examples) * (1 + self._tolerance) >= self._finish(device, 0):
            return None
        return best

    def _finish(self, device: str, further: int) -> float:
        """When a device is done, with further examples, in any unit of time."""
        return (self._work[device] + further) / self._speed[device]


def _uniform(clients: list[str], devices: list[str]) -> Array:
    """A number in (0, 1) for each pair of names, shape (clients, devices).

    Each name is hashed once; SplitMix64's finalizer (Steele, Lea & Flood 2014) makes a pair's hash of two.
    """
    left = np.array([draw(0, "placement/client", name) for name in clients], dtype=np.uint64)
    right = np.array([draw(0, "placement/device", name) for name in devices], dtype=np.uint64)
    z = left[:, None] ^ right[None, :]
    with np.errstate(over="ignore"):
        z = z + _PHI
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    uniform: Array = ((z >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
    return uniform
