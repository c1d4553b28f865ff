"""What can be asked of a ledger."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devicelab.closing import Closing
from devicelab.errors import StoreError
from devicelab.runner.messages import summed_metrics
from devicelab.store import tables
from devicelab.store.database import Database
from devicelab.store.records import (
    CheckpointRecord,
    CohortClient,
    DeviceRecord,
    EvaluationRecord,
    EventRecord,
    ExclusionRecord,
    JobRecord,
    PhaseRecord,
    RoundRecord,
    RoundSummary,
    RunRecord,
    Sample,
    UpdateRecord,
)
from devicelab.store.releases import PrivacySpent, ReleaseRecord

__all__ = ["LedgerReader"]


class LedgerReader(Closing):
    """A ledger to look at, also while somebody writes it.

    Every method raises StoreError where it cannot be read.

    Args:
        path: The file.

    Raises:
        StoreError: There is none, it cannot be opened or is damaged.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise StoreError(f"there is no ledger at {path}", hint="is this a run's directory?")
        self._database = Database(path, write=False)

    def close(self) -> None:
        """Close it; may be called twice."""
        self._database.close()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Answers within the block are of one moment, whatever is written meanwhile."""
        with self._database.transaction(write=False):
            yield

    def run(self) -> RunRecord:
        """The run itself."""
        rows = self._database.rows("SELECT * FROM run")
        if not rows:
            raise StoreError(f"the ledger {self._database.path} is empty: its run was never begun")
        return tables.run(rows[0])

    def devices(self) -> list[DeviceRecord]:
        """Every device that had a part in it, by identity."""
        return [tables.device(row) for row in self._database.rows("SELECT * FROM devices ORDER BY identity")]

    def rounds(self) -> list[RoundRecord]:
        """All rounds, in order."""
        return [tables.round_(row) for row in self._database.rows("SELECT * FROM rounds ORDER BY number")]

    def round(self, number: int) -> RoundRecord | None:
        """One round, if it was begun."""
        rows = self._database.rows("SELECT * FROM rounds WHERE number = ?", (number,))
        return tables.round_(rows[0]) if rows else None

    def cohort(self, number: int) -> list[CohortClient]:
        """Who takes part in a round, in the cohort's order."""
        sql = "SELECT * FROM cohort WHERE round = ? ORDER BY place"
        return [tables.cohort_client(row) for row in self._database.rows(sql, (number,))]

    def whereabouts(self, *, accepted: bool = False) -> dict[str, str]:
        """Each client's device, by identity, in the last round that the client took part in.

        Args:
            accepted: In the last round in which an update of the client was accepted.
        """
        # The inner query needs no more than an index, of however many rounds.
        sql = (
            "SELECT client, device FROM (SELECT client, max(round) AS round FROM cohort GROUP BY client)"
            " JOIN cohort USING (round, client)"
        )
        if accepted:
            sql = (
                "SELECT client, device"
                " FROM (SELECT client, max(round) AS round FROM updates WHERE accepted GROUP BY client) AS last"
                " JOIN updates USING (round, client) JOIN jobs ON jobs.id = updates.job WHERE accepted"
            )
        return {row["client"]: row["device"] for row in self._database.rows(sql)}

    def exclusions(self, number: int | None = None) -> list[ExclusionRecord]:
        """Who does not, in one round or in all."""
        sql = "SELECT * FROM exclusions WHERE (:round IS NULL OR round = :round) ORDER BY round, id"
        return [tables.exclusion(row) for row in self._database.rows(sql, {"round": number})]

    def job(self, job: str) -> JobRecord | None:
        """One job, by its id."""
        rows = self._database.rows("SELECT * FROM jobs WHERE id = ?", (job,))
        return tables.job(rows[0]) if rows else None

    def jobs(self, number: int | None = None) -> list[JobRecord]:
        """The jobs of one round or of all, in the order in which they were planned."""
        sql = "SELECT * FROM jobs WHERE (:round IS NULL OR round = :round) ORDER BY round, created, id"
        return [tables.job(row) for row in self._database.rows(sql, {"round": number})]

    def leftovers(self) -> list[JobRecord]:
        """Jobs of which something may still be on their devices, of whatever round and state."""
        sql = "SELECT * FROM jobs WHERE NOT gone AND state <> 'planned' ORDER BY round, created, id"
        return [tables.job(row) for row in self._database.rows(sql)]

    def updates(
        self, number: int | None = None, *, accepted: bool | None = None, job: str | None = None
    ) -> list[UpdateRecord]:
        """Updates by round and client.

        Args:
            number: Of this round only.
            accepted: The accepted ones only, or the refused ones.
            job: Those that this job brought.
        """
        sql = (
            "SELECT updates.*, jobs.device AS device FROM updates JOIN jobs ON jobs.id = updates.job"
            " WHERE (:round IS NULL OR updates.round = :round) AND (:accepted IS NULL OR accepted = :accepted)"
        )
        if job is not None:
            sql += " AND updates.job = :job"  # in this form the index is used
        sql += " ORDER BY updates.round, client, updates.id"
        values = {"round": number, "accepted": accepted, "job": job}
        return [tables.update(row) for row in self._database.rows(sql, values)]

    def evaluations(self) -> list[EvaluationRecord]:
        """All evaluations, by round."""
        sql = "SELECT * FROM evaluations ORDER BY round, place"
        return [tables.evaluation(row) for row in self._database.rows(sql)]

    def checkpoints(self) -> list[CheckpointRecord]:
        """All checkpoints, by round."""
        return [
            tables.checkpoint(row) for row in self._database.rows("SELECT * FROM checkpoints ORDER BY round")
        ]

    def checkpoint(self, number: int | None = None) -> CheckpointRecord | None:
        """The checkpoint of a round, or the newest."""
        sql = "SELECT * FROM checkpoints WHERE (:round IS NULL OR round = :round) ORDER BY round DESC LIMIT 1"
        rows = self._database.rows(sql, {"round": number})
        return tables.checkpoint(rows[0]) if rows else None

    def releases(self) -> list[ReleaseRecord]:
        """All noisy means, by round; none where the run is not private."""
        return [tables.release(row) for row in self._database.rows("SELECT * FROM releases ORDER BY round")]

    def release(self, number: int) -> ReleaseRecord | None:
        """The noisy mean of one round, if it was made."""
        rows = self._database.rows("SELECT * FROM releases WHERE round = ?", (number,))
        return tables.release(rows[0]) if rows else None

    def spent(self) -> PrivacySpent | None:
        """How private the run's models are; None if no noisy mean was made."""
        releases = self.releases()
        if not releases:
            return None
        last = releases[-1]
        return PrivacySpent(
            last.epsilon, last.delta, last.noise_multiplier, last.clip_norm, last.sampling, len(releases)
        )

    def phases(self, number: int | None = None) -> list[PhaseRecord]:
        """How long what took, in one round or in all, in the order of time."""
        sql = (
            "SELECT phases.*, jobs.device AS device FROM phases LEFT JOIN jobs ON jobs.id = phases.job"
            " WHERE (:round IS NULL OR phases.round = :round) ORDER BY phases.round, started, phase"
        )
        return [tables.phase(row) for row in self._database.rows(sql, {"round": number})]

    def samples(self, job: str) -> list[Sample]:
        """How a device was while it worked on a job, in the order of time."""
        sql = "SELECT * FROM samples WHERE job = ? ORDER BY time"
        return [tables.sample(row) for row in self._database.rows(sql, (job,))]

    def events(self, number: int | None = None) -> list[EventRecord]:
        """What happened, in one round or in all, in the order in which it was recorded."""
        sql = "SELECT * FROM events WHERE (:round IS NULL OR round = :round) ORDER BY id"
        return [tables.event(row) for row in self._database.rows(sql, {"round": number})]

    def blobs(self) -> set[str]:
        """SHA-256 of every blob that must be there."""
        sql = (
            "SELECT blob FROM updates WHERE blob IS NOT NULL AND kept"
            " UNION SELECT blob FROM releases WHERE kept"
            " UNION SELECT server_state FROM checkpoints WHERE server_state IS NOT NULL"
        )
        return {row[0] for row in self._database.rows(sql)}

    def summaries(self) -> list[RoundSummary]:
        """What every round came to, in order."""
        with self.snapshot():
            rounds, accepted, jobs = self.rounds(), self.updates(accepted=True), self.jobs()
        by_round: dict[int, tuple[list[UpdateRecord], list[JobRecord]]] = {}
        for update in accepted:
            by_round.setdefault(update.round, ([], []))[0].append(update)
        for job in jobs:
            by_round.setdefault(job.round, ([], []))[1].append(job)
        return [_summary(each, *by_round.get(each.number, ([], []))) for each in rounds]

    def summary(self, number: int) -> RoundSummary | None:
        """What one round came to, if it was begun."""
        with self.snapshot():
            known = self.round(number)
            if known is None:
                return None
            return _summary(known, self.updates(number, accepted=True), self.jobs(number))


def _summary(number: RoundRecord, updates: list[UpdateRecord], jobs: list[JobRecord]) -> RoundSummary:
    return RoundSummary(
        round=number,
        devices=len({update.device for update in updates}),
        clients=len(updates),
        examples=sum(update.examples for update in updates),
        loss_before=_mean([(update.loss_before, update.examples) for update in updates]),
        loss_after=_mean([(update.loss_after, update.examples) for update in updates]),
        metrics=summed_metrics(update.metrics for update in updates),
        bytes_sent=sum(job.bytes_sent for job in jobs),
        bytes_received=sum(job.bytes_received for job in jobs),
    )


def _mean(values: list[tuple[float | None, int]]) -> float | None:
    known = [(value, examples) for value, examples in values if value is not None]
    total = sum(examples for _, examples in known)
    return math.fsum(value * examples for value, examples in known) / total if total else None
