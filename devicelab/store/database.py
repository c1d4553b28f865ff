"""SQLite for one ledger: how it is opened, its transactions, and its errors in words."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

from devicelab.closing import Closing
from devicelab.errors import StoreError
from devicelab.store import schema

__all__ = ["Database", "Value"]

_BUSY_SECONDS: Final = 15.0  # a reader may hold up the write-ahead log's clean-up for a moment
_DAMAGED: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

Value = str | int | float | bytes | None
Values = Sequence[Value] | Mapping[str, Value]


class Database(Closing):
    """One connection, shared by the threads of one process: they take turns.

    A writer keeps a write-ahead log and every commit is on the disk before it returns (``synchronous=FULL``):
    what was recorded survives a power cut. Readers in other processes see the last commit and hold nobody up.

    Args:
        path: The file. A writer makes it if it is not there.
        write: Whether to write. A reader changes nothing, not even the version of an older file: it looks at a
            migrated copy in memory.

    Raises:
        StoreError: It cannot be opened, is damaged, is no ledger, or was made by a newer devicelab.
    """

    def __init__(self, path: Path, *, write: bool) -> None:
        self.path = path
        self._guard = threading.RLock()  # over the connection
        self._depth = 0  # of transactions within each other, in the thread that has the guard
        with self.errors():
            self._connection = self._open_writer() if write else self._open_reader()

    def _open_writer(self) -> sqlite3.Connection:
        connection = self._connect(f"file:{quote(str(self.path))}?mode=rwc")
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            self._migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _open_reader(self) -> sqlite3.Connection:
        # Opened for writing where that is allowed, so that the log's index, which readers need as well, is
        # tidied away by whoever closes last; but nothing can be written through it. Where nobody can write (a
        # read-only medium), SQLite could not make that index; without a log it needs none.
        log = Path(f"{self.path}-wal")
        logged = log.exists() and log.stat().st_size > 0
        mode = "rw" if logged or os.access(self.path.parent, os.W_OK) else "ro&immutable=1"
        connection = self._connect(f"file:{quote(str(self.path))}?mode={mode}")
        try:
            version = self._version(connection)
            if version == len(schema.STEPS):
                connection.execute("PRAGMA query_only = ON")
                return connection
            copy = self._connect(":memory:")
            connection.backup(copy)
            connection.close()
            connection = copy
            self._migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    @staticmethod
    def _connect(address: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            address, uri=True, isolation_level=None, check_same_thread=False, timeout=_BUSY_SECONDS
        )
        connection.row_factory = sqlite3.Row
        return connection

    def _version(self, connection: sqlite3.Connection) -> int:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if (application, bool(version)) != (schema.APPLICATION_ID, True) and (tables or version):
            raise StoreError(f"{self.path} is a database, but no ledger")
        if version > len(schema.STEPS):
            raise StoreError(
                f"{self.path} has schema version {version}, this program knows {len(schema.STEPS)} at most",
                hint="it was made by a newer devicelab: use that one",
            )
        return version

    def _migrate(self, connection: sqlite3.Connection) -> None:
        """Take every step that the file has not been through, each in a transaction of its own."""
        for number in range(self._version(connection), len(schema.STEPS)):
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{schema.STEPS[number]}\n"
                f"PRAGMA application_id = {schema.APPLICATION_ID};\n"
                f"PRAGMA user_version = {number + 1};\nCOMMIT;"
            )

    def close(self) -> None:
        """Close the connection; may be called twice. The last one to close tidies the log away."""
        with self._guard, self.errors():
            self._connection.close()

    @contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[None]:
        """All or nothing: what is done within is durable at the end, or undone if the block raises.

        Other threads wait. A transaction within another is a part of that.

        Args:
            write: False for several questions that are to be answered from one state of affairs.

        Raises:
            StoreError: The disk is full, the file is damaged, …; nothing was changed.
        """
        with self._guard, self.errors():
            if self._depth == 0:
                self._connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            self._depth += 1
            try:
                yield
                if self._depth == 1:
                    self._connection.execute("COMMIT")
            except BaseException:
                if self._depth == 1 and self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            finally:
                self._depth -= 1

    def execute(self, sql: str, values: Values = ()) -> int:
        """Run one statement.

        Returns:
            How many rows it changed.

        Raises:
            ValueError: A constraint says no.
            StoreError: As with :meth:`transaction`.
        """
        with self._guard, self.errors():
            return self._connection.execute(sql, values).rowcount

    def rows(self, sql: str, values: Values = ()) -> list[sqlite3.Row]:
        """All rows that a query finds.

        Raises:
            StoreError: The file is damaged, …
        """
        with self._guard, self.errors():
            return self._connection.execute(sql, values).fetchall()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """SQLite's errors in words; a broken constraint is the caller's mistake, a ValueError."""
        try:
            yield
        except sqlite3.IntegrityError as error:
            raise ValueError(str(error)) from error
        except sqlite3.Error as error:
            raise _in_words(error, self.path) from error


def _primary(error: sqlite3.Error) -> int:
    """SQLite's result code without the details in the higher bits."""
    code = getattr(error, "sqlite_errorcode", None)
    return 0 if code is None else code & 0xFF


def _in_words(error: sqlite3.Error, path: Path) -> StoreError:
    code = _primary(error)
    if code in _DAMAGED:
        return StoreError(
            f"the ledger {path} is damaged: {error}",
            hint="restore the run's directory from a copy; its checkpoints can be read without the ledger",
        )
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return StoreError(
            f"the ledger {path} cannot be written or read: {error}",
            hint="free some space there (or lift the quota); what was recorded before is safe",
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreError(
            f"the ledger {path} was locked for {_BUSY_SECONDS:g} s: {error}",
            hint="another program has it open for writing: close that",
        )
    return StoreError(f"the ledger {path}: {error}")
