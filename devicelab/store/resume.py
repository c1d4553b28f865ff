"""Where an interrupted run stands: what is recorded says what is still to be done."""

from __future__ import annotations

from dataclasses import dataclass

from devicelab.store.reading import LedgerReader
from devicelab.store.records import CheckpointRecord, JobRecord, RoundRecord

__all__ = ["ResumePoint", "resume_point"]


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Where to go on.

    Attributes:
        next_round: The round to begin or to go on with.
        round: That round, if it was begun before; it may have failed.
        checkpoint: The global model that it starts from; None: there is no model yet.
        outstanding: Its jobs of which something is still expected, by their ids on the devices.
        counted: Clients whose updates count in it already: they need not train again.
        leftovers: Jobs of which something may still be on their devices, of this and earlier rounds.
    """

    next_round: int
    round: RoundRecord | None
    checkpoint: CheckpointRecord | None
    outstanding: tuple[JobRecord, ...]
    counted: frozenset[str]
    leftovers: tuple[JobRecord, ...]


def resume_point(ledger: LedgerReader) -> ResumePoint:
    """Where a run stands.

    Raises:
        StoreError: The ledger cannot be read.
    """
    with ledger.snapshot():
        checkpoint = ledger.checkpoint()
        number = 1 if checkpoint is None else checkpoint.round + 1
        return ResumePoint(
            next_round=number,
            round=ledger.round(number),
            checkpoint=checkpoint,
            outstanding=tuple(job for job in ledger.jobs(number) if not job.state.ended),
            counted=frozenset(update.client for update in ledger.updates(number, accepted=True)),
            leftovers=tuple(ledger.leftovers()),
        )
