"""The index: which repositories there are, what they say of themselves, and how often they are pulled; for search and the page."""

import threading
from collections import OrderedDict
from collections.abc import Callable

from berth.errors import BerthError
from berth.registry.server.contents import Contents, blob_key, pulls_key
from berth.registry.server.summaries import Summary, summarize

_MOST_SUMMARIES = 4096
_MOST_RESULTS = 100
_MOST_LOOKED_AT = 20


class Index:
    """Descriptions are kept in memory, read at the start by `load`; pull counts are written by `save`."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._lock = threading.Lock()
        self._words: dict[str, str] = {}
        self._tags: dict[str, int] = {}
        self._pulls: dict[str, int] = {}
        self._unsaved: set[str] = set()
        self._summaries: OrderedDict[str, Summary] = OrderedDict()

    def load(self) -> None:
        """Blocks while it reads every repository's newest image."""
        for name in list(self._contents.names):
            self.update(name)

    def update(self, name: str) -> None:
        """After a push or a removal."""
        newest = sorted(self._contents.manifests(name), key=lambda entry: -entry.modified_s)[:_MOST_LOOKED_AT]
        if not newest:
            with self._lock:
                for table in (self._words, self._tags, self._pulls):
                    table.pop(name, None)
                self._unsaved.discard(name)
            return
        # Signatures and the like come after their image and say nothing of it.
        words = next((one.words for entry in newest if (one := self.summary(name, f"sha256:{entry.name}")) and one.words), "")
        tags = len(self._contents.tags(name))
        with self._lock:
            self._words[name], self._tags[name] = words, tags

    # -- pulls ----------------------------------------------------------------------------------------

    def pulled(self, name: str) -> None:
        self.pulls(name)
        with self._lock:
            self._pulls[name] += 1
            self._unsaved.add(name)

    def pulls(self, name: str) -> int:
        with self._lock:
            if name in self._pulls:
                return self._pulls[name]
        text = self._contents.storage.read(pulls_key(name)) or b"0"
        with self._lock:
            return self._pulls.setdefault(name, int(text) if text.isdigit() else 0)

    def save(self) -> None:
        """Writes the counts that have changed."""
        with self._lock:
            changed = {name: self._pulls[name] for name in self._unsaved if name in self._pulls}
            self._unsaved.clear()
        for name, count in changed.items():
            if name in self._contents.names:
                self._contents.storage.write(pulls_key(name), str(count).encode())

    # -- looking --------------------------------------------------------------------------------------

    def words(self, name: str) -> str:
        return self._words.get(name, "")

    def tags(self, name: str) -> int:
        """How many there are."""
        return self._tags.get(name, 0)

    def summary(self, name: str, digest: str) -> Summary | None:
        """Of a manifest of this repository; None if it is not there or cannot be read."""
        with self._lock:
            if digest in self._summaries:
                self._summaries.move_to_end(digest)
                return self._summaries[digest]
        manifest = self._contents.manifest(name, digest)
        if manifest is None:
            return None
        try:
            found = summarize(manifest.raw, manifest.media_type, self._read)
        except BerthError:
            return None
        with self._lock:
            self._summaries[digest] = found
            while len(self._summaries) > _MOST_SUMMARIES:
                self._summaries.popitem(last=False)
        return found

    def _read(self, digest: str, most_bytes: int) -> bytes | None:
        found = self._contents.storage.stat(blob_key(digest))
        return self._contents.storage.read(blob_key(digest)) if found and found.size_bytes <= most_bytes else None

    def search(self, term: str, limit: int, seen: Callable[[str], bool]) -> list[dict]:
        """Docker's entries for the repositories whose name or description has every word of `term`; the best first.

        seen: whether a repository is for whoever asks.
        """
        words = term.lower().split()
        found = []
        for name in list(self._contents.names):
            description = self.words(name)
            text = f"{name} {description}".lower()
            if all(word in text for word in words) and seen(name):
                found.append((_rank(name, words), -self.pulls(name), name, description))
        return [
            {"name": name, "description": description, "star_count": -pulls, "is_official": False, "is_automated": False, "is_trusted": False}
            for _, pulls, name, description in sorted(found)[: max(1, min(limit, _MOST_RESULTS))]
        ]


def _rank(name: str, words: list[str]) -> int:
    """0 for the very name, 1 for one that begins so, 2 where the name has it, 3 where only the description does."""
    last = name.rpartition("/")[2]
    if len(words) == 1 and words[0] in (name, last):
        return 0
    if words and (name.startswith(words[0]) or last.startswith(words[0])):
        return 1
    return 2 if all(word in name for word in words) else 3
