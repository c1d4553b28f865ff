"""Rounds in the ledger: begun, in progress, ended; who takes part and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Final

from devicelab.store import tables
from devicelab.store.records import CohortClient, RoundRecord, RoundState
from devicelab.store.writing import LedgerWriter, require

__all__ = ["RoundLedger"]

_ORDER: Final = tuple(RoundState)[: tuple(RoundState).index(RoundState.FAILED)]


class RoundLedger(LedgerWriter):
    """The verbs that are about rounds."""

    def begin_round(self, number: int, *, seed: int | None = None) -> RoundRecord:
        """Begin a round, or a failed one anew; one that is open is left as it is.

        What a failed round has of accepted updates counts: their clients need not train again.

        Raises:
            ValueError: It is not the one after the last checkpoint. The first model is that of round 0.
        """
        with self.together():
            require(number >= 1, "rounds are counted from 1")
            self._require_next(number)
            known = self.round(number)
            if known is None:
                self._insert(
                    "rounds",
                    number=number,
                    state=RoundState.SELECTING,
                    seed=None if seed is None else str(seed),
                    started=time.time(),
                )
            elif known.state is RoundState.FAILED:
                self._database.execute(
                    "UPDATE rounds SET state = 'selecting', attempt = attempt + 1, ended = NULL, reason = ''"
                    " WHERE number = ?",
                    (number,),
                )
            return self._round(number)

    def advance_round(self, number: int, state: RoundState) -> None:
        """Say how far a round is; to say what is behind it already changes nothing.

        Raises:
            ValueError: It has ended; ``checkpointed`` and ``failed`` have their own verbs.
        """
        if state.ended:
            raise ValueError(f"a round does not become {state} this way")
        with self.together():
            known = self._open_round(number)
            further = max(known.state, state, key=_ORDER.index)
            self._database.execute("UPDATE rounds SET state = ? WHERE number = ?", (further, number))

    def fail_round(self, number: int, reason: str) -> None:
        """Give a round up. The global model stays as it was; the round may be begun again.

        Raises:
            ValueError: It is checkpointed, or there is no reason.
        """
        with self.together():
            if self._round(number).state is RoundState.FAILED:
                return
            self._open_round(number)
            require(bool(reason), "a round does not fail without a reason")
            self._database.execute(
                "UPDATE rounds SET state = 'failed', ended = ?, reason = ? WHERE number = ?",
                (time.time(), reason, number),
            )

    def set_cohort(self, number: int, clients: Sequence[CohortClient]) -> None:
        """Say who takes part, in order; replaces what was said before.

        Raises:
            ValueError: A client is named twice, one with an accepted update is not named any more, or the round
                has ended.
        """
        names = [each.client for each in clients]
        require(len(set(names)) == len(names), "a client is in the cohort twice")
        with self.together():
            self._open_round(number)
            counted = {update.client for update in self.updates(number)}
            if missing := counted - set(names):
                raise ValueError(f"client {min(missing)} has an update in round {number} and cannot leave it")
            for client in {each.client for each in self.cohort(number)} - set(names):
                self._database.execute("DELETE FROM cohort WHERE round = ? AND client = ?", (number, client))
            for place, each in enumerate(clients):
                self._database.execute(
                    "INSERT INTO cohort VALUES (:round, :client, :device, :examples, :place)"
                    " ON CONFLICT DO UPDATE SET device = :device, examples = :examples, place = :place",
                    {
                        "round": number,
                        "client": each.client,
                        "device": each.device,
                        "examples": each.examples,
                        "place": place,
                    },
                )

    def exclude(self, number: int, device: str, reason: str, clients: Iterable[str] = ()) -> None:
        """Say that a round does without a device, or without some of its clients."""
        self._insert(
            "exclusions",
            "ignore",
            round=number,
            device=device,
            reason=reason,
            clients=tables.encoded(sorted(clients)),
        )

    def record_phase(self, number: int, phase: str, *, started: float, seconds: float, job: str = "") -> None:
        """Say how long something took; the last word counts.

        Args:
            number: The round.
            phase: What: ``push``, ``train``, ``aggregate``, …
            started: When it began.
            seconds: How long it took.
            job: Whose; empty: the host's own work.
        """
        self._insert(
            "phases", "replace", round=number, job=job, phase=phase, started=started, seconds=max(seconds, 0.0)
        )
