"""Image archives: what `docker save` and OCI tools write, read to temporary files and interpreted.

The members of an archive come in any order and name each other, so regular files are spooled first,
each hashed on the way. Two forms: docker-archive (`manifest.json`) and OCI layout (`index.json`).
Writing makes one that is both, as Docker 25 and later do.
"""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from typing import IO, TypeVar

from berth.errors import DataLoss, InvalidParameter
from berth.store.compression import ExactReader, open_stream
from berth.store.layout import Layout
from berth.store.tar import read_entries, skip_padding

_MAX_JSON_BYTES = 8 << 20
_MAX_LINK_DEPTH = 8
_COPY_BYTES = 1 << 20
_INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
_Json = TypeVar("_Json", list, dict)


class Member:
    """A spooled file: its path on disk (until it is kept or the archive closed), digest and size."""

    __slots__ = ("digest", "path", "size_bytes")

    def __init__(self, path: str, digest: str, size_bytes: int) -> None:
        self.path = path
        self.digest = digest
        self.size_bytes = size_bytes


class ArchivedImage:
    """config: bytes of the image's configuration; layers: bottom first; names: references to tag."""

    __slots__ = ("config", "layers", "names")

    def __init__(self, config: bytes, layers: list[Member], names: list[str]) -> None:
        self.config = config
        self.layers = layers
        self.names = names


class Archive:
    """A spooled archive; `close` removes what was not kept."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._members: dict[str, Member] = {}
        self._links: dict[str, str] = {}

    def read(self, stream: IO[bytes]) -> None:
        """Spools every member of the (possibly compressed) archive."""
        reader = ExactReader(open_stream(stream))
        for entry in read_entries(reader):
            name = _clean(entry.name)
            if entry.is_file:
                self._members[name] = self._spool(reader, entry.size_bytes)
                skip_padding(reader, entry.size_bytes)
            elif entry.kind == b"2":
                self._links[name] = _clean(os.path.join(os.path.dirname(name), entry.link))
            elif entry.kind == b"1":
                self._links[name] = _clean(entry.link)
        while reader.read_some(_COPY_BYTES):
            pass

    def _spool(self, reader: ExactReader, size: int) -> Member:
        hasher = hashlib.sha256()
        left = size
        with self._layout.new_file() as file:
            try:
                while left:
                    data = reader.read_exactly(min(left, _COPY_BYTES))
                    hasher.update(data)
                    file.write(data)
                    left -= len(data)
            except BaseException:
                os.unlink(file.name)
                raise
        return Member(file.name, f"sha256:{hasher.hexdigest()}", size)

    def close(self) -> None:
        for member in self._members.values():
            if os.path.exists(member.path):
                os.unlink(member.path)

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
        if member.size_bytes > _MAX_JSON_BYTES:
            raise DataLoss(f"{name!r} in the archive has {member.size_bytes} bytes; it should be a small document")
        with open(member.path, "rb") as file:
            return file.read()

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


# -- writing -------------------------------------------------------------------------------------


class Saved:
    """One image to write: its config, (diff id, path of the blob) of each layer, bottom first, and names."""

    __slots__ = ("config", "layers", "names")

    def __init__(self, config: bytes, layers: list[tuple[str, str]], names: list[str]) -> None:
        self.config = config
        self.layers = layers
        self.names = names


def write(images: list[Saved], out: IO[bytes], layout: Layout) -> None:
    """Writes images as docker-archive and OCI layout in one; layers uncompressed, each only once."""
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, bufsize=_COPY_BYTES) as tar:
        written: set[str] = set()
        manifests, index = [], []
        for image in images:
            layers = [_write_layer(tar, diff, path, written, layout) for diff, path in image.layers]
            config_digest = _write_bytes(tar, image.config, written)
            manifest = {
                "schemaVersion": 2,
                "mediaType": _MANIFEST_TYPE,
                "config": {"mediaType": _CONFIG_TYPE, "digest": config_digest, "size": len(image.config)},
                "layers": [{"mediaType": _LAYER_TYPE, "digest": digest, "size": size} for digest, size in layers],
            }
            data = json.dumps(manifest).encode()
            digest = _write_bytes(tar, data, written)
            manifests.append({
                "Config": _blob_name(config_digest), "RepoTags": image.names or None,
                "Layers": [_blob_name(digest) for digest, _ in layers],
            })  # fmt: skip
            for name in image.names or [""]:
                descriptor: dict = {"mediaType": _MANIFEST_TYPE, "digest": digest, "size": len(data)}
                if name:
                    descriptor["annotations"] = {
                        "io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2],
                    }  # fmt: skip
                index.append(descriptor)
        _write_file(tar, "manifest.json", json.dumps(manifests).encode())
        _write_file(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": index}).encode())
        _write_file(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')


def _write_file(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    tar.addfile(info, io.BytesIO(data))


def _write_bytes(tar: tarfile.TarFile, data: bytes, written: set[str]) -> str:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if digest not in written:
        written.add(digest)
        _write_file(tar, _blob_name(digest), data)
    return digest


def _write_layer(
    tar: tarfile.TarFile, diff: str, path: str, written: set[str], layout: Layout
) -> tuple[str, int]:
    """Layers are kept as they came; uncompressed, a layer's digest is its diff id."""
    if os.path.basename(path) == diff.removeprefix("sha256:"):
        return diff, _write_verified(tar, diff, path, written)
    with open(path, "rb") as blob:
        temporary, _, _ = layout.spool(open_stream(blob))  # a tar wants the size before the data
    try:
        return diff, _write_verified(tar, diff, temporary, written)
    finally:
        os.unlink(temporary)


def _write_verified(tar: tarfile.TarFile, digest: str, path: str, written: set[str]) -> int:
    """Writes a file as a blob, hashing on the way: DataLoss, and so a cut-off archive, if it is not `digest`."""
    size = os.stat(path).st_size
    if digest in written:
        return size
    written.add(digest)
    info = tarfile.TarInfo(_blob_name(digest))
    info.size, info.mode = size, 0o644
    with open(path, "rb") as file:
        reader = _HashingReader(file)
        tar.addfile(info, reader)
    if f"sha256:{reader.hasher.hexdigest()}" != digest:
        raise DataLoss(f"layer {digest} on disk has digest sha256:{reader.hasher.hexdigest()}; load the image again")
    return size


class _HashingReader:
    """A file that hashes what is read from it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.hasher = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.hasher.update(data)
        return data
