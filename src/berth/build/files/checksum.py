"""What a COPY would bring, as one digest: names, kinds, modes, contents; not times."""

import hashlib
import os
import sqlite3
import stat
import struct
import threading
import time
from collections.abc import Sequence

from berth.build.files.places import changed
from berth.build.files.selection import Selected
from berth.build.files.sources import Sources, same
from berth.errors import Cancelled

_READ_BYTES = 1 << 20
_MOST_IN_MEMORY = 200_000
_MOST_ON_DISK = 2_000_000
_ASK_AT_ONCE = 500
# The kernel stamps files by a clock that ticks this seldom: what changed within one tick cannot be told from what did not.
_TICK_NS = 20_000_000
_Key = tuple[int, int]  # device, inode
_Stamp = tuple[int, int, int]  # size, mtime, ctime
_HEAD = struct.Struct("!IIIIIB")  # lengths of name and content, mode, owner, whether it was named
_CAPABILITY = "security.capability"


class ChecksumCache:
    """Digests of files that have not changed since, by device and inode. Any thread may use it.

    path: of a SQLite file that outlives the engine; '' keeps them in memory. A file that is damaged is made anew.
    """

    def __init__(self, path: str = "") -> None:
        self._known: dict[_Key, tuple[_Stamp, bytes]] = {}
        self._fresh: dict[_Key, tuple[_Stamp, bytes]] = {}
        self._lock = threading.Lock()
        self._database = _open_database(path) if path else None

    def close(self) -> None:
        self.flush()
        if self._database:
            self._database.close()
            self._database = None

    def load(self, keys: Sequence[_Key]) -> None:
        """Looks many up at once; `get` finds them then."""
        with self._lock:
            if self._database is None:
                return
            if len(self._known) > _MOST_IN_MEMORY:
                self._known.clear()
            missing = [key for key in keys if key not in self._known]
            by_device: dict[int, list[int]] = {}
            for device, inode in missing:
                by_device.setdefault(device, []).append(inode)
            try:
                for device, inodes in by_device.items():
                    for start in range(0, len(inodes), _ASK_AT_ONCE):
                        self._load(device, inodes[start : start + _ASK_AT_ONCE])
            except sqlite3.Error:
                pass  # no cache is slower and nothing else

    def _load(self, device: int, inodes: list[int]) -> None:
        assert self._database
        marks = ",".join("?" * len(inodes))
        rows = self._database.execute(
            f"SELECT inode, size, mtime, ctime, digest FROM files WHERE device = ? AND inode IN ({marks})",
            [_signed(device), *map(_signed, inodes)],
        )
        for inode, size, mtime, ctime, digest in rows:
            self._known[device, inode & (1 << 64) - 1] = (size, mtime, ctime), digest

    def get(self, status: os.stat_result) -> bytes | None:
        found = self._known.get((status.st_dev, status.st_ino))
        return found[1] if found and found[0] == (status.st_size, status.st_mtime_ns, status.st_ctime_ns) else None

    def put(self, status: os.stat_result, digest: bytes) -> None:
        """Not of a file that was changed just now: once more within the same tick would not show."""
        if time.time_ns() - status.st_ctime_ns < _TICK_NS:
            return
        with self._lock:
            entry = self._put(status, digest)
            if self._database:
                self._fresh[status.st_dev, status.st_ino] = entry

    def put_new(self, status: os.stat_result, digest: bytes) -> None:
        """Of a file that the caller wrote and nobody else can change; it is of no use to another engine, and soon gone."""
        with self._lock:
            self._put(status, digest)

    def _put(self, status: os.stat_result, digest: bytes) -> tuple[_Stamp, bytes]:
        if len(self._known) > _MOST_IN_MEMORY:
            self._known.clear()
        entry = (status.st_size, status.st_mtime_ns, status.st_ctime_ns), digest
        self._known[status.st_dev, status.st_ino] = entry
        return entry

    def flush(self) -> None:
        """Writes what is new to the file."""
        with self._lock:
            if not self._database or not self._fresh:
                return
            rows = [(_signed(key[0]), _signed(key[1]), *stamp, digest) for key, (stamp, digest) in self._fresh.items()]
            self._fresh = {}
            try:
                with self._database:
                    self._database.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)", rows)
                    (count,) = self._database.execute("SELECT count(*) FROM files").fetchone()
                    if count > _MOST_ON_DISK:
                        self._database.execute("DELETE FROM files")
            except sqlite3.Error:
                pass


def _signed(value: int) -> int:
    """SQLite's integers have a sign."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _open_database(path: str) -> sqlite3.Connection | None:
    for _ in range(2):
        database = sqlite3.connect(path, check_same_thread=False, timeout=5)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = OFF")  # what a loss of power takes is computed again
            database.execute(
                "CREATE TABLE IF NOT EXISTS files (device INTEGER, inode INTEGER, size INTEGER, mtime INTEGER, ctime INTEGER, digest BLOB, "
                "PRIMARY KEY (device, inode)) WITHOUT ROWID"
            )
            database.execute("SELECT count(*) FROM files").fetchone()
            return database
        except sqlite3.Error:
            database.close()
            for name in (path, f"{path}-wal", f"{path}-shm"):
                if os.path.exists(name):
                    os.unlink(name)
    return None


def content_digest(
    root_fd: int, selected: Sequence[Selected], cache: ChecksumCache | None = None, *, with_owner: bool = False, stop: threading.Event | None = None
) -> str:
    """`sha256:...` over what a COPY of the selection brings. stop: ends it, Cancelled."""
    stop = stop or threading.Event()
    with Sources(root_fd) as sources:
        statuses = [sources.status(item.path) for item in selected]
        if cache:
            cache.load([(status.st_dev, status.st_ino) for status in statuses if stat.S_ISREG(status.st_mode)])
        hashing = hashlib.sha256()
        for item, status in zip(selected, statuses, strict=True):
            mode = status.st_mode
            name = os.fsencode(item.target)
            content = (cache and cache.get(status)) or _content(sources, item.path, status, cache, stop)
            owner = (status.st_uid, status.st_gid) if with_owner and item.target else (0, 0)
            # Nobody sees the permissions of a link, and the destination's are not those of the directory whose contents it gets.
            shown_mode = mode if item.target and not stat.S_ISLNK(mode) else stat.S_IFMT(mode)
            hashing.update(_HEAD.pack(len(name), len(content), shown_mode, *owner, item.named) + name + content)
    if cache:
        cache.flush()
    return f"sha256:{hashing.hexdigest()}"


def _content(sources: Sources, path: str, status: os.stat_result, cache: ChecksumCache | None, stop: threading.Event) -> bytes:
    mode = status.st_mode
    if stat.S_ISREG(mode):
        return _file_digest(sources, path, status, cache, stop)
    if stat.S_ISLNK(mode):
        return os.fsencode(sources.link(path))
    return b"" if stat.S_ISDIR(mode) else struct.pack("!Q", status.st_rdev)


def _file_digest(sources: Sources, path: str, status: os.stat_result, cache: ChecksumCache | None, stop: threading.Event) -> bytes:
    """Of the content and of what the file may do (security.capability)."""
    fd = sources.open_file(path)
    try:
        hashing = hashlib.sha256()
        while data := os.read(fd, _READ_BYTES):
            if stop.is_set():
                raise Cancelled("the digest is not wanted any more")
            hashing.update(data)
        try:
            capability = os.getxattr(fd, _CAPABILITY)
        except OSError:
            capability = b""
        if not same(status, os.fstat(fd)):
            raise changed(path)
        digest = hashlib.sha256(hashing.digest() + capability).digest() if capability else hashing.digest()
        if cache:
            cache.put(status, digest)
        return digest
    finally:
        os.close(fd)
