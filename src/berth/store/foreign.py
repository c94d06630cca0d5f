"""Layers that must not be handed on: a registry names addresses for them and need not have them. A push names the same and sends nothing.

Noted before such a layer gets its name, so that a killed engine leaves none that is taken for an ordinary one.
"""

import json
import threading
from collections.abc import Iterable

from berth.store.database import Database


class Foreign:
    """The blob as it came: digest, size_bytes, media_type and urls are those of its descriptor."""

    __slots__ = ("diff", "digest", "media_type", "size_bytes", "urls")

    def __init__(self, diff: str, digest: str, size_bytes: int, media_type: str, urls: list[str]) -> None:
        self.diff = diff
        self.digest = digest
        self.size_bytes = size_bytes
        self.media_type = media_type
        self.urls = urls


class ForeignLayers:
    """Those of one store, by diff id."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._known = {
            row[0]: Foreign(row[0], row[1], row[2], row[3], json.loads(row[4]))
            for row in database.read("SELECT diff, digest, size_bytes, media_type, urls FROM foreign_layers")
        }

    def of(self, diff: str) -> Foreign | None:
        """None for an ordinary layer."""
        return self._known.get(diff)

    def keep(self, layer: Foreign) -> None:
        """Durable when it returns."""
        with self._lock:
            values = (layer.diff, layer.digest, layer.size_bytes, layer.media_type, json.dumps(layer.urls))
            self._database.write_now(("INSERT OR REPLACE INTO foreign_layers VALUES (?, ?, ?, ?, ?)", values))
            self._known[layer.diff] = layer

    def keep_only(self, diffs: Iterable[str]) -> None:
        """Those of layers that are not here any more go."""
        with self._lock:
            gone = set(self._known) - set(diffs)
            if gone:
                self._database.write_now(*(("DELETE FROM foreign_layers WHERE diff = ?", (diff,)) for diff in gone))
                for diff in gone:
                    del self._known[diff]
