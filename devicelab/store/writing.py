"""What the parts of a ledger that write have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from devicelab.store.database import Database, Value
from devicelab.store.reading import LedgerReader
from devicelab.store.records import JobRecord, RoundRecord

__all__ = ["LedgerWriter", "require"]


def require(truth: bool, reason: str) -> None:  # noqa: FBT001 - reads as an assertion
    """Raise ValueError: the caller contradicts what is recorded."""
    if not truth:
        raise ValueError(reason)


class LedgerWriter(LedgerReader):
    """A ledger that can be written.

    Args:
        path: The file; made if it is not there.

    Raises:
        StoreError: It cannot be opened, is damaged, or was made by a newer devicelab.
    """

    def __init__(self, path: Path) -> None:
        self._database = Database(path, write=True)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Several verbs as one: all are durable at the end of the block, or none is."""
        with self._database.transaction():
            yield

    def _insert(
        self,
        table: str,
        again: Literal["refuse", "ignore", "replace"] = "refuse",
        **values: Value,
    ) -> None:
        """Insert one row. Table and columns are the ledger's own words.

        Args:
            table: Where.
            again: What to do where a row with that key is there already.
            values: The row, by column.

        Raises:
            ValueError: A constraint says no.
        """
        columns, places = ", ".join(values), ", ".join(f":{name}" for name in values)
        replace = " OR REPLACE" if again == "replace" else ""
        ignore = " ON CONFLICT DO NOTHING" if again == "ignore" else ""
        self._database.execute(f"INSERT{replace} INTO {table} ({columns}) VALUES ({places}){ignore}", values)

    def _round(self, number: int) -> RoundRecord:
        known = self.round(number)
        if known is None:
            raise KeyError(f"round {number}")
        return known

    def _require_next(self, number: int) -> None:
        last = self.checkpoint()
        following = 0 if last is None else last.round + 1
        require(number == following, f"round {number} is not next, {following} is")

    def _open_round(self, number: int) -> RoundRecord:
        known = self._round(number)
        require(not known.state.ended, f"round {number} has ended: {known.state}")
        return known

    def _job(self, job: str) -> JobRecord:
        known = self.job(job)
        if known is None:
            raise KeyError(f"job {job}")
        return known
