"""What a registry holds, as keys of a storage:

    blobs/AB/ABCD…                              bytes of a blob or manifest, by sha256
    repositories/NAME/_blobs/ABCD…              empty: the repository has this blob
    repositories/NAME/_manifests/ABCD…          its media type
    repositories/NAME/_tags/TAG                 a digest
    repositories/NAME/_pulls                    how often it was pulled
    repositories/NAME/_referrers/SUBJECT/ABCD…  the descriptor of a manifest with this subject, as JSON

No part of a repository's name may start with `_`, so these never meet. A link is written after what it links to and
removed before it; what no link leads to is for the collector (collect.py). `lock` is held while links are decided on.
"""

import json
import threading
import time

from berth.registry.server.manifests import Pushed
from berth.registry.server.refusals import Refused
from berth.registry.server.storage import Content, Entry, Storage


class Manifest:
    """A manifest as it was pushed."""

    __slots__ = ("digest", "media_type", "raw")

    def __init__(self, digest: str, media_type: str, raw: bytes) -> None:
        self.digest, self.media_type, self.raw = digest, media_type, raw


class Contents:
    """Digests are `sha256:…` and checked, names too; every method may block."""

    def __init__(self, storage: Storage, *, grace_s: float = 3600.0) -> None:
        """grace_s: how long the collector spares what has been used."""
        self.storage = storage
        self._touch_after_s = min(60.0, grace_s / 10)
        self.lock = threading.RLock()
        self.names: set[str] = set()  # repositories with manifests
        self._find_names("repositories")

    def _find_names(self, prefix: str) -> None:
        for entry in self.storage.children(prefix):
            if entry.name == "_manifests":
                self.names.add(prefix.removeprefix("repositories/"))
            elif entry.is_directory and not entry.name.startswith("_"):
                self._find_names(f"{prefix}/{entry.name}")

    # -- blobs ----------------------------------------------------------------------------------------

    def blob(self, name: str, digest: str) -> Entry | None:
        """The blob, if this repository has it. Whoever was told so may count on it for the collector's time of grace."""
        with self.lock:
            link = self.storage.stat(blob_link(name, digest))
            found = self.storage.stat(blob_key(digest)) if link else None
            if link and found:
                self._keep(link, blob_link(name, digest))
                self._keep(found, blob_key(digest))
            return found

    def _keep(self, entry: Entry, key: str) -> None:
        if entry.modified_s < time.time() - self._touch_after_s:
            self.storage.touch(key)

    def open_blob(self, name: str, digest: str) -> Content | None:
        """Its bytes, if this repository has it."""
        if not self.storage.stat(blob_link(name, digest)):
            return None
        return self.storage.open(blob_key(digest))

    def add_blob(self, name: str, digest: str, path: str) -> None:
        """Takes over a local file, whose digest has been compared."""
        with self.lock:
            found = self.storage.stat(blob_key(digest))
            if found:
                self._keep(found, blob_key(digest))
        if not found:
            self.storage.adopt(path, blob_key(digest))
        with self.lock:  # or the collector, which has just seen an old link here, removes this one
            self.storage.write(blob_link(name, digest), b"")

    def mount(self, name: str, digest: str, source: str) -> bool:
        """Gives the repository a blob of another one; False if that has none."""
        with self.lock:
            if not self.blob(source, digest):
                return False
            self.storage.write(blob_link(name, digest), b"")
            return True

    def remove_blob(self, name: str, digest: str) -> bool:
        return self.storage.delete(blob_link(name, digest))

    # -- manifests ------------------------------------------------------------------------------------

    def resolve(self, name: str, tag: str) -> str:
        """The digest of a tag, or ''."""
        return (self.storage.read(f"{_repository(name)}/_tags/{tag}") or b"").decode()

    def manifest(self, name: str, digest: str) -> Manifest | None:
        media_type = self.storage.read(manifest_link(name, digest))
        raw = self.storage.read(blob_key(digest)) if media_type is not None else None
        return Manifest(digest, (media_type or b"").decode(), raw) if raw is not None else None

    def put_manifest(self, name: str, tag: str, pushed: Pushed, *, checked: bool = True) -> None:
        """Keeps a manifest, under a tag unless that is ''. checked: what it lists must be there; a cache has it later."""
        document = pushed.document
        with self.lock:
            if checked:
                self._check(name, pushed)
            found = self.storage.stat(blob_key(document.digest))
            if found:
                self._keep(found, blob_key(document.digest))
            else:
                self.storage.write(blob_key(document.digest), document.raw)
            self.storage.write(manifest_link(name, document.digest), pushed.media_type.encode())
            if document.subject:
                key = f"{_repository(name)}/_referrers/{_hex(document.subject.digest)}/{_hex(document.digest)}"
                self.storage.write(key, json.dumps(pushed.as_referrer()).encode())
            if tag:
                self.storage.write(f"{_repository(name)}/_tags/{tag}", document.digest.encode())
            self.names.add(name)

    def _check(self, name: str, pushed: Pushed) -> None:
        missing = []
        for descriptor in pushed.blobs:
            found = self.blob(name, descriptor.digest)
            if not found:
                missing.append(descriptor.digest)
            elif found.size_bytes != descriptor.size_bytes:
                raise Refused(
                    "SIZE_INVALID",
                    f"the manifest gives blob {descriptor.digest} {descriptor.size_bytes} bytes; it has {found.size_bytes}",
                )
        missing += [one.digest for one in pushed.manifests if not self.storage.stat(manifest_link(name, one.digest))]
        if missing:
            raise Refused(
                "MANIFEST_BLOB_UNKNOWN", f"the manifest lists what {name} does not have: {', '.join(missing[:3])}; push that first",
                detail={"digests": missing[:100]},
            )  # fmt: skip

    def remove_tag(self, name: str, tag: str) -> bool:
        return self.storage.delete(f"{_repository(name)}/_tags/{tag}")

    def remove_manifest(self, name: str, digest: str) -> bool:
        """Removes a manifest, and the tags that name it."""
        with self.lock:
            found = self.manifest(name, digest)
            if not found:
                return False
            for tag in self.tags(name):
                if self.resolve(name, tag) == digest:
                    self.remove_tag(name, tag)
            subject = (json.loads(found.raw).get("subject") or {}).get("digest")
            if isinstance(subject, str):
                self.storage.delete(f"{_repository(name)}/_referrers/{_hex(subject)}/{_hex(digest)}")
            self.storage.delete(manifest_link(name, digest))
            if not self.storage.children(f"{_repository(name)}/_manifests"):
                self.names.discard(name)
                self.storage.delete(pulls_key(name))
            return True

    # -- lists ----------------------------------------------------------------------------------------

    def tags(self, name: str) -> list[str]:
        return [entry.name for entry in self.storage.children(f"{_repository(name)}/_tags")]

    def manifests(self, name: str) -> list[Entry]:
        """Links, named by the digest's hex digits; modified when they were pushed."""
        return self.storage.children(f"{_repository(name)}/_manifests")

    def blobs(self, name: str) -> list[Entry]:
        return self.storage.children(f"{_repository(name)}/_blobs")

    def referrers(self, name: str, digest: str) -> list[dict]:
        """Descriptors of the manifests whose subject this is."""
        prefix = f"{_repository(name)}/_referrers/{_hex(digest)}"
        texts = [self.storage.read(f"{prefix}/{entry.name}") for entry in self.storage.children(prefix)]
        return [json.loads(text) for text in texts if text]


def blob_key(digest: str) -> str:
    return f"blobs/{_hex(digest)[:2]}/{_hex(digest)}"


def blob_link(name: str, digest: str) -> str:
    return f"{_repository(name)}/_blobs/{_hex(digest)}"


def manifest_link(name: str, digest: str) -> str:
    return f"{_repository(name)}/_manifests/{_hex(digest)}"


def pulls_key(name: str) -> str:
    """Where the index counts pulls."""
    return f"{_repository(name)}/_pulls"


def _repository(name: str) -> str:
    return f"repositories/{name}"


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")
