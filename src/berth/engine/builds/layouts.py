"""Images out of OCI layouts on the client's side: `--build-context NAME=oci-layout:///PATH[:TAG|@DIGEST]`.

Of a layout's files only those are asked for that the image needs for one platform, layers only where the store lacks them. Each is
compared with the digest that led to it. The image is in no list and has no name: its layers stay as long as the cache of builds has them.

Source: OCI image specification 1.1, image-layout.md.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any

from berth import errors
from berth.build.cache import Cache, key_of
from berth.build.options import OCI_LAYOUT
from berth.engine.builds.request import Client
from berth.oci import digest as digests
from berth.oci import platforms
from berth.oci.platforms import Platform
from berth.registry import documents, media
from berth.registry.documents import Descriptor, Document
from berth.store.compression import open_stream
from berth.store.images import Image, ImageStore, Layer
from berth.store.naming import chain_id, checked_config

_INDEX, _MOST_DOCUMENT_BYTES = "index.json", documents.MAX_MANIFEST_BYTES
_MOST_CONFIG_BYTES = 8 << 20
_MOST_DEPTH = 8  # of indexes in indexes
_KIND = "regular"
_TAG, _NAME = "org.opencontainers.image.ref.name", "io.containerd.image.name"

Hold = Callable[[list[str]], None]


@dataclass(frozen=True, slots=True)
class Layouts:
    """Of one build. references: what is meant in the layout of a name: `:TAG`, `@DIGEST`, or '' where it holds one image."""

    images: ImageStore
    cache: Cache
    client: Client
    references: Mapping[str, str]

    async def image(self, reference: str, platform: str, hold: Hold) -> Image:
        """The image that planning calls so; its layers are here, and `hold` was told of them first. Errors name the layout."""
        name = reference.removeprefix(OCI_LAYOUT)
        try:
            return await self._image(name, platforms.parse(platform), hold)
        except errors.BerthError as error:
            raise type(error)(f"OCI layout {name}: {str(error).replace(_OF_REGISTRY, 'the ')}") from error

    async def _image(self, name: str, wanted: Platform, hold: Hold) -> Image:
        manifest = await self._manifest(name, wanted)
        assert manifest.config
        if manifest.config.media_type not in (*media.CONFIGS, "", "application/octet-stream"):
            raise errors.InvalidParameter(f"{manifest.digest} is no image but an artifact of type {manifest.config.media_type}")
        raw = await self._blob(name, manifest.config, _MOST_CONFIG_BYTES)
        image = Image(manifest.config.digest, raw, "")
        config = checked_config(raw)
        _check(config, manifest, wanted)
        chains = [""]
        for diff in config["rootfs"]["diff_ids"]:
            chains.append(chain_id(chains[-1], diff))
        image.chain = chains[-1]
        await self._layers(name, manifest, config["rootfs"]["diff_ids"], chains, hold)
        return image

    # -- documents ----------------------------------------------------------------------------------------

    async def _manifest(self, name: str, wanted: Platform) -> Document:
        found = await self._top(name, wanted)
        document = documents.parse(await self._blob(name, found, _MOST_DOCUMENT_BYTES), found.media_type)
        for _ in range(_MOST_DEPTH):
            if not document.is_index:
                return document
            entry = documents.choose(document, wanted)
            document = documents.parse(await self._blob(name, entry, _MOST_DOCUMENT_BYTES), entry.media_type)
        raise errors.InvalidParameter(f"its indexes lead to each other more than {_MOST_DEPTH} deep")

    async def _top(self, name: str, wanted: Platform) -> Descriptor:
        """What the reference means: something that index.json lists, or, by its digest, anything in the layout."""
        index = documents.parse(await self.client.layout_file(name, _INDEX, _reader(_MOST_DOCUMENT_BYTES, _INDEX)), media.OCI_INDEX)
        reference = self.references.get(name, "")
        if reference.startswith("@"):
            digest = reference[1:]
            listed = [each for each in index.manifests if each.digest == digest]
            return listed[0] if listed else Descriptor("", digest, -1)
        tag = reference.removeprefix(":")
        entries = [each for each in index.manifests if not tag or tag in _names(each)]
        if not tag and len(entries) > 1 and len({"".join(_names(each)) for each in entries}) > 1:
            entries = [each for each in entries if "latest" in _names(each)]
        if not entries:
            there = ", ".join(sorted({word for each in index.manifests for word in _names(each)})) or "images without one"
            raise errors.NotFound(f"{f'no image has the tag {tag}' if tag else 'it holds several images: name one by :TAG or @DIGEST'}; there are: {there}")
        if len(entries) == 1:
            return entries[0]
        index.manifests = entries  # one image, for each of these platforms
        return documents.choose(index, wanted)

    async def _blob(self, name: str, blob: Descriptor, most_bytes: int) -> bytes:
        data = await self.client.layout_file(name, _path(blob), _reader(most_bytes, blob.digest))
        _same(blob, digests.of(data, blob.digest))
        return data

    # -- layers -------------------------------------------------------------------------------------------

    async def _layers(self, name: str, manifest: Document, diffs: list[str], chains: list[str], hold: Hold) -> None:
        hold(chains[1:])
        key = key_of({"op": "OciLayout", "config": manifest.config.digest if manifest.config else ""}, [])
        if self.cache.find(key) and self.images.layers_below(chains[-1]) is not None:
            return
        new: list[Layer] = []
        try:
            for layer, diff, parent, chain in zip(manifest.layers, diffs, chains, chains[1:], strict=False):
                if not self.images.has_layer(chain):
                    await self._layer(name, layer, diff, parent, new)
        except BaseException:
            await asyncio.to_thread(self.images.discard_layers, new)
            raise
        if chains[-1]:
            self.cache.put(key, chains[-1], "", f"image of OCI layout {name}", _KIND)

    async def _layer(self, name: str, layer: Descriptor, diff: str, parent: str, new: list[Layer]) -> None:
        """Fetches one; it is in `new` as soon as the store has it, whoever is cancelled meanwhile."""
        if layer.media_type and not media.is_layer(layer.media_type):
            raise errors.InvalidParameter(f"it has a layer of type {layer.media_type}, which is no archive of files")

        def unpack(stream: IO[bytes]) -> None:
            compared = _Compared(stream, layer)
            loose = self.images.layers.unpack(open_stream(compared))
            try:
                compared.finish()
                if loose.diff != diff:
                    raise errors.DataLoss(f"layer {layer.digest} unpacks to {loose.diff}, the configuration says {diff}")
                new.extend(self.images.keep_layers([(loose, parent)]))
            finally:
                self.images.layers.drop(loose)

        await self.client.layout_file(name, _path(layer), unpack)


_OF_REGISTRY = "the registry's "  # documents.py reads what registries send


class _Compared:
    """A blob while it is read: its bytes are counted and hashed."""

    def __init__(self, stream: IO[bytes], blob: Descriptor) -> None:
        self._stream = stream
        self._blob = blob
        self._hasher = hashlib.new(blob.digest.partition(":")[0])

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        self._hasher.update(data)
        return data

    def finish(self) -> None:
        """Reads what is left. DataLoss where it was something else."""
        while self.read(1 << 20):
            pass
        _same(self._blob, digests.text_of(self._hasher))


def _same(blob: Descriptor, have: str) -> None:
    if have != blob.digest:
        raise errors.DataLoss(f"{_path(blob)} has digest {have}: it was changed")


def _reader(most_bytes: int, what: str) -> Callable[[IO[bytes]], bytes]:
    def read(stream: IO[bytes]) -> bytes:
        data = stream.read(most_bytes + 1)
        if len(data) > most_bytes:
            raise errors.TooLarge(f"{what} has more than {most_bytes} bytes")
        return data

    return read


def _check(config: dict[str, Any], manifest: Document, wanted: Platform) -> None:
    offered, count = platforms.of_document(config), len(config["rootfs"]["diff_ids"])
    if offered and platforms.rank(wanted, offered) is None:
        raise errors.NotFound(f"its image is for {offered}, not for {wanted}")
    if count != len(manifest.layers):
        raise errors.DataLoss(f"manifest {manifest.digest} lists {len(manifest.layers)} layers, its configuration {count}")


def _names(entry: Descriptor) -> list[str]:
    """Tags of an entry of index.json: skopeo's, umoci's and podman's are plain; containerd's is a whole name."""
    found = [entry.annotations.get(_TAG, ""), entry.annotations.get(_NAME, "")]
    return list(dict.fromkeys(name.rpartition("/")[2].rpartition(":")[2] for name in found if name))


def _path(blob: Descriptor) -> str:
    return f"blobs/{blob.digest.partition(':')[0]}/{digests.hexadecimal(blob.digest)}"
