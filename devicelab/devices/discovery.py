"""Discovery: every phone that a transport lists is asked, all at once, and told apart by who it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from threading import Event
from time import monotonic

from devicelab.adb.connection import Connection, Endpoint, EndpointState, Transport
from devicelab.deadline import Deadline
from devicelab.devices.device import Device
from devicelab.devices.facts import DeviceFacts
from devicelab.devices.health import Gates
from devicelab.devices.identity import Sighting, Unit, identity_of, merge
from devicelab.devices.leases import Leases
from devicelab.devices.probe import Probe, probe
from devicelab.devices.quarantine import Quarantine
from devicelab.devices.states import DeviceState, Verdict, derive
from devicelab.errors import DevicelabError, DeviceUnauthorizedError

__all__ = ["Discovery"]

_WORKERS = 64
_LISTING_SECONDS = 10.0
_RECHECK_READY = 5.0  # seconds between two looks at a phone that was fine
_RECHECK_OTHERS = 1.0
_WATCH_AUTHORIZE = 60.0  # a question that is asked anew every second is hard to answer


@dataclass(frozen=True)
class Look:
    """What one look at one endpoint showed: an answer, or why there is none."""

    endpoint: Endpoint
    probe: Probe | None = None
    failure: DevicelabError | None = None
    connection: Connection | None = None

    @property
    def facts(self) -> DeviceFacts:
        """What is known; nothing if the phone could not be asked."""
        return self.probe.facts if self.probe is not None else DeviceFacts()

    @property
    def sighting(self) -> Sighting | None:
        """Who it is, if it said so."""
        if self.probe is None or not self.probe.answered:
            return None
        serial = self.endpoint.serial
        return Sighting(serial, identity_of(self.facts, serial), self.facts.boot_id)

    def close(self) -> None:
        """Let go of the wire."""
        if self.connection is not None:
            self.connection.close()


@dataclass
class Discovery:
    """Looks at the phones of one transport.

    Args:
        transport: Where phones are listed and reached.
        leases: Who holds which device.
        quarantine: Which devices are kept out.
        gates: The health limits.
        patience: Seconds that one phone may take to connect and to answer.
        authorize: Seconds that somebody has, besides, to press "Allow" on a phone that does not know this host.
    """

    transport: Transport
    leases: Leases
    quarantine: Quarantine
    gates: Gates = field(default_factory=Gates)
    patience: float = 5.0
    authorize: float = 1.0

    def look(self, addresses: Sequence[str] = ()) -> list[Device]:
        """All devices now, sorted by serial, each phone once; those that answered keep their wire open.

        It takes as long as the slowest phone.

        Args:
            addresses: ``host:port`` of phones on TCP to look for besides what the transport finds by itself.

        Raises:
            AdbUnavailableError: The transport itself does not work.
        """
        listing = Deadline("list of devices", _LISTING_SECONDS)
        endpoints = self.transport.endpoints(addresses, listing)
        if not endpoints:
            return []
        with ThreadPoolExecutor(min(_WORKERS, len(endpoints)), thread_name_prefix="discover") as pool:
            return self._devices(list(pool.map(partial(self._inspect, authorize=self.authorize), endpoints)))

    def watch(self, addresses: Sequence[str], stop: Event) -> Iterator[list[Device]]:
        """All devices, again and again whenever something may have changed, until ``stop`` is set.

        Phones that come and go are noticed by the transport; those that stay are asked again every few seconds.
        Absent ones are left out, and no wire is kept.

        Raises:
            AdbUnavailableError: The transport itself does not work any more.
        """
        seen: dict[str, _Watched] = {}
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="watch") as pool:
            for endpoints in self.transport.watch(addresses, stop):
                present = [each for each in endpoints if each.state is not EndpointState.ABSENT]
                seen = {each.serial: seen.get(each.serial) or _Watched() for each in present}
                for endpoint in present:
                    watched = seen[endpoint.serial]
                    authorize = _WATCH_AUTHORIZE if watched.unauthorized else self.authorize
                    watched.refresh(endpoint, partial(pool.submit, self._glance, endpoint, authorize))
                yield self._devices([each.look for each in seen.values() if each.look is not None])

    def _inspect(self, endpoint: Endpoint, authorize: float) -> Look:
        """Ask one phone all there is to ask; its failure is an answer, too."""
        if endpoint.state is not EndpointState.ONLINE:
            return Look(endpoint)
        try:
            connection = self._connect(endpoint.serial, authorize)
        except DevicelabError as error:
            return Look(endpoint, failure=error)
        deadline = Deadline("health check", self.patience, endpoint.serial)
        try:
            return Look(endpoint, probe=probe(connection, deadline), connection=connection)
        except DevicelabError as error:
            connection.close()
            return Look(endpoint, failure=error)
        except BaseException:
            connection.close()
            raise

    def _connect(self, serial: str, authorize: float) -> Connection:
        deadline = Deadline("connection", self.patience + authorize, serial)
        return self.transport.connect(serial, deadline, authorize=authorize)

    def _glance(self, endpoint: Endpoint, authorize: float) -> Look:
        look = self._inspect(endpoint, authorize)
        look.close()
        return Look(endpoint, look.probe, look.failure)

    def _devices(self, looks: Iterable[Look]) -> list[Device]:
        by_serial = {look.endpoint.serial: look for look in looks}
        sightings = [sighting for look in by_serial.values() if (sighting := look.sighting) is not None]
        units = {unit.serial: unit for unit in merge(sightings)}
        other_ways = {serial for unit in units.values() for serial in unit.alternatives}
        for serial in other_ways:
            by_serial[serial].close()
        return [
            self._device(look, units.get(serial))
            for serial, look in sorted(by_serial.items())
            if serial not in other_ways
        ]

    def _device(self, look: Look, unit: Unit | None) -> Device:
        identity = unit.identity if unit is not None else None
        try:
            verdict = derive(
                look.endpoint,
                probe=look.probe,
                failure=look.failure,
                gates=self.gates,
                lease=self.leases.holder(identity) if identity is not None else None,
                quarantined=self.quarantine.until(identity) if identity is not None else None,
            )
        except DevicelabError as error:  # a lease or quarantine file that cannot be read: this phone's alone
            hint = f": {error.hint}" if error.hint else ""
            verdict = Verdict(DeviceState.QUARANTINED, f"{error.message}{hint}")
        late = look.probe.late if look.probe is not None else ()
        silent = f"its {' and '.join(late)} service did not answer in time" if late else None
        return Device(
            serial=look.endpoint.serial,
            identity=identity,
            verdict=verdict,
            facts=look.facts,
            transport=self.transport,
            alternatives=unit.alternatives if unit is not None else (),
            warning=(unit.warning if unit is not None else None) or silent,
            _connection=look.connection,
        )


class _Watched:
    """One endpoint under watch: its last look, and the next one while it is under way."""

    def __init__(self) -> None:
        self.look: Look | None = None
        self._under_way: Future[Look] | None = None
        self._listed: Endpoint | None = None
        self._asked = 0.0

    @property
    def unauthorized(self) -> bool:
        """Whether the phone wanted somebody to press "Allow" when it was last asked."""
        return self.look is not None and isinstance(self.look.failure, DeviceUnauthorizedError)

    def refresh(self, endpoint: Endpoint, ask: Callable[[], Future[Look]]) -> None:
        """Take the look that has come in, and begin another when it is time."""
        if self._under_way is not None and self._under_way.done():
            self.look = self._under_way.result()
            self._under_way = None
        if self._under_way is not None:
            return
        fine = self.look is not None and self.look.probe is not None
        interval = _RECHECK_READY if fine else _RECHECK_OTHERS
        if endpoint != self._listed or monotonic() - self._asked >= interval:
            self._listed = endpoint
            self._asked = monotonic()
            self._under_way = ask()
