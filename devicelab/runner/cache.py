"""What a device keeps between jobs: files named after their hash, pushed once, the least recently used evicted.

Only who holds the device's lease may use its cache.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from devicelab.adb.transfer import PART
from devicelab.devices.device import Device
from devicelab.errors import ConfigError, DeviceFullError
from devicelab.runner.batch import SMALL, Small, push_small
from devicelab.runner.kept import Artifact, artifact
from devicelab.runner.layout import CACHE, JOBS

__all__ = ["USES", "Blob", "CacheReport", "DeviceCache", "PushProgress"]

USES: Final = "uses"
"""The file in a job's directory that lists what the job uses, one hash a line."""

_HASH: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_BUDGET: Final = 2 << 30
_USED_SECONDS: Final = 3600.0  # what was marked as used within them need not be marked again
_OLD_BATCH, _BATCH = 40, 400  # hashes in one command: adbd before Android 7 takes 4 KiB, an adb server 64


@dataclass(frozen=True, slots=True)
class Blob:
    """A file or some bytes on this host that a device shall have in its cache.

    Attributes:
        sha256: Of the content, in hex.
        size: In bytes.
        source: The file, or the content itself.
        executable: Whether it is a program.
    """

    sha256: str
    size: int
    source: Path | bytes
    executable: bool = False

    @classmethod
    def of(cls, source: Path | bytes | Artifact, *, executable: bool = False) -> Blob:
        """Hash a file or bytes.

        Raises:
            ConfigError: The file cannot be read.
        """
        if isinstance(source, bytes):
            return cls(hashlib.sha256(source).hexdigest(), len(source), source, executable)
        found = source if isinstance(source, Artifact) else artifact(source)
        return cls(found.sha256, found.size, found.path, executable)


@dataclass(frozen=True, slots=True)
class CacheReport:
    """What it took to have some blobs on a device.

    Attributes:
        pushed: How many were missing.
        bytes: Sent for them.
        evicted: Hashes of what had to go.
    """

    pushed: int
    bytes: int
    evicted: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Entry:
    """One file in the cache."""

    sha256: str
    size: int
    used: int  # by the device's clock


PushProgress = Callable[[Blob, int, int], object]
"""Told of a push: which file, and the bytes sent and to be sent of all that are missing."""


@dataclass(slots=True)
class _Pushing:
    """The push of what is missing, group by group."""

    device: Device
    seconds: float
    progress: PushProgress | None
    total: int
    sent: int = 0

    def __call__(self, group: Sequence[Blob]) -> None:
        """Push small files together, a large one or a program by itself."""
        before = self.sent
        try:
            if len(group) == 1 and (group[0].size > SMALL or group[0].executable):
                self._alone(group[0])
            else:
                self._together(group)
        except BaseException:
            self.sent = before
            raise

    def _alone(self, blob: Blob) -> None:
        mode = 0o555 if blob.executable else 0o444
        path = f"{CACHE}/{blob.sha256}"
        self.device.push(
            blob.source, path, mode=mode, seconds=self.seconds, progress=lambda sent: self._tell(blob, sent)
        )
        self.sent += blob.size

    def _together(self, group: Sequence[Blob]) -> None:
        blobs = {blob.sha256: blob for blob in group}

        def told(file: Small) -> None:
            self._tell(blobs[file.sha256], file.size)
            self.sent += file.size

        files = [Small(blob.sha256, blob.size, blob.source) for blob in group]
        push_small(self.device, CACHE, files, seconds=self.seconds, told=told)

    def _tell(self, blob: Blob, sent: int) -> None:
        if self.progress is not None:
            self.progress(blob, self.sent + sent, self.total)


class DeviceCache:
    """The cache of one device.

    Args:
        device: The device, leased by the caller.
        budget: Bytes that the cache may hold. It holds more while everything in it is in use.
    """

    def __init__(self, device: Device, *, budget: int = _BUDGET) -> None:
        if budget <= 0:
            raise ConfigError(f"a cache of {budget} bytes holds nothing")
        self._device = device
        self._budget = budget

    def ensure(
        self,
        blobs: Collection[Blob],
        *,
        keep: Collection[str] = (),
        seconds: float = 600.0,
        progress: PushProgress | None = None,
    ) -> CacheReport:
        """Have all these blobs on the device, whole and verified.

        Args:
            blobs: What shall be there; the same one may occur twice.
            keep: Hashes of what must not be evicted besides them and besides what jobs on the device use.
            seconds: For each push.
            progress: Told of every mebibyte: which file, and the bytes sent and to be sent in all.

        Raises:
            DeviceFullError: There is no room even without everything that may go.
            RemoteFileError: The device cannot store it.
            DeviceLostError, DeadlineError: As everywhere.
        """
        wanted = {blob.sha256: blob for blob in blobs}
        present = self._sweep()
        sizes = {entry.sha256: entry.size for entry in present.values()}
        missing = [blob for blob in wanted.values() if sizes.get(blob.sha256) != blob.size]
        room = self._budget - sum(blob.size for blob in missing)
        protected = {*wanted, *keep}
        evicted = self._evict(present, protected, room)
        pushing = _Pushing(self._device, seconds, progress, sum(blob.size for blob in missing))
        small = [blob for blob in missing if blob.size <= SMALL and not blob.executable]
        large = [blob for blob in missing if blob.size > SMALL or blob.executable]
        for group in (small, *([blob] for blob in large)):
            try:
                pushing(group)
            except DeviceFullError:
                gone = self._evict(self._sweep(), protected, 0)
                if not gone:
                    raise
                evicted += gone
                pushing(group)
        self._touch([*(blob.sha256 for blob in large), *self._stale(wanted, present)])
        return CacheReport(len(missing), sum(blob.size for blob in missing), tuple(evicted))

    @staticmethod
    def _stale(wanted: Collection[str], present: Mapping[str, _Entry]) -> Iterator[str]:
        """Which of the files that were there are not marked as used lately, as far as our clock tells."""
        now = time.time()
        for sha256 in wanted:
            entry = present.get(sha256)
            if entry is not None and abs(now - entry.used) > _USED_SECONDS:
                yield sha256

    def contents(self) -> dict[str, int]:
        """What is in the cache: hash to size in bytes."""
        return {sha256: entry.size for sha256, entry in self._sweep().items()}

    def spare(self, *, room: int = 0, without: Collection[str] = ()) -> dict[str, int]:
        """What :meth:`trim` would remove, the least recently used first: hash to size in bytes.

        Args:
            room: How many bytes may stay.
            without: Jobs on the device that count as gone.
        """
        present, _ = self._look()
        return _least_used(present, self._in_use(without), room)

    def trim(self, *, room: int = 0) -> dict[str, int]:
        """Remove the least recently used until at most so many bytes are left; what jobs use stays in any case.

        Returns:
            What was removed: hash to size in bytes.
        """
        present = self._sweep()
        gone = self._evict(present, set(), room)
        return {sha256: present[sha256].size for sha256 in gone}

    def _sweep(self) -> dict[str, _Entry]:
        """What is there; what broken pushes left is removed on the way."""
        found, parts = self._look()
        if parts:
            self._device.remove(*parts)
        return found

    def _look(self) -> tuple[dict[str, _Entry], list[str]]:
        """What is there, and paths of what broken pushes left."""
        found, parts = {}, []
        for entry in self._device.listing(CACHE):
            if _HASH.fullmatch(entry.name) and entry.stat.is_file:
                found[entry.name] = _Entry(entry.name, entry.stat.size, entry.stat.mtime)
            elif entry.name.endswith(PART):
                parts.append(f"{CACHE}/{entry.name}")
        return found, parts

    def _evict(self, present: dict[str, _Entry], protected: set[str], room: int) -> list[str]:
        """Remove the least recently used until what is left takes at most ``room`` bytes."""
        if sum(entry.size for entry in present.values()) <= room:
            return []
        gone = list(_least_used(present, protected | self._in_use(), room))
        self._device.remove(*(f"{CACHE}/{sha256}" for sha256 in gone))
        return gone

    def _in_use(self, without: Collection[str] = ()) -> frozenset[str]:
        """Hashes that some job on the device uses, whether it runs now or may be started again."""
        script = f'for f in {JOBS}/*/{USES}; do [ -f "$f" ] && echo "$f" && cat "$f"; done'
        used: set[str] = set()
        counts = False
        for line in self._device.shell("sh", "-c", script, check=False).text.splitlines():
            if line.startswith(f"{JOBS}/"):
                counts = line.removeprefix(f"{JOBS}/").removesuffix(f"/{USES}") not in without
            elif counts and _HASH.fullmatch(line):
                used.add(line)
        return frozenset(used)

    def _touch(self, hashes: Sequence[str]) -> None:
        """Note that they were used now."""
        old = not self._device.facts.sdk or self._device.facts.sdk < 24
        for batch in _batches(hashes, _OLD_BATCH if old else _BATCH):
            self._device.shell("sh", "-c", f'cd {CACHE} && touch "$@"', "sh", *batch)


def _least_used(present: Mapping[str, _Entry], protected: Collection[str], room: int) -> dict[str, int]:
    """What has to go for the rest to take at most ``room`` bytes: hash to size."""
    total = sum(entry.size for entry in present.values())
    gone: dict[str, int] = {}
    for entry in sorted(present.values(), key=lambda each: (each.used, each.sha256)):
        if total <= room:
            break
        if entry.sha256 not in protected:
            gone[entry.sha256] = entry.size
            total -= entry.size
    return gone


def _batches(hashes: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(hashes), size):
        yield hashes[start : start + size]
