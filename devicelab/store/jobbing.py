"""Jobs in the ledger: planned before they are sent, followed, given up."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from devicelab.store import tables
from devicelab.store.database import Value
from devicelab.store.records import JobRecord, JobState, Sample
from devicelab.store.rounding import RoundLedger
from devicelab.store.writing import require

__all__ = ["JOB_ORDER", "JobLedger"]

JOB_ORDER: Final = tuple(JobState)[: tuple(JobState).index(JobState.LATE)]


class JobLedger(RoundLedger):
    """The verbs that are about jobs."""

    def plan_job(
        self,
        job: str,
        *,
        number: int,
        device: str,
        clients: Sequence[str],
        payload: Mapping[str, Any],
        verb: str = "train",
        attempt: int = 1,
    ) -> JobRecord:
        """Say what a device is going to be asked, before it is asked. A job that is known stays as it is.

        Raises:
            ValueError: A job of that id is known and is another one.
        """
        with self.together():
            self._open_round(number)
            now = time.time()
            self._insert(
                "jobs",
                "ignore",
                id=job,
                round=number,
                device=device,
                verb=verb,
                attempt=attempt,
                state=JobState.PLANNED,
                clients=tables.encoded(list(clients)),
                payload=tables.encoded(payload),
                created=now,
                changed=now,
            )
            known = self._job(job)
            same = (known.round, known.device, known.verb, known.clients) == (
                number,
                device,
                verb,
                tuple(clients),
            )
            if not same or known.payload != json.loads(tables.encoded(payload)):
                raise ValueError(f"job {job} is known already and is another one")
            return known

    def advance_job(self, job: str, state: JobState, *, result: Mapping[str, Any] | None = None) -> None:
        """Say how far a job is; to say what is behind it already changes nothing.

        Args:
            job: Its id.
            state: Up to ``removed``; ``collected`` comes with the update (:meth:`accept_update`).
            result: What the device answered, if it has.

        Raises:
            ValueError: It has ended as late, rejected or failed, or its update has not been recorded.
        """
        require(state in JOB_ORDER, f"a job does not become {state} this way")
        with self.together():
            known = self._job(job)
            require(known.state in JOB_ORDER, f"job {job} has ended: {known.state}, {known.reason}")
            before, after = JOB_ORDER.index(known.state), JOB_ORDER.index(state)
            collected = JOB_ORDER.index(JobState.COLLECTED)
            brings = known.verb == "train"
            require(
                not brings or not before < collected <= after,
                f"job {job} has no update yet, it is {known.state}",
            )
            self._set_job(
                job,
                state=max(known.state, state, key=JOB_ORDER.index),
                gone=known.gone or state is JobState.REMOVED,
                **({} if result is None else {"result": tables.encoded(result)}),
            )

    def end_job(self, job: str, state: JobState, reason: str) -> None:
        """Give a job up; that it has ended otherwise already changes nothing.

        Args:
            job: Its id.
            state: ``late``, ``rejected`` or ``failed``.
            reason: Why, in words for people.

        Raises:
            ValueError: Its update has been accepted, or there is no reason.
        """
        require(state not in JOB_ORDER, f"a job does not end as {state}")
        require(bool(reason), f"a job is not {state} without a reason")
        with self.together():
            known = self._job(job)
            if known.state not in JOB_ORDER:
                return
            brought = JOB_ORDER.index(known.state) >= JOB_ORDER.index(JobState.COLLECTED)
            require(not brought, f"job {job} is {known.state} and cannot be {state}")
            self._set_job(job, state=state, reason=reason)

    def reopen_job(self, job: str) -> None:
        """Try a job that was late or failed once more, under the same id: the device may have finished it.

        Raises:
            ValueError: It has not ended so, or its round has ended.
        """
        with self.together():
            known = self._job(job)
            self._open_round(known.round)
            require(known.state in (JobState.LATE, JobState.FAILED), f"job {job} is {known.state}")
            self._set_job(job, state=JobState.PLANNED, reason="", attempt=known.attempt + 1)

    def clear_job(self, job: str) -> None:
        """Say that nothing of a job is on its device any more, however it ended."""
        with self.together():
            known = self._job(job)
            done = known.state is JobState.COMMITTED
            self._set_job(job, gone=True, state=JobState.REMOVED if done else known.state)

    def count_bytes(self, job: str, *, sent: int | None = None, received: int | None = None) -> None:
        """Say how many bytes a job has cost so far, in all."""
        values = {"bytes_sent": sent, "bytes_received": received}
        with self.together():
            self._job(job)
            self._set_job(job, **{name: value for name, value in values.items() if value is not None})

    def record_samples(self, job: str, samples: Iterable[Sample]) -> None:
        """Say how a device is while it works on a job."""
        with self.together():
            for each in samples:
                self._insert(
                    "samples",
                    "replace",
                    job=job,
                    time=each.time,
                    battery_percent=each.battery_percent,
                    battery_celsius=each.battery_celsius,
                    thermal_status=each.thermal_status,
                )

    def _set_job(self, job: str, **values: Value) -> None:
        changes = ", ".join(f"{name} = :{name}" for name in (*values, "changed"))
        self._database.execute(
            f"UPDATE jobs SET {changes} WHERE id = :id",  # noqa: S608 - columns are this module's words
            {**values, "id": job, "changed": time.time()},
        )
