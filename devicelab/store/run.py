"""One run's directory: made, opened by one writer or by readers, and made durable in the right order."""

from __future__ import annotations

import hashlib
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from devicelab.closing import Closing
from devicelab.errors import StoreError, UpdateError
from devicelab.files import write_atomically
from devicelab.store.blobs import Blobs, flush_directory, recorded, sha256_of, stored
from devicelab.store.checkpoints import CheckpointFacts, checkpoint_name, decode_tensors, encode_tensors
from devicelab.store.ledger import Ledger
from devicelab.store.lock import WriterLock
from devicelab.store.reading import LedgerReader
from devicelab.store.records import CheckpointRecord, RunRecord, UpdateFacts
from devicelab.store.releases import ReleaseRecord
from devicelab.store.resume import ResumePoint, resume_point

__all__ = ["Run", "RunReader"]

Tensors = Mapping[str, NDArray[Any]]

LEDGER: Final = "ledger.sqlite"
SECRET: Final = "secret"  # noqa: S105 - a file's name
SECRET_BYTES: Final = 32
_SAFE_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", re.ASCII)


class RunReader(Closing):
    """A run to look at, also while somebody else writes it. Nothing in its directory is changed.

    Args:
        path: The run's directory.

    Raises:
        StoreError: It is none, or its ledger cannot be read.
    """

    ledger: LedgerReader

    def __init__(self, path: Path) -> None:
        self.path = path
        self.blobs = Blobs(path / "blobs", path / "incoming")
        self.ledger = self._open_ledger()

    def _open_ledger(self) -> LedgerReader:
        return LedgerReader(self.path / LEDGER)

    def close(self) -> None:
        """Close it; may be called twice."""
        self.ledger.close()

    def resume_point(self) -> ResumePoint:
        """Where the run stands."""
        return resume_point(self.ledger)

    def checkpoint_path(self, checkpoint: CheckpointRecord) -> Path:
        """Where a checkpoint's file is."""
        return self.path / checkpoint.file

    def load_checkpoint(self, checkpoint: CheckpointRecord) -> dict[str, NDArray[Any]]:
        """A global model.

        Raises:
            StoreError: The file is missing or not the one that was recorded.
        """
        path = self.checkpoint_path(checkpoint)
        return decode_tensors(recorded(path, f"the checkpoint {path}", checkpoint.sha256), path)

    def plan_file(self, name: str) -> bytes:
        """One of the plan's files, as it was when the run began.

        Raises:
            StoreError: It is missing or not the one that was recorded.
            KeyError: The run has no such file.
        """
        sha256 = self.ledger.run().files[name]
        return recorded(self.path / "plan" / name, f"plan/{name} of the run {self.path.name}", sha256)

    def load_server_state(self, checkpoint: CheckpointRecord) -> dict[str, NDArray[Any]]:
        """The server optimizer's memory after a checkpoint; empty if it has none.

        Raises:
            StoreError: The file is missing or damaged.
        """
        if checkpoint.server_state is None:
            return {}
        content = self.blobs.read(checkpoint.server_state)
        return decode_tensors(content, self.blobs.path(checkpoint.server_state))

    def load_release(self, release: ReleaseRecord) -> dict[str, NDArray[Any]]:
        """The noisy mean of a round that is not checkpointed yet.

        Raises:
            StoreError: The file is missing or damaged.
        """
        return decode_tensors(self.blobs.read(release.blob), self.blobs.path(release.blob))

    def secret(self) -> bytes:
        """What the run's secret draws come from: 32 bytes that nobody else may know.

        Raises:
            StoreError: The run has none, or it is damaged.
        """
        path = self.path / SECRET
        content = recorded(path, f"the run's secret {path}")
        if len(content) != SECRET_BYTES:
            raise StoreError(f"{path} is damaged", hint="restore it from a copy; another one will not do")
        return content

    def verify(self) -> list[str]:
        """Hold every file against the ledger; what is wrong, in words. Reads everything.

        Raises:
            StoreError: The ledger cannot be read.
        """
        expected = {self.path / "plan" / name: sha256 for name, sha256 in self.ledger.run().files.items()}
        expected |= {self.checkpoint_path(each): each.sha256 for each in self.ledger.checkpoints()}
        expected |= {self.blobs.path(sha256): sha256 for sha256 in self.ledger.blobs()}
        problems = []
        for path, sha256 in sorted(expected.items()):
            try:
                if sha256_of(path) != sha256:
                    problems.append(f"{path} is damaged")
            except OSError as error:
                problems.append(f"{path}: {error.strerror}")
        return problems


class Run(RunReader):
    """A run to write. It is this process's until it is closed.

    What an earlier crash left half-done is swept away when it is opened.

    Args:
        path: The run's directory.

    Raises:
        StoreError: It is none, somebody else is writing it (says who), or its ledger cannot be opened.
    """

    ledger: Ledger

    def __init__(self, path: Path) -> None:
        if not (path / LEDGER).is_file():
            raise StoreError(f"there is no run at {path}")
        self._guard = threading.Lock()  # no file is swept away between its coming and its being recorded
        self._lock = WriterLock(path / "lock")
        try:
            super().__init__(path)
            try:
                self._sweep(incoming=True)
            except BaseException:
                self.ledger.close()
                raise
        except BaseException:
            self._lock.close()
            raise

    def _open_ledger(self) -> Ledger:
        return Ledger(self.path / LEDGER)

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        name: str,
        seed: int,
        experiment: str,
        plan_sha256: str,
        plan_files: Mapping[str, bytes | Path],
        versions: Mapping[str, str],
        secret: bool = False,
        created: float | None = None,
    ) -> Run:
        """Make a run's directory and open it; it appears whole or not at all.

        Args:
            path: It must not exist; its name is the run's id.
            name: The experiment's name.
            seed: The experiment's seed.
            experiment: Its YAML as the user wrote it.
            plan_sha256: Of the training plan.
            plan_files: What goes into ``plan/``, by file name.
            versions: Of what has a part in the run.
            secret: Whether the run draws something in secret: it is then given :meth:`secret`.
            created: When; now by default.

        Raises:
            StoreError: It is there already, or cannot be written.
            ValueError: A plan's file name is not just a file name.
        """
        for file in plan_files:
            if not _SAFE_NAME.fullmatch(file):
                raise ValueError(f"{file!r} is no name for a plan's file")
        with stored(f"the run {path.name}", path.parent, "make"):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Nobody else's to read (mode 0700): updates tell of those whose data they were trained on.
            building = Path(tempfile.mkdtemp(prefix=".new-", dir=path.parent))
            try:
                with WriterLock(building / "lock"):  # whoever finds it unlocked may sweep it away
                    for directory in ("plan", "blobs", "checkpoints", "incoming"):
                        (building / directory).mkdir()
                    write_atomically(building / "experiment.yaml", experiment.encode())
                    for file, content in plan_files.items():
                        data = content if isinstance(content, bytes) else content.read_bytes()
                        write_atomically(building / "plan" / file, data)
                    if secret:
                        write_atomically(building / SECRET, secrets.token_bytes(SECRET_BYTES), mode=0o600)
                    record = RunRecord(
                        id=path.name,
                        name=name,
                        seed=seed,
                        experiment=experiment,
                        plan_sha256=plan_sha256,
                        files={file: sha256_of(building / "plan" / file) for file in plan_files},
                        versions=versions,
                        created=time.time() if created is None else created,
                    )
                    with Ledger(building / LEDGER) as ledger:
                        ledger.create_run(record)
                    flush_directory(building)
                    building.rename(path)
                    flush_directory(path.parent)
            except BaseException:
                shutil.rmtree(building, ignore_errors=True)
                raise
        return cls(path)

    def close(self) -> None:
        """Close it and let others write; may be called twice."""
        self.ledger.close()
        self._lock.close()

    def incoming(self, job: str) -> Path:
        """Where to pull a job's update to: :meth:`record_update` takes it from there without copying it.

        What is still there when the run is opened next is removed.
        """
        return self.blobs.incoming / f"{job}.safetensors"

    def record_update(
        self, job: str, update: Path | bytes, facts: Sequence[UpdateFacts], *, sha256: str | None = None
    ) -> str:
        """Keep a job's update, then count its clients. When it returns both are on the disk.

        A crash in between leaves a blob that nobody knows, and the update as it is on the device: to record it
        once more is right. Recorded twice, it counts once.

        Args:
            job: The job's id.
            update: The file (moved if it is at :meth:`incoming`), or its content.
            facts: What is known of each client's part.
            sha256: The file's, if the caller has computed it; it is not computed again.

        Returns:
            Its SHA-256.

        Raises:
            StoreError: It cannot be kept.
            UpdateError: A client has been counted already or is not in the cohort; nothing is counted.
            ValueError: The job has ended otherwise, or its round has.
        """
        if isinstance(update, bytes):
            with self._guard:
                sha256 = self.blobs.put(update)
                self._accept(job, sha256, facts)
            return sha256
        with self.blobs.prepared(update, sha256) as ready, self._guard:
            self.blobs.adopt(ready)
            self._accept(job, ready.sha256, facts)
        return ready.sha256

    def _accept(self, job: str, sha256: str, facts: Sequence[UpdateFacts]) -> None:
        try:
            self.ledger.accept_update(job, sha256, facts)
        except (UpdateError, ValueError, KeyError):
            if sha256 not in self.ledger.blobs():
                self.blobs.path(sha256).unlink(missing_ok=True)
            raise

    def record_release(
        self,
        number: int,
        tensors: Tensors,
        *,
        sampling: float,
        expected: float,
        clip_norm: float,
        noise_multiplier: float,
        delta: float,
        epsilon: float,
    ) -> ReleaseRecord:
        """Keep a round's noisy mean. When it returns it is on the disk; before, nobody may have seen it.

        Args:
            number: The round.
            tensors: The mean.
            sampling: As in :class:`ReleaseRecord`, like all that follows.
            expected: The number of clients that the sum was divided by.
            clip_norm: How long one client's delta was at most.
            noise_multiplier: The noise's standard deviation, in clip norms.
            delta: δ.
            epsilon: ε, this release included.

        Raises:
            StoreError: It cannot be written.
            ValueError: The round has one already, or has ended.
        """
        content = encode_tensors(tensors)
        with self._guard:
            sha256 = self.blobs.put(content)
            record = ReleaseRecord(
                number,
                sha256,
                sampling,
                expected,
                clip_norm,
                noise_multiplier,
                delta,
                epsilon,
                created=time.time(),
            )
            self.ledger.record_release(record)
        return record

    def save_checkpoint(
        self, number: int, tensors: Tensors, server_state: Tensors | None = None
    ) -> CheckpointRecord:
        """Keep a round's global model and the server optimizer's memory; the round is checkpointed.

        The same model saved again changes nothing.

        Args:
            number: The round; 0: the initial model.
            tensors: The model.
            server_state: The memory, by name; None or empty if there is none.

        Raises:
            StoreError: It cannot be written.
            ValueError: It is not the next round, or another model was saved for it.
        """
        run = self.ledger.run()
        facts = CheckpointFacts(run.name, run.seed, number, run.plan_sha256)
        content = encode_tensors(tensors, facts)
        sha256, file = hashlib.sha256(content).hexdigest(), checkpoint_name(number)
        memory = encode_tensors(server_state) if server_state else None
        memory_sha256 = None if memory is None else hashlib.sha256(memory).hexdigest()
        with self._guard:
            record = CheckpointRecord(number, file, sha256, len(content), memory_sha256, time.time())
            if (known := self.ledger.known_checkpoint(record)) is not None:
                return known
            if memory is not None:
                self.blobs.put(memory)
            with stored(file, self.path):
                write_atomically(self.path / file, content)
            self.ledger.record_checkpoint(record)
        return record

    def sweep(self) -> list[Path]:
        """Remove files that are not recorded, or not needed any more; what was removed.

        Updates on their way (:meth:`incoming`) stay.

        Raises:
            StoreError: Something cannot be removed.
        """
        return self._sweep(incoming=False)

    def _sweep(self, *, incoming: bool) -> list[Path]:
        with self._guard:
            removed = self.blobs.sweep(self.ledger.blobs(), incoming=incoming)
            wanted = {each.file for each in self.ledger.checkpoints()}
            with stored("what is not needed any more", self.path, "remove"):
                self.blobs.incoming.mkdir(exist_ok=True)
                for path in (self.path / "checkpoints").iterdir():
                    if path.relative_to(self.path).as_posix() not in wanted:
                        path.unlink()
                        removed.append(path)
        return removed
