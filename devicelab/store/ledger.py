"""What is written to a ledger: one verb, one transaction. Every verb may be repeated without doing more."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from devicelab.errors import UpdateError
from devicelab.runner.messages import Metric
from devicelab.store import tables
from devicelab.store.database import Value
from devicelab.store.jobbing import JOB_ORDER, JobLedger
from devicelab.store.records import CheckpointRecord, JobRecord, JobState, Place, RunRecord, UpdateFacts
from devicelab.store.releases import ReleaseRecord
from devicelab.store.writing import require

__all__ = ["Ledger"]


class Ledger(JobLedger):
    """A ledger to write; whoever has it holds the run's lock.

    Methods may be called from any thread. All raise StoreError where the disk is full or the file damaged; then
    nothing was changed. Arguments that contradict what is recorded are the caller's mistake: ValueError, or
    KeyError for a round or job that does not exist.
    """

    def create_run(self, record: RunRecord) -> None:
        """Say what the run is; once."""
        self._insert(
            "run",
            only=1,
            id=record.id,
            name=record.name,
            seed=str(record.seed),
            experiment=record.experiment,
            plan_sha256=record.plan_sha256,
            files=tables.encoded(record.files),
            versions=tables.encoded(record.versions),
            created=record.created,
            rounds=record.rounds,
        )

    def ask_rounds(self, rounds: int) -> None:
        """Say how many rounds the run is to have in all; the last word counts."""
        self._database.execute("UPDATE run SET rounds = ?", (rounds,))

    def record_device(self, identity: str, serial: str, facts: Mapping[str, Any]) -> None:
        """Say what a device is; the last word counts."""
        self._insert("devices", "replace", identity=identity, serial=serial, facts=tables.encoded(facts))

    def record_event(
        self,
        kind: str,
        text: str,
        *,
        number: int | None = None,
        device: str | None = None,
    ) -> None:
        """Say that something happened, for people. Not to be repeated: it would have happened twice."""
        self._insert("events", time=time.time(), round=number, device=device, kind=kind, text=text)

    def accept_update(self, job: str, blob: str, facts: Sequence[UpdateFacts]) -> None:
        """Count the clients of a job's update, whose blob is on the disk already; the job is ``collected``.

        :meth:`devicelab.store.run.Run.record_update` does both in the right order.

        Raises:
            UpdateError: A client has been counted in this round already, or is not in its cohort. None of the
                update's clients is counted.
            ValueError: The job has ended otherwise, or its round has.
        """
        with self.together():
            known = self._job(job)
            if self._recorded(known, blob, facts):
                return
            self._open_round(known.round)
            fit = known.verb == "train" and known.state in JOB_ORDER[: JOB_ORDER.index(JobState.COLLECTED)]
            require(fit, f"job {job} is {known.state} and takes no update")
            for each in facts:
                try:
                    self._insert_update(known, each, accepted=1, blob=blob, weight=each.weight)
                except ValueError as error:
                    raise self._why(known, each.client, error) from error
            self._set_job(job, state=JobState.COLLECTED)

    def reject_update(self, job: str, reason: str, *, state: JobState = JobState.REJECTED) -> None:
        """Say that a job's update does not count, for none of its clients; the job has ended.

        Args:
            job: Its id.
            reason: Why, in words for people.
            state: ``rejected``, or ``late``.

        Raises:
            ValueError: It has been accepted, or there is no reason.
        """
        with self.together():
            self.end_job(job, state, reason)
            known = self._job(job)
            members = {each.client: each.examples for each in self.cohort(known.round)}
            for client in known.clients:
                if client in members:
                    facts = UpdateFacts(client, members[client], 0.0)
                    self._insert_update(known, facts, "ignore", accepted=0, reason=known.reason)

    def forget_updates(self, number: int) -> None:
        """Say that a checkpointed round's blobs are not needed any more; sweeping removes them.

        Raises:
            ValueError: The round is not checkpointed.
        """
        with self.together():
            require(self.checkpoint(number) is not None, f"round {number} is not checkpointed")
            self._database.execute("UPDATE updates SET kept = 0 WHERE round = ?", (number,))
            self._database.execute("UPDATE releases SET kept = 0 WHERE round = ?", (number,))

    def record_release(self, record: ReleaseRecord) -> None:
        """Say that a round's noisy mean is on the disk: from now on it is the only one that there is.

        Raises:
            ValueError: The round has one already, or has ended.
        """
        with self.together():
            self._open_round(record.round)
            self._insert("releases", **asdict(record))

    def record_evaluation(
        self, number: int, place: Place, metrics: Mapping[str, Metric], *, examples: int
    ) -> None:
        """Say how good the global model of a round is (0: the initial one); the last word counts."""
        self._insert(
            "evaluations",
            "replace",
            round=number,
            place=place,
            examples=examples,
            metrics=tables.encoded_metrics(metrics),
            created=time.time(),
        )

    def record_checkpoint(self, record: CheckpointRecord) -> None:
        """Say that a round's model is on the disk; the round is ``checkpointed`` (there is no round 0).

        Raises:
            ValueError: It is not the next one, or is there already with another content.
        """
        with self.together():
            if self.known_checkpoint(record) is not None:
                return
            self._insert(
                "checkpoints",
                round=record.round,
                file=record.file,
                sha256=record.sha256,
                bytes=record.bytes,
                server_state=record.server_state,
                created=record.created,
            )
            self._database.execute(
                "UPDATE rounds SET state = 'checkpointed', ended = ? WHERE number = ?",
                (record.created, record.round),
            )

    def known_checkpoint(self, record: CheckpointRecord) -> CheckpointRecord | None:
        """What is recorded of a checkpoint already; None if it may be recorded now.

        Raises:
            ValueError: It is not the next one, or is there already with another content.
        """
        with self.together():
            known = self.checkpoint(record.round)
            if known is not None:
                same = (known.sha256, known.server_state) == (record.sha256, record.server_state)
                require(same, f"round {record.round} has another checkpoint already")
                return known
            self._require_next(record.round)
            if record.round > 0:
                self._open_round(record.round)
            return None

    def _insert_update(
        self, job: JobRecord, facts: UpdateFacts, again: Literal["refuse", "ignore"] = "refuse", **values: Value
    ) -> None:
        self._insert(
            "updates",
            again,
            round=job.round,
            client=facts.client,
            job=job.id,
            examples=facts.examples,
            loss_before=facts.loss_before,
            loss_after=facts.loss_after,
            norm=facts.norm,
            clipped=facts.clipped,
            metrics=tables.encoded_metrics(facts.metrics),
            created=time.time(),
            **values,
        )

    def _recorded(self, job: JobRecord, blob: str, facts: Sequence[UpdateFacts]) -> bool:
        """Whether exactly this has been accepted before."""
        found = self.updates(accepted=True, job=job.id)
        return bool(found) and (
            {each.blob for each in found} == {blob}
            and {each.client for each in found} == {f.client for f in facts}
        )

    def _why(self, job: JobRecord, client: str, error: ValueError) -> UpdateError | ValueError:
        counted = {each.client: each for each in self.updates(job.round, accepted=True)}
        if client in counted:
            words = (
                f"client {client} has been counted in round {job.round} already, by job {counted[client].job}"
            )
        elif client not in {each.client for each in self.cohort(job.round)}:
            words = f"client {client} is not in the cohort of round {job.round}"
        else:
            return ValueError(f"job {job.id}, client {client}: {error}")
        return UpdateError(words, device=job.device)
