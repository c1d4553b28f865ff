"""A device during a run: leased, with the pack that fits it, its cache, and one thread that does its work."""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from devicelab.deadline import Deadline
from devicelab.devices.device import Device
from devicelab.devices.leases import Lease
from devicelab.rounds.jobs import Task
from devicelab.rounds.lanes import Lanes
from devicelab.runner.cache import Blob, CacheReport, DeviceCache, PushProgress
from devicelab.runner.installation import Installation, link_engine, pack_blobs
from devicelab.runner.messages import EvaluateResult, Hello, Progress, Result
from devicelab.runner.packs import Pack
from devicelab.runner.session import JobSession, Patience

__all__ = ["JobPhone", "Station"]

_FOREVER: Final = 10.0**9  # seconds; the round's own clock is the one that counts
_PING: Final = 5.0
_BRIEF: Final = 1.0  # seconds that a phone may be gone before anybody hears of it
_T = TypeVar("_T")


@dataclass
class Station:
    """One device of a run.

    Args:
        device: The device.
        identity: Who it is.
        pack: Runner and engine for it.
        lease: Ours, so that nobody else works with it meanwhile.
    """

    device: Device
    identity: str
    pack: Pack
    lease: Lease
    _thread: ThreadPoolExecutor = field(init=False, repr=False)
    _cache: DeviceCache = field(init=False, repr=False)
    _linked: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        self._cache = DeviceCache(self.device)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"device-{self.device.serial}")

    @property
    def serial(self) -> str:
        """How the device is reached now."""
        return self.device.serial

    def adopt(self, device: Device) -> None:
        """Go on with the device as it was found by the last look at all of them."""
        if device is not self.device:
            self.device.close()
            self.device = device
            self._cache = DeviceCache(device)

    def submit(self, work: Callable[[], _T]) -> Future[_T]:
        """Do something in the device's thread, after what it has to do already."""
        return self._thread.submit(work)

    def ensure(
        self, blobs: Collection[Blob], *, seconds: float, progress: PushProgress | None = None
    ) -> CacheReport:
        """Have files in the device's cache, runner and engine besides them."""
        wanted = [*blobs, *pack_blobs(self.pack)]
        report = self._cache.ensure(wanted, seconds=seconds, progress=progress)
        if not self._linked:
            link_engine(self.device, self.pack, seconds=seconds)
            self._linked = True
        return report

    def close(self) -> None:
        """Wait for the thread, and give the device back."""
        self._thread.shutdown(wait=True)
        try:
            self.lease.release()
        finally:
            self.device.close()


class JobPhone:
    """One job on one device, as a :class:`~devicelab.rounds.worker.Worker` drives it.

    Args:
        station: The device.
        task: What it is asked.
        lanes: Turns for what is large.
        pull_to: The file that takes the update.
        largest: Bytes that the update may have.
        keeps: Whether clients keep something, so that there is something to commit.

    Attributes:
        bytes_sent: To the device so far.
        bytes_received: From it.
    """

    def __init__(
        self,
        station: Station,
        task: Task,
        *,
        lanes: Lanes,
        pull_to: Path,
        largest: int = 0,
        keeps: bool = False,
    ) -> None:
        self._station = station
        self._task = task
        self._lanes = lanes
        self._pull_to = pull_to
        self._largest = largest
        self._keeps = keeps
        uses = [blob.sha256 for blob in task.blobs]
        self._session = JobSession(station.device, task.job, Installation.of(station.pack), uses=uses)
        self.bytes_sent = 0
        self.bytes_received = 0

    @property
    def serial(self) -> str:
        """How the device is reached."""
        return self._station.serial

    def prepare(self, deadline: Deadline) -> None:
        """Have the job's files and its directory on the device."""
        with self._lanes.turn(self.serial, deadline):
            report = self._station.ensure(self._task.blobs, seconds=deadline.remaining())
            self.bytes_sent += report.bytes
            self._session.prepare()
            self.bytes_sent += len(self._task.job.to_json())

    def start(self) -> None:
        """Start it, unless it runs or has ended well."""
        self._session.start()

    def follow(
        self, on_message: Callable[[Hello | Progress], object], between: Callable[[], object], idle: float
    ) -> Result:
        """Wait for its end."""
        patience = Patience(total=_FOREVER, idle=idle, away=_BRIEF)
        return self._session.follow(patience=patience, on_message=on_message, between=between)

    def collect(self, result: Result, deadline: Deadline) -> None:
        """Pull the update."""
        if isinstance(result, EvaluateResult):
            return
        with self._lanes.turn(self.serial, deadline):
            self._session.collect(result, self._pull_to, max_bytes=self._largest, seconds=deadline.remaining())
        self.bytes_received += self._pull_to.stat().st_size

    def stop(self) -> None:
        """Stop it if it runs."""
        self._session.stop()

    def finish(self) -> None:
        """Let what the clients keep take its place, and remove the job."""
        self._session.finish(commit=self._keeps)

    def remove(self) -> None:
        """Stop it if it runs, and remove all of it."""
        self._session.remove()

    def reach(self, deadline: Deadline) -> None:
        """See that the device answers."""
        self._station.device.shell("true", seconds=deadline.capped(_PING))
