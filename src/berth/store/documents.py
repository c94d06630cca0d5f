"""Manifests and indexes that images came from a registry with, or went to one as: what `images --tree` shows of them.

Nothing needs them: an image whose document is not here is as good as any. They are kept after the image, go with it, and those of
uncommon size are not kept at all.
"""

import threading
from collections.abc import Container

from berth.store.database import Database

_MOST_BYTES = 1 << 18  # of a document; an index of a hundred platforms has 60 KiB


class Kept:
    """config: the digest of the configuration that a manifest names, which is an image's id; '' for an index."""

    __slots__ = ("config", "digest", "media_type", "size_bytes")

    def __init__(self, digest: str, media_type: str, config: str, size_bytes: int) -> None:
        self.digest = digest
        self.media_type = media_type
        self.config = config
        self.size_bytes = size_bytes


class Documents:
    """All of one data root. Any thread may call."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        rows = database.read("SELECT digest, media_type, config, length(raw) FROM documents")
        self._kept = {row[0]: Kept(*row) for row in rows}

    def keep(self, digest: str, media_type: str, raw: bytes, config: str = "") -> None:
        """raw: what has that digest, which was verified."""
        if len(raw) > _MOST_BYTES or digest in self._kept:
            return
        with self._lock:
            self._database.write_now(("INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?)", (digest, media_type, config, raw)))
            self._kept[digest] = Kept(digest, media_type, config, len(raw))

    def of(self, digest: str) -> Kept | None:
        return self._kept.get(digest)

    def read(self, digest: str) -> bytes:
        """The bytes of one that is kept; b'' where it has just gone. Blocks."""
        rows = self._database.read("SELECT raw FROM documents WHERE digest = ?", digest)
        return bytes(rows[0][0]) if rows else b""

    def drop_unused(self, digests: Container[str], images: Container[str]) -> None:
        """Removes those that neither a name's digest nor an image needs."""
        with self._lock:
            gone = [kept.digest for kept in self._kept.values() if kept.digest not in digests and kept.config not in images]
            if gone:
                self._database.write_now(*(("DELETE FROM documents WHERE digest = ?", (digest,)) for digest in gone))
            for digest in gone:
                del self._kept[digest]
