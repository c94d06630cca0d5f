"""Reads image archives, what `docker save` and OCI tools write: docker-archive (`manifest.json`) or OCI layout (`index.json`).

Nothing is written down to be read again: layers are unpacked while the archive goes by.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from typing import IO, TypeVar

from berth.errors import BerthError, DataLoss, InvalidParameter, NotImplementedHere
from berth.store.compression import ExactReader, is_compressed, open_stream, prepended
from berth.store.layers import LayerStore, Loose
from berth.store.tar import HARD_LINK, SYMLINK, read_entries, skip_padding

_MAX_JSON_BYTES = 8 << 20
_MAX_DOCUMENT_BYTES = 64 << 20
_MAX_MEMBERS = 100_000
_MAX_LINK_DEPTH = 8
_COPY_BYTES = 1 << 20
_BLOCK = 512
_INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_Json = TypeVar("_Json", list, dict)


class Member:
    """A file of the archive: a small document, or a layer unpacked as it went by, or neither. digest: of its bytes."""

    __slots__ = ("_error", "_loose", "data", "digest", "size_bytes")

    def __init__(self, size_bytes: int, digest: str, *, data: bytes | None = None, loose: Loose | None = None, error: BerthError | None = None) -> None:
        self.size_bytes = size_bytes
        self.digest = digest
        self.data = data
        self._loose = loose
        self._error = error

    def layer(self) -> Loose:
        """What an image means that has it for a layer. Raises what went wrong with it."""
        if self._error:
            raise self._error
        if self._loose is None:
            raise DataLoss(f"the archive has {self.digest} as a layer, which is no tar")
        return self._loose

    def drop(self, layers: LayerStore) -> None:
        if self._loose:
            layers.drop(self._loose)


class ArchivedImage:
    """config: bytes of the image's configuration; layers: bottom first; names: references to tag."""

    __slots__ = ("config", "layers", "names")

    def __init__(self, config: bytes, layers: list[Member], names: list[str]) -> None:
        self.config = config
        self.layers = layers
        self.names = names


class _Bounded:
    """One member's bytes as a stream, hashed unless somebody else does that."""

    def __init__(self, reader: ExactReader, size_bytes: int) -> None:
        self._reader = reader
        self._left = size_bytes
        self.hasher = hashlib.sha256()
        self.hashes = True

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            size = self._left
        data = self._reader.read_exactly(min(size, self._left, _COPY_BYTES)) if size and self._left else b""
        self._left -= len(data)
        if self.hashes:
            self.hasher.update(data)
        return data

    def drain(self) -> None:
        while self.read(_COPY_BYTES):
            pass


class Archive:
    """An archive being read. Members are in any order and name each other, so what may be a layer is unpacked at once,
    under no name; `close` removes what no image took."""

    def __init__(self, layers: LayerStore) -> None:
        self._layers = layers
        self._members: dict[str, Member] = {}
        self._links: dict[str, str] = {}
        self._document_bytes = 0

    def read(self, stream: IO[bytes]) -> None:
        """Every member of the (possibly compressed) archive."""
        reader = ExactReader(open_stream(stream))
        for entry in read_entries(reader):
            name = _clean(entry.name)
            if entry.is_file:
                if name in self._members:
                    self._members[name].drop(self._layers)
                self._members[name] = self._read_member(reader, entry.size_bytes)
                skip_padding(reader, entry.size_bytes)
            elif entry.kind == SYMLINK:
                self._links[name] = _clean(os.path.join(os.path.dirname(name), entry.link))
            elif entry.kind == HARD_LINK:
                self._links[name] = _clean(entry.link)
            if len(self._members) + len(self._links) > _MAX_MEMBERS:
                raise InvalidParameter(f"the archive has more than {_MAX_MEMBERS} files: it is no image's")
        while reader.read_some(_COPY_BYTES):
            pass

    def _read_member(self, reader: ExactReader, size: int) -> Member:
        bounded = _Bounded(reader, size)
        head = bounded.read(min(size, _BLOCK))
        stream = prepended(head, bounded)
        if head[:1] in (b"{", b"[", b"") or (size < 2 * _BLOCK and not is_compressed(head)):
            return self._read_document(stream, bounded, size)
        try:
            loose = self._unpack(head, stream, bounded)
        except (DataLoss, InvalidParameter, NotImplementedHere) as error:
            bounded.drain()
            return Member(size, _hex(bounded), error=error)
        bounded.drain()
        return Member(size, _hex(bounded), loose=loose)

    def _unpack(self, head: bytes, stream: IO[bytes], bounded: _Bounded) -> Loose:
        """What is not compressed has one digest, as a member and as a layer: it is taken once."""
        if is_compressed(head):
            return self._layers.unpack(open_stream(stream))
        bounded.hasher, bounded.hashes = hashlib.sha256(), False
        try:
            return self._layers.unpack(stream, bounded.hasher)
        finally:
            bounded.hashes = True

    def _read_document(self, stream: IO[bytes], bounded: _Bounded, size: int) -> Member:
        data = None
        if size <= _MAX_JSON_BYTES:
            self._document_bytes += size
            if self._document_bytes > _MAX_DOCUMENT_BYTES:
                raise InvalidParameter(f"the archive has more than {_MAX_DOCUMENT_BYTES} bytes of documents: it is no image's")
            data = b"".join(iter(lambda: stream.read(_COPY_BYTES), b""))
        bounded.drain()
        return Member(size, _hex(bounded), data=data)

    def close(self) -> None:
        """What was taken has another name by now and stays."""
        for member in self._members.values():
            member.drop(self._layers)

    def images(self) -> list[ArchivedImage]:
        """What the archive holds. DataLoss where a digest is wrong, InvalidParameter where it is no image archive."""
        if "manifest.json" in self._members:
            return [self._docker_image(item) for item in self._json("manifest.json", list)]
        if "index.json" in self._members:
            return list(self._oci_images(self._json("index.json", dict), []))
        raise InvalidParameter(
            "the archive has neither manifest.json (docker save) nor index.json (OCI layout) in it; "
            "use import for the archive of a file system"
        )

    def _member(self, name: str) -> Member:
        for _ in range(_MAX_LINK_DEPTH):
            if name in self._members:
                return self._members[name]
            if name not in self._links:
                raise DataLoss(f"the archive names {name!r} and does not hold it")
            name = self._links[name]
        raise DataLoss(f"the archive's links from {name!r} lead in a circle")

    def _bytes(self, name: str) -> bytes:
        member = self._member(name)
        if member.data is None:
            raise DataLoss(f"{name!r} in the archive has {member.size_bytes} bytes; it should be a small document")
        return member.data

    def _json(self, name: str, kind: type[_Json]) -> _Json:
        return _parse(self._bytes(name), name, kind)

    def _docker_image(self, item: dict) -> ArchivedImage:
        config, layers = item.get("Config"), item.get("Layers")
        if not isinstance(config, str) or not isinstance(layers, list):
            raise InvalidParameter("manifest.json in the archive has an entry without Config and Layers")
        data = self._bytes(_clean(config))
        if config.startswith("blobs/sha256/"):
            _verify(data, f"sha256:{os.path.basename(config)}")
        return ArchivedImage(data, [self._member(_clean(name)) for name in layers], list(item.get("RepoTags") or []))

    def _oci_images(self, index: dict, seen: list[str]) -> Iterator[ArchivedImage]:
        for descriptor in index.get("manifests") or []:
            digest = descriptor.get("digest", "")
            if digest in seen:
                raise DataLoss(f"the archive's index {digest} contains itself")
            data = self._blob(digest)
            document = _parse(data, digest, dict)
            kind = descriptor.get("mediaType") or document.get("mediaType")
            if kind in _INDEX_TYPES:
                yield from self._oci_images(document, [*seen, digest])
                continue
            if "config" not in document or "unknown" in str((descriptor.get("platform") or {}).get("os", "")):
                continue  # an attestation, not an image
            config = self._blob(document["config"]["digest"])
            layers = []
            for layer in document.get("layers") or []:
                member = self._member(_blob_name(layer.get("digest", "")))
                if member.digest != layer["digest"]:
                    raise DataLoss(f"layer {layer['digest']} in the archive has digest {member.digest}")
                layers.append(member)
            annotations = descriptor.get("annotations") or {}
            name = annotations.get("io.containerd.image.name") or annotations.get("org.opencontainers.image.ref.name")
            yield ArchivedImage(config, layers, [name] if name and ("/" in name or ":" in name) else [])

    def _blob(self, digest: str) -> bytes:
        data = self._bytes(_blob_name(digest))
        _verify(data, digest)
        return data


def _hex(bounded: _Bounded) -> str:
    return f"sha256:{bounded.hasher.hexdigest()}"


def _clean(name: str) -> str:
    clean = os.path.normpath(name.lstrip("/"))
    if clean.startswith(".."):
        raise InvalidParameter(f"archive entry {name!r} leads outside of the archive: refused")
    return clean


def _blob_name(digest: str) -> str:
    algorithm, _, value = digest.partition(":")
    if algorithm != "sha256" or len(value) != 64 or not value.isalnum():
        raise DataLoss(f"the archive uses digest {digest!r}; berth reads sha256 ones")
    return f"blobs/{algorithm}/{value}"


def _verify(data: bytes, digest: str) -> None:
    have = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if have != digest:
        raise DataLoss(f"content of digest {digest} in the archive has digest {have}")


def _parse(data: bytes, name: str, kind: type[_Json]) -> _Json:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataLoss(f"{name!r} in the archive is not JSON: {error}") from None
    if not isinstance(value, kind):
        raise DataLoss(f"{name!r} in the archive is JSON, but not {'a list' if kind is list else 'an object'}")
    return value
