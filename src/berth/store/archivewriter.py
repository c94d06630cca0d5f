"""Writes image archives that are docker-archive and OCI layout in one, as Docker 25 and later do; layers uncompressed, each once."""

import hashlib
import json
import tarfile
from collections.abc import Callable
from typing import IO, Protocol

_COPY_BYTES = 1 << 20
_BLOCK, _RECORD = 512, 10240
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"


class Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...

    def close(self) -> None: ...


Opener = Callable[[], Stream]


class SavedLayer:
    """A layer's tar: its digest, its size, and what opens it. The stream itself sees to it that its bytes are right."""

    __slots__ = ("diff", "open", "size_bytes")

    def __init__(self, diff: str, size_bytes: int, open: Opener) -> None:
        self.diff = diff
        self.size_bytes = size_bytes
        self.open = open


class Saved:
    """One image to write: its config, its platform's fields, its layers, bottom first, and names."""

    __slots__ = ("config", "layers", "names", "platform")

    def __init__(self, config: bytes, platform: dict[str, str], layers: list[SavedLayer], names: list[str]) -> None:
        self.config = config
        self.platform = platform
        self.layers = layers
        self.names = names


def write(images: list[Saved], out: IO[bytes]) -> None:
    """Writes the whole archive; it is cut off, and so no archive, if a layer's stream raises."""
    writing = Writing(out)
    manifests, index = [], []
    for image in images:
        for layer in image.layers:
            writing.layer(layer)
        config_digest = writing.blob(image.config)
        data = manifest_of(image.config, [(layer.diff, layer.size_bytes) for layer in image.layers])
        digest = writing.blob(data)
        manifests.append({
            "Config": _blob_name(config_digest), "RepoTags": image.names or None,
            "Layers": [_blob_name(layer.diff) for layer in image.layers],
        })  # fmt: skip
        for name in image.names or [""]:
            descriptor: dict = {"mediaType": MANIFEST_TYPE, "digest": digest, "size": len(data)}
            if image.platform:
                descriptor["platform"] = image.platform
            if name:
                descriptor["annotations"] = {
                    "io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2],
                }  # fmt: skip
            index.append(descriptor)
    writing.file("manifest.json", json.dumps(manifests).encode())
    writing.layout(index)
    writing.end()


def manifest_of(config: bytes, layers: list[tuple[str, int]]) -> bytes:
    """The OCI manifest that an image is saved with. layers: digest and size of each tar, bottom first."""
    digest = f"sha256:{hashlib.sha256(config).hexdigest()}"
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {"mediaType": _CONFIG_TYPE, "digest": digest, "size": len(config)},
        "layers": [{"mediaType": _LAYER_TYPE, "digest": layer, "size": size_bytes} for layer, size_bytes in layers],
    }
    return json.dumps(manifest).encode()


def file_info(name: str) -> tarfile.TarInfo:
    """A plain file that everybody may read, of root's, as old as can be."""
    info = tarfile.TarInfo(name)
    info.mode = 0o644
    return info


def _blob_name(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


class Writing:
    """An archive's members, one after the other. What has a digest is written once."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self._written: set[str] = set()
        self._size = 0

    def _write(self, data: bytes) -> None:
        self._out.write(data)
        self._size += len(data)

    def _head(self, name: str, size: int) -> None:
        info = file_info(name)
        info.size = size
        self._write(info.tobuf(tarfile.PAX_FORMAT))

    def _pad(self, block: int) -> None:
        self._write(bytes(-self._size % block))

    def file(self, name: str, data: bytes) -> None:
        self._head(name, len(data))
        self._write(data)
        self._pad(_BLOCK)

    def blob(self, data: bytes) -> str:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if digest not in self._written:
            self._written.add(digest)
            self.file(_blob_name(digest), data)
        return digest

    def layout(self, entries: list[dict]) -> None:
        """What makes it an OCI layout. entries: descriptors of its images."""
        self.file("index.json", json.dumps({"schemaVersion": 2, "manifests": entries}).encode())
        self.file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')

    def layer(self, layer: SavedLayer) -> None:
        if layer.diff in self._written:
            return
        self._written.add(layer.diff)
        self._head(_blob_name(layer.diff), layer.size_bytes)
        stream = layer.open()
        try:
            while data := stream.read(_COPY_BYTES):
                self._write(data)
        finally:
            stream.close()
        self._pad(_BLOCK)

    def end(self) -> None:
        self._write(bytes(2 * _BLOCK))
        self._pad(_RECORD)
