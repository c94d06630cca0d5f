"""The engine's SQLite database: records that must survive a kill of the engine or a loss of power.

One connection, used by one thread of its own, so that a slow disk holds up a write and not the event
loop. Reads come from the services' memory; the database is read once, at start-up. What is written goes into a
second copy as well (journal.py), from which a damaged database is made anew (checked.py).

Nobody waits for the disk with what a loss of power would undo anyway, records of containers of --rm: it is synced a moment
later, and only then in the second copy, which so is never ahead of a database that lost its end.
"""

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from berth.errors import DataLoss, SystemFailure
from berth.store.checked import Opened, open_checked
from berth.store.journal import Change, Statement

__all__ = ["Database", "Statement"]

_T = TypeVar("_T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS images (id TEXT PRIMARY KEY, config BLOB NOT NULL, chain TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS tags (name TEXT PRIMARY KEY, image TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS parents (image TEXT PRIMARY KEY, parent TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS tagged (image TEXT PRIMARY KEY, at_ns INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS chains (
    chain TEXT PRIMARY KEY, diff TEXT NOT NULL, parent TEXT NOT NULL, size_bytes INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS digests (name TEXT, digest TEXT, image TEXT NOT NULL, PRIMARY KEY (name, digest)) STRICT;
CREATE TABLE IF NOT EXISTS sources (
    diff TEXT, repository TEXT, digest TEXT NOT NULL, size_bytes INTEGER NOT NULL, media_type TEXT NOT NULL,
    PRIMARY KEY (diff, repository)
) STRICT;
CREATE TABLE IF NOT EXISTS foreign_layers (
    diff TEXT PRIMARY KEY, digest TEXT NOT NULL, size_bytes INTEGER NOT NULL, media_type TEXT NOT NULL, urls TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS documents (
    digest TEXT PRIMARY KEY, media_type TEXT NOT NULL, config TEXT NOT NULL, raw BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS containers (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, record TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS networks (id TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS volumes (name TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS changes (sequence INTEGER NOT NULL) STRICT;
"""
_SYNCED_AFTER_S = 0.2
_VERSION = 3  # 2 counts its changes, in a table of one row; 3 has chains, whose archives are made from recipes, for layers


class Database:
    """Owns the connection and its thread; `close` ends both."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="database")
        opened = self._thread.submit(self._open).result()
        self._connection, self._journal, self._sequence = opened.connection, opened.journal, opened.sequence
        self.mended, self.incomplete = opened.mended, opened.incomplete  # see checked.Opened
        self._unsynced: list[Change] = []

    def _open(self) -> Opened:
        try:
            return open_checked(self._path, _SCHEMA, _VERSION)
        except sqlite3.DatabaseError as error:
            raise DataLoss(f"{self._path} cannot be opened: {error}") from error

    def read(self, query: str, *parameters: object) -> list[tuple]:
        """All rows, at once; for start-up."""
        return self._thread.submit(lambda: self._connection.execute(query, parameters).fetchall()).result()

    def write_now(self, *statements: Statement) -> None:
        """One durable transaction, from any thread; blocks. All statements or none."""
        self._thread.submit(self._transaction, statements, lasting=True).result()

    async def write(self, *statements: Statement, lasting: bool = True) -> None:
        """One transaction, awaited; it goes through even if the caller is cancelled. lasting: also a loss of power leaves it."""
        await self._call(lambda: self._transaction(statements, lasting=lasting))
        if not lasting:
            asyncio.get_running_loop().call_later(_SYNCED_AFTER_S, self._sync_later)

    def _sync_later(self) -> None:
        if self._unsynced:
            with contextlib.suppress(RuntimeError):  # closed meanwhile, which has done it
                self._thread.submit(self._sync)

    async def _call(self, function: Callable[[], _T]) -> _T:
        return await asyncio.shield(asyncio.wrap_future(self._thread.submit(function)))

    def _transaction(self, statements: Sequence[Statement], *, lasting: bool) -> None:
        try:
            self._commit(statements, lasting=lasting)
        except sqlite3.OperationalError as error:  # of the disk: it is full, or cannot be written to
            raise SystemFailure(f"nothing was changed, for the records cannot be written to {self._path}: {error}") from error
        self._sequence += 1
        self._unsynced.append((self._sequence, statements))
        if lasting:  # and with it all before it, which is in the same log
            self._note_synced()

    def _commit(self, statements: Sequence[Statement], *, lasting: bool) -> None:
        self._connection.execute(f"PRAGMA synchronous={'FULL' if lasting else 'NORMAL'}")
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            for statement, parameters in statements:
                self._connection.execute(statement, parameters)
            self._connection.execute("UPDATE changes SET sequence = ?", (self._sequence + 1,))

    def _sync(self) -> None:
        with contextlib.suppress(OSError):  # the next write that is to last tells
            fd = os.open(f"{self._path}-wal", os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fdatasync(fd)
            finally:
                os.close(fd)
            self._note_synced()

    def _note_synced(self) -> None:
        changes, self._unsynced = self._unsynced, []
        if changes:
            self._journal.append(changes, self._connection)

    def close(self) -> None:
        """Waits for writes that were asked for, then closes."""
        self._thread.submit(self._sync).result()
        self._thread.submit(self._connection.close).result()
        self._thread.shutdown()
        self._journal.close()
