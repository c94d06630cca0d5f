"""Opens the database and says whether it can be believed; if not, it is set aside and made anew from the second copy.

SQLite's own check finds broken pages and indexes, not a changed byte within a value, nor that the end of the write-ahead
log is gone: a shorter one is a sound, older database. The second copy (journal.py) has checksums and a sequence number.

    database            second copy        believed
    sound, as new       the same rows      database
    sound, newer        any                database; the second copy is written anew
    sound, older        any                second copy
    as new, other rows  whole              second copy
    damaged or missing  any                second copy

A second copy with damage of its own is completed with the rows that can still be read of the database. A full disk, a
lock or a lack of rights is no damage: the engine does not start, and nothing is touched.
"""

import itertools
import os
import sqlite3
import time
from collections.abc import Iterator

from berth.errors import DataLoss
from berth.store.journal import Journal, SecondCopy, read_second_copy, table_names

_SUFFIXES = ("", "-wal", "-shm")
_NO_DAMAGE = (
    sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM,
)  # fmt: skip
_UNREADABLE = (sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS)


class Opened:
    """connection, journal: for the caller to close; mended: what was done, in words.

    incomplete: there may have been records that neither copy has, so what no record names is not rubbish.
    """

    def __init__(self, connection: sqlite3.Connection, journal: Journal, sequence: int) -> None:
        self.connection = connection
        self.journal = journal
        self.sequence = sequence
        self.mended: list[str] = []
        self.incomplete = False


def open_checked(path: str, schema: str, version: int) -> Opened:
    """Opens `path`, with its second copy in `records` beside it; makes what is missing."""
    directory = f"{os.path.dirname(path)}/records"
    second = read_second_copy(directory, schema, version)
    mended: list[str] = []
    try:
        existed = os.path.exists(path)
        problem = _problem(path, second, version) if existed else ("is gone" if second.exists else "")
        if problem:
            mended = _rebuild(path, second, problem, existed=existed, version=version)
        connection = _connect(path)
        if set(table_names(second.connection)) - set(table_names(connection)) or not _counts(connection):
            count = "INSERT INTO changes SELECT 0 WHERE NOT EXISTS (SELECT * FROM changes);"
            connection.executescript(f"BEGIN; {schema} {count} PRAGMA user_version={version}; COMMIT")
        sequence = _sequence(connection)
        journal = Journal(directory, version)
        opened = Opened(connection, journal, sequence)
        opened.mended, opened.incomplete = mended, (bool(problem) and bool(second.problems)) or not (existed or second.exists)
        if second.problems or second.sequence != sequence or not second.exists:
            journal.begin(sequence, connection)
        if second.problems and not problem:
            opened.mended.append(f"the second copy of the records is written anew: {_some(second.problems)}")
        return opened
    finally:
        second.connection.close()


def _connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=True)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
    except BaseException:
        connection.close()
        raise
    return connection


def _problem(path: str, second: SecondCopy, version: int) -> str:
    """Why the database cannot be believed, or ''. Raises DataLoss for one that a newer berth wrote."""
    try:
        connection = _connect(path)
    except sqlite3.Error as error:
        return f"cannot be opened ({_damage(error)})"
    try:
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found > version:
            if second.exists and not second.problems:
                return f"names schema {found}, and its second copy {version}"
            raise DataLoss(f"{path} was written by a newer berth (schema {found}); install that one again")
        result = connection.execute("PRAGMA integrity_check(3)").fetchall()
        if result != [("ok",)]:
            return f"is damaged ({_some([str(row[0]) for row in result])})"
        return _difference(connection, second)
    except sqlite3.Error as error:
        return f"is damaged ({_damage(error)})"
    finally:
        connection.close()


def _damage(error: sqlite3.Error) -> sqlite3.Error:
    """The error, if it is one of what is in the file; else it is raised."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    if code & 0xFF in _NO_DAMAGE or (code & 0xFF == sqlite3.SQLITE_IOERR and code not in _UNREADABLE):
        raise error
    return error


def _difference(connection: sqlite3.Connection, second: SecondCopy) -> str:
    if not second.exists:
        return ""
    sequence = _sequence(connection)
    if sequence < second.sequence:
        return f"lacks the last {second.sequence - sequence} changes"
    if sequence > second.sequence or second.problems:
        return ""
    have = set(table_names(connection))
    for table in table_names(second.connection):
        query = f"SELECT * FROM {table} ORDER BY 1"  # the primary key; row by row, for there may be many
        ours = connection.execute(query) if table in have else iter(())
        if any(mine != its for mine, its in itertools.zip_longest(ours, second.connection.execute(query))):
            return f"has other rows in {table} than its second copy"
    return ""


def _sequence(connection: sqlite3.Connection) -> int:
    """Of the last change; 0 for one of an earlier version, which did not count."""
    if not _counts(connection):
        return 0
    row = connection.execute("SELECT sequence FROM changes").fetchone()
    return int(row[0]) if row else 0


def _counts(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'changes'").fetchall())


def _rebuild(path: str, second: SecondCopy, problem: str, *, existed: bool, version: int) -> list[str]:
    mended = [f"{path} {problem}: made anew from the second copy of the records"]
    if second.problems and existed:
        _complete(second.connection, path)
    sequence = second.sequence + 1  # later than all that either copy has
    second.connection.execute("DELETE FROM changes")
    second.connection.execute("INSERT INTO changes VALUES (?)", (sequence,))
    second.connection.execute(f"PRAGMA user_version={version}")
    new = f"{path}.new"
    _remove(new)
    target = sqlite3.connect(new)
    try:
        second.connection.backup(target)
    finally:
        target.close()
    aside = f"{path}.damaged-{time.strftime('%Y%m%d-%H%M%S')}-{sequence}"
    for suffix in _SUFFIXES:
        if os.path.exists(path + suffix):
            os.rename(path + suffix, aside + suffix)
    os.rename(new, path)
    if existed:
        mended.append(f"the damaged database is kept as {aside}")
    if second.problems:
        mended.append(f"that copy has damage of its own: {_some(second.problems)}")
    return mended


def _complete(target: sqlite3.Connection, path: str) -> None:
    """Adds the rows that the damaged database still gives and the other copy does not have."""
    try:
        source = _connect(path)
    except sqlite3.Error:
        return
    try:
        for table in table_names(target):
            for row in _readable_rows(source, table):
                marks = ", ".join("?" * len(row))
                target.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row)
    finally:
        source.close()


def _readable_rows(source: sqlite3.Connection, table: str) -> Iterator[tuple]:
    try:
        yield from source.execute(f"SELECT * FROM {table}")
    except sqlite3.Error:
        return


def _remove(path: str) -> None:
    for suffix in (*_SUFFIXES, "-journal"):
        if os.path.exists(path + suffix):
            os.unlink(path + suffix)


def _some(texts: list[str]) -> str:
    return "; ".join(texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")
