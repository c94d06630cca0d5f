"""The garbage collector: mark what tags and manifests lead to, sweep the rest, while the registry serves.

What has been used within the time of grace stays: a client that was told a blob is here may name it in a manifest that
it pushes next. Before each removal its time is looked at again under the lock under which such answers are given.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial

from berth.errors import BerthError
from berth.registry import documents
from berth.registry.server.contents import Contents, blob_key, blob_link, manifest_link
from berth.registry.server.uploads import Uploads


class Report:
    """What a collection removed. links: blobs that a repository no longer has; blobs: bytes of which nobody has a link."""

    def __init__(self) -> None:
        self.uploads = self.manifests = self.links = self.blobs = self.freed_bytes = 0

    def count_link(self) -> None:
        self.links += 1

    def count_blob(self, size_bytes: int) -> None:
        self.blobs += 1
        self.freed_bytes += size_bytes

    def as_json(self) -> dict[str, int]:
        return dict(vars(self))


class Collector:
    """delete_untagged: also manifests that no tag leads to. dry_run (of `collect`): count, remove nothing."""

    def __init__(self, contents: Contents, uploads: Uploads, *, grace_s: float, delete_untagged: bool = False) -> None:
        self._contents = contents
        self._uploads = uploads
        self._grace_s = grace_s
        self._delete_untagged = delete_untagged

    def collect(self, *, dry_run: bool = False) -> Report:
        """Blocks; one at a time."""
        report = Report()
        if not dry_run:
            report.uploads = self._uploads.sweep(self._grace_s)
        used: set[str] = set()  # hex digests that some repository has, or may still want
        for name in list(self._repositories("repositories")):
            used |= self._repository(name, report, dry_run)
        self._sweep_blobs(used, report, dry_run)
        return report

    def _repositories(self, prefix: str) -> Iterator[str]:
        """All that have anything, manifests or not."""
        entries = self._contents.storage.children(prefix)
        if any(entry.name.startswith("_") for entry in entries):
            yield prefix.removeprefix("repositories/")
        for entry in entries:
            if entry.is_directory and not entry.name.startswith("_"):
                yield from self._repositories(f"{prefix}/{entry.name}")

    # -- a repository -----------------------------------------------------------------------------------

    def _repository(self, name: str, report: Report, dry_run: bool) -> set[str]:
        """Removes what it has no use for; returns the digests of what is left."""
        contents = self._contents
        if self._delete_untagged:
            self._sweep_manifests(name, report, dry_run)
        manifests = {entry.name for entry in contents.manifests(name)}
        used = set(manifests)
        for digest in manifests:
            used |= self._named_by(name, digest)
        for entry in contents.blobs(name):
            if entry.name in used:
                continue
            key = blob_link(name, _digest(entry.name))
            if self._sweep(key, report.count_link, dry_run):
                continue
            used.add(entry.name)
        return used

    def _sweep_manifests(self, name: str, report: Report, dry_run: bool) -> None:
        live = self._tagged(name)
        for entry in self._contents.manifests(name):
            if entry.name in live or entry.modified_s > self._deadline_s():
                continue
            digest = _digest(entry.name)
            with self._contents.lock:  # a tag may have come to it meanwhile, or it may have been pushed again
                if entry.name in self._tagged(name) or not self._old(manifest_link(name, digest)):
                    continue
                report.manifests += 1
                if not dry_run:
                    self._contents.remove_manifest(name, digest)

    def _tagged(self, name: str) -> set[str]:
        """Manifests that tags lead to: through indexes, and from a subject to what refers to it."""
        contents = self._contents
        waiting = [digest.removeprefix("sha256:") for tag in contents.tags(name) if (digest := contents.resolve(name, tag))]
        live: set[str] = set()
        while waiting:
            digest = waiting.pop()
            if digest in live:
                continue
            live.add(digest)
            waiting += self._named_by(name, digest, manifests=True)
            waiting += [entry["digest"].removeprefix("sha256:") for entry in contents.referrers(name, _digest(digest))]
        return live

    def _named_by(self, name: str, digest: str, *, manifests: bool = False) -> set[str]:
        """What a manifest lists: its blobs, or the manifests of an index."""
        found = self._contents.manifest(name, _digest(digest))
        if found is None:
            return set()
        try:
            document = documents.parse(found.raw, found.media_type)
        except BerthError:
            return set()
        if manifests:
            return {one.digest.removeprefix("sha256:") for one in document.manifests}
        listed = [*document.layers, *document.manifests, *([document.config] if document.config else [])]
        return {one.digest.removeprefix("sha256:") for one in listed}

    # -- blobs ------------------------------------------------------------------------------------------

    def _sweep_blobs(self, used: set[str], report: Report, dry_run: bool) -> None:
        storage = self._contents.storage
        for part in storage.children("blobs"):
            for entry in storage.children(f"blobs/{part.name}"):
                if entry.name in used:
                    continue
                self._sweep(blob_key(_digest(entry.name)), partial(report.count_blob, entry.size_bytes), dry_run)

    def _sweep(self, key: str, count: Callable[[], None], dry_run: bool) -> bool:
        """Removes one thing unless it has been used lately."""
        with self._contents.lock:
            if not self._old(key):
                return False
            count()
            return dry_run or self._contents.storage.delete(key)

    def _old(self, key: str) -> bool:
        found = self._contents.storage.stat(key)
        return found is not None and found.modified_s <= self._deadline_s()

    def _deadline_s(self) -> float:
        return time.time() - self._grace_s


def _digest(name: str) -> str:
    return f"sha256:{name}"
