"""What has been built before: cache keys and the layers that they led to, in a small database of its own.

    DATA_ROOT/build/cache.db    losing it loses time and nothing else
    DATA_ROOT/build/mounts/     the directories of `RUN --mount=type=cache`

A record names a layer by its chain id; the image store keeps the layers that are named here, with all below them, for as long as they are.
What has been used least recently goes first. That something was used is written down by `flush`, after a build: an engine that is killed before
forgets no more than that.
"""

import contextlib
import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    key TEXT PRIMARY KEY, chain TEXT NOT NULL, parent TEXT NOT NULL, description TEXT NOT NULL, kind TEXT NOT NULL,
    created_ns INTEGER NOT NULL, used_ns INTEGER NOT NULL, uses INTEGER NOT NULL, inputs TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS slots (slot TEXT PRIMARY KEY, inputs TEXT NOT NULL, used_ns INTEGER NOT NULL);
"""
_ALL = "SELECT key, chain, parent, description, kind, created_ns, used_ns, uses FROM records"
_MOST_SLOTS = 20_000


@dataclass(slots=True)
class Record:
    """A result. chain: of the layers after the step; parent: of those before it."""

    key: str
    chain: str
    parent: str
    description: str
    kind: str
    created_ns: int
    used_ns: int
    uses: int


def key_of(definition: Mapping[str, Any], inputs: Iterable[str]) -> str:
    """The cache key of an operation on inputs that are known by digests."""
    text = json.dumps([definition, list(inputs)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


class Cache:
    """The records of one data root. Any thread may use it."""

    def __init__(self, directory: str) -> None:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        self._path = f"{directory}/cache.db"
        self._lock = threading.RLock()
        self._database = self._open()
        self._records = {row[0]: Record(*row) for row in self._database.execute(_ALL)}
        self._used: set[str] = set()  # keys of what was found since `flush`

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except sqlite3.DatabaseError:  # damaged, or an earlier version's: what it knew is built again
            for suffix in ("", "-wal", "-shm"):
                if os.path.exists(self._path + suffix):
                    os.unlink(self._path + suffix)
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        found = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
        try:
            found.execute("PRAGMA journal_mode = WAL")
            found.execute("PRAGMA synchronous = OFF")
            found.executescript(_SCHEMA)
            found.execute(_ALL).fetchall()
            found.execute("SELECT slot, inputs, used_ns FROM slots LIMIT 1").fetchone()
        except BaseException:
            found.close()
            raise
        return found

    def close(self) -> None:
        with self._lock:
            self.flush()
            self._database.close()

    def flush(self) -> None:
        """Writes down what has been used."""
        with self._lock, contextlib.suppress(sqlite3.Error):
            found = [self._records[key] for key in self._used if key in self._records]
            self._used.clear()
            if not found:
                return
            self._database.execute("BEGIN")
            try:
                self._database.executemany(
                    "UPDATE records SET used_ns = ?, uses = ? WHERE key = ?", [(each.used_ns, each.uses, each.key) for each in found]
                )
            finally:
                self._database.execute("COMMIT")

    def _write(self, statement: str, values: tuple[Any, ...]) -> None:
        """What cannot be written is known for as long as the engine runs: a full disk fails no build here."""
        with contextlib.suppress(sqlite3.Error):
            self._database.execute(statement, values)

    # -- results --------------------------------------------------------------------------------------

    def find(self, key: str) -> Record | None:
        """The record of a key, which is used by that."""
        with self._lock:
            record = self._records.get(key)
            if record:
                record.used_ns, record.uses = time.time_ns(), record.uses + 1
                self._used.add(key)
        return record

    def put(self, key: str, chain: str, parent: str, description: str, kind: str, created_ns: int = 0) -> Record:
        """Remembers a result; a later one takes the place of an earlier one."""
        now_ns = time.time_ns()
        record = Record(key, chain, parent, description, kind, created_ns or now_ns, now_ns, 0)
        with self._lock:
            self._records[key] = record
            self._write(
                "INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, '')",
                (key, chain, parent, description, kind, record.created_ns, now_ns, 0),
            )
        return record

    def drop(self, keys: Iterable[str]) -> None:
        with self._lock:
            for key in keys:
                self._records.pop(key, None)
                self._write("DELETE FROM records WHERE key = ?", (key,))

    def all(self) -> list[Record]:
        """Least recently used first."""
        with self._lock:
            return sorted(self._records.values(), key=lambda record: record.used_ns)

    def chains(self) -> set[str]:
        """The layers that records name."""
        with self._lock:
            return {record.chain for record in self._records.values()} | {record.parent for record in self._records.values()}

    # -- why a step was not found ------------------------------------------------------------------------

    def inputs_before(self, slot: str) -> dict[str, Any] | None:
        """What the same step of an earlier build depended on; None if there was none."""
        with self._lock:
            row = self._database.execute("SELECT inputs FROM slots WHERE slot = ?", (slot,)).fetchone()
        try:
            found = json.loads(row[0]) if row else None
        except ValueError:
            return None
        return found if isinstance(found, dict) else None

    def note_inputs(self, slots: Mapping[str, Mapping[str, Any]]) -> None:
        """What the steps of a build have depended on."""
        if not slots:
            return
        now_ns = time.time_ns()
        rows = [(slot, json.dumps(inputs), now_ns) for slot, inputs in slots.items()]
        with self._lock, contextlib.suppress(sqlite3.Error):
            self._database.execute("BEGIN")
            try:
                self._database.executemany("INSERT OR REPLACE INTO slots VALUES (?, ?, ?)", rows)
                self._database.execute(
                    "DELETE FROM slots WHERE slot NOT IN (SELECT slot FROM slots ORDER BY used_ns DESC LIMIT ?)", (_MOST_SLOTS,)
                )
            finally:
                self._database.execute("COMMIT")
