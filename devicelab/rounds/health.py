"""A device is looked after while it works: how warm, how charged, and whether it must stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from devicelab.deadline import Deadline
from devicelab.devices.facts import DeviceFacts
from devicelab.devices.health import Gates, check
from devicelab.devices.probe import probe
from devicelab.errors import DevicelabError
from devicelab.rounds.events import DeviceHealth, Event, Phase
from devicelab.rounds.station import Station
from devicelab.rounds.worker import Ended
from devicelab.store.ledger import Ledger
from devicelab.store.records import Sample

__all__ = ["HealthWatch", "health_event", "sample_of"]

_EVERY: Final = 10.0
_PATIENCE: Final = 5.0


def sample_of(facts: DeviceFacts) -> Sample:
    """How a device is now, as far as it tells."""
    status = None if facts.thermal_status is None else facts.thermal_status.label
    return Sample(time.time(), facts.battery_percent, facts.battery_celsius, status)


def health_event(round_number: int, device: str, sample: Sample) -> DeviceHealth:
    """A sample for whoever listens."""
    return DeviceHealth(
        round_number, device, sample.battery_percent, sample.battery_celsius, sample.thermal_status
    )


class HealthWatch:
    """Looks at one device now and then; called often, it does something every few seconds.

    Args:
        station: The device.
        job: What it works on.
        round_number: In which round.
        gates: The health limits. While a device works only its heat counts: it is charged enough or was not
            chosen, and its memory and storage are what its work takes.
        ledger: Takes the samples.
        tell: Hears of them.
        every: Seconds between two looks.
    """

    def __init__(
        self,
        station: Station,
        job: str,
        round_number: int,
        *,
        gates: Gates,
        ledger: Ledger,
        tell: Callable[[Event], object],
        every: float = _EVERY,
    ) -> None:
        self._station = station
        self._job = job
        self._round = round_number
        self._gates = gates
        self._ledger = ledger
        self._tell = tell
        self._every = every
        self._next = time.monotonic() + every

    def __call__(self) -> None:
        """Look, if it is time.

        Raises:
            Ended: It is too hot to go on.
        """
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._every
        deadline = Deadline("look at its health", _PATIENCE, self._station.serial)
        try:
            facts = probe(self._station.device.connection(deadline), deadline).facts
        except DevicelabError:
            return  # whether the device is there at all is for others to find out
        self.note(facts)

    def note(self, facts: DeviceFacts) -> None:
        """Take what was seen of the device.

        Raises:
            Ended: It is too hot to go on.
        """
        sample = sample_of(facts)
        self._ledger.record_samples(self._job, [sample])
        self._tell(health_event(self._round, self._station.serial, sample))
        hot = [reason.text for reason in check(facts, self._gates) if reason.gate.heat and not reason.unknown]
        if hot:
            raise Ended(Phase.FAILED, f"stopped, it is too hot: {'; '.join(hot)}")
