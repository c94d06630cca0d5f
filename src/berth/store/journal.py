"""The second copy of the database's records: every row at one moment, and every change since.

    DATA_ROOT/records/
      snapshot   a head (sequence number, number of rows, schema), then one row a line
      journal    one transaction a line, in order; those the snapshot has already are skipped

A line is the CRC-32 of a JSON document and the document: damage costs the line that it hits, and is seen. A change is
appended after the database has it and is not synced: the database is what survives a loss of power, this is for the day
on which the database is damaged. Statements are kept as SQL: a schema that changes writes a new snapshot.
"""

import base64
import contextlib
import itertools
import json
import logging
import os
import sqlite3
import zlib
from collections.abc import Iterator, Sequence

log = logging.getLogger("berth.store")

Statement = tuple[str, Sequence[object]]
Change = tuple[int, Sequence[Statement]]  # with its sequence number

_MIN_COMPACT_BYTES = 8 << 20  # a journal shorter than this stays
_WRITE_BYTES = 1 << 20


class Journal:
    """Writes the second copy; owns its descriptor. Used by the database's thread alone."""

    def __init__(self, directory: str, schema: int) -> None:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        self._directory = directory
        self._schema = schema
        self._fd = os.open(f"{directory}/journal", os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._bytes = os.fstat(self._fd).st_size
        self._limit_bytes = max(_MIN_COMPACT_BYTES, 2 * _size(f"{directory}/snapshot"))
        self.stale = False  # a change is missing in it: only a snapshot makes it whole

    def append(self, changes: "list[Change]", connection: sqlite3.Connection) -> None:
        """Notes the last transactions that the database has. A full disk is no reason to refuse them: said, and made good later."""
        if self.stale or self._bytes > self._limit_bytes:
            self.begin(changes[-1][0], connection)
            return
        try:
            self._write(b"".join(
                _line([sequence, [[text, [_plain(value) for value in values]] for text, values in statements]])
                for sequence, statements in changes
            ))  # fmt: skip
        except OSError as error:
            self._note(error)

    def begin(self, sequence: int, connection: sqlite3.Connection) -> None:
        """Writes a snapshot, if there is room."""
        try:
            self._write_snapshot(sequence, connection)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(f"{self._directory}/snapshot.new")
            self._note(error)

    def _note(self, error: OSError) -> None:
        if not self.stale:
            log.error("the second copy of the records (%s) is not up to date: %s", self._directory, error)
        self.stale = True

    def _write(self, line: bytes) -> None:
        if os.write(self._fd, line) != len(line):
            os.ftruncate(self._fd, self._bytes)
            raise OSError(f"no room for {len(line)} bytes")
        self._bytes += len(line)

    def _write_snapshot(self, sequence: int, connection: sqlite3.Connection) -> None:
        """Every row as the connection sees it; the journal begins anew. Appears whole or not at all."""
        temporary, path = f"{self._directory}/snapshot.new", f"{self._directory}/snapshot"
        tables = table_names(connection)
        rows = sum(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables)
        with open(temporary, "wb", buffering=_WRITE_BYTES, opener=_private) as file:
            file.write(_line({"sequence": sequence, "rows": rows, "schema": self._schema}))
            for table in tables:
                for row in connection.execute(f"SELECT * FROM {table}"):
                    file.write(_line([table, [_plain(value) for value in row]]))
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)  # before the journal forgets what only it had
        finally:
            os.close(directory)
        os.ftruncate(self._fd, 0)
        self._bytes, self.stale = 0, False
        self._limit_bytes = max(_MIN_COMPACT_BYTES, 2 * _size(path))

    def close(self) -> None:
        os.close(self._fd)


class SecondCopy:
    """What was read of it, in a database in memory.

    sequence: of its last change, 0 if there is none. problems: what is missing or damaged, in words; none: it is whole.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.exists = False
        self.sequence = 0
        self.problems: list[str] = []


def read_second_copy(directory: str, schema: str, version: int) -> SecondCopy:
    """Reads what is there of the second copy; schema: the statements that make the tables. Never raises for damage."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(schema)
    copy = SecondCopy(connection)
    connection.execute("BEGIN")
    head = _read_snapshot(f"{directory}/snapshot", copy, version)
    _read_journal(f"{directory}/journal", copy, whole=head)
    connection.execute("COMMIT")
    return copy


def table_names(connection: sqlite3.Connection) -> list[str]:
    """The tables that hold records."""
    return [name for (name,) in connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name <> 'changes' AND name NOT LIKE 'sqlite_%' ORDER BY name"
    )]  # fmt: skip


def _read_snapshot(path: str, copy: SecondCopy, version: int) -> bool:
    """Whether its head could be read."""
    lines = _documents(path, copy)
    head = next(lines, None)
    if not isinstance(head, dict):
        if copy.exists or os.path.exists(f"{os.path.dirname(path)}/journal"):
            copy.problems.append(f"{path} has no head")
        rows = [head] if isinstance(head, list) else []
        expected = -1
    else:
        rows, expected = [], head["rows"]
        copy.sequence = head["sequence"]
        if head["schema"] != version:
            copy.problems.append(f"{path} is of schema {head['schema']}")
    found = 0
    for row in itertools.chain(rows, lines):
        table, values = row
        marks = ", ".join("?" * len(values))
        found += _apply(copy, f"INSERT OR REPLACE INTO {table} VALUES ({marks})", values)
    if found != expected >= 0:
        copy.problems.append(f"{path} has {found} of {expected} rows")
    return expected >= 0


def _read_journal(path: str, copy: SecondCopy, *, whole: bool) -> None:
    expected = copy.sequence + 1
    for sequence, statements in _documents(path, copy):
        if sequence < expected:
            continue
        if sequence != expected and whole:
            copy.problems.append(f"{path} lacks the changes {expected} to {sequence - 1}")
        for text, values in statements:
            _apply(copy, text, values)
        copy.sequence = sequence
        expected = sequence + 1


def _apply(copy: SecondCopy, text: str, values: list) -> bool:
    try:
        copy.connection.execute(text, [_value(value) for value in values])
        return True
    except sqlite3.Error as error:
        copy.problems.append(f"{text}: {error}")
        return False


def _documents(path: str, copy: SecondCopy) -> Iterator:
    """The document of every line that is sound; of the others there is a note."""
    try:
        file = open(path, "rb")
    except FileNotFoundError:
        return
    with file:
        for number, line in enumerate(file, 1):
            copy.exists = True
            if not line.endswith(b"\n") or b"%08x" % zlib.crc32(memoryview(line)[9:-1]) != line[:8]:
                copy.problems.append(f"{path} is damaged in line {number}")
                continue
            yield json.loads(line[9:])


def _line(document: object) -> bytes:
    data = json.dumps(document).encode()
    return b"%08x %s\n" % (zlib.crc32(data), data)


def _plain(value: object) -> object:
    """Bytes are no JSON."""
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _value(plain: object) -> object:
    return base64.b64decode(plain["base64"]) if isinstance(plain, dict) else plain


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
