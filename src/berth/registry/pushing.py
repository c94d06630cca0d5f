"""An image from the store to a registry: layers that are not there yet, several at once, then configuration and manifest."""

import io
import json
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import IO, cast

from berth.errors import BerthError, Cancelled, Conflict
from berth.oci.reference import Reference
from berth.registry import media
from berth.registry.client.client import RegistryClient
from berth.registry.documents import Descriptor, digest_of
from berth.registry.progress import Line, Report, short
from berth.store import unsent
from berth.store.compression import Closable, GzipReader
from berth.store.images import Image, ImageStore, Layer, Source
from berth.store.unsent import Unsent


class Pushed:
    """What the registry has now under the name."""

    __slots__ = ("digest", "size_bytes")

    def __init__(self, digest: str, size_bytes: int) -> None:
        self.digest = digest
        self.size_bytes = size_bytes


class Push:
    """One push of one tag. slots: how many uploads the engine makes at once."""

    def __init__(
        self, client: RegistryClient, store: ImageStore, slots: threading.BoundedSemaphore, name: Reference, image: Image,
        report: Report, cancelled: threading.Event, *, uploads: int,
    ) -> None:  # fmt: skip
        self._client = client
        self._store = store
        self._slots = slots
        self._name = name
        self._image = image
        self._report = report
        self._cancelled = cancelled
        self._uploads = uploads
        self._where = f"{name.registry}/{name.repository}"

    def run(self) -> Pushed:
        """Blocks until the registry has the image. Layers are held meanwhile."""
        with self._store.holding_image(self._image) as layers:
            lines = {layer.diff: Line(self._report, short(layer.diff)) for layer in reversed(layers)}
            for line in lines.values():
                line.say("Preparing")
            sent = self._send_layers({layer.diff: layer for layer in layers}, lines)
            config = self._send_config()
            manifest, kind = manifest_of(config, [sent[layer.diff] for layer in layers])
            digest = self._client.put_manifest(self._name.repository, self._name.tag, manifest, kind)
            sources = [Source(diff, self._where, d.digest, d.size_bytes, d.media_type) for diff, d in sent.items() if not d.urls]
            self._store.note_pushed(self._image.id, [(self._name.familiar_name, digest)], sources)
            self._store.documents.keep(digest, kind, manifest, self._image.id)
            for diff in sent:
                unsent.drop(self._store.layout.uploads, diff, self._where)
        return Pushed(digest, len(manifest))

    def _send_layers(self, layers: dict[str, Layer], lines: dict[str, Line]) -> dict[str, Descriptor]:
        with ThreadPoolExecutor(self._uploads, thread_name_prefix="push") as pool:
            futures = {diff: pool.submit(self._send_layer, layer, lines[diff]) for diff, layer in layers.items()}
            done, _ = wait(futures.values(), return_when=FIRST_EXCEPTION)
            failures = [failure for future in done if (failure := future.exception())]
            if failures:
                self._cancelled.set()
                self._client.close()
                for future in futures.values():
                    future.cancel()
                raise next((failure for failure in failures if not isinstance(failure, Cancelled)), failures[0])
            return {diff: future.result() for diff, future in futures.items()}

    def _send_layer(self, layer: Layer, line: Line) -> Descriptor:
        if self._cancelled.is_set():
            raise Cancelled("the push was cancelled")
        foreign = self._store.foreign.of(layer.diff)
        if foreign and not self._client.settings.takes_foreign(self._name.registry):
            line.say("Skipped foreign layer")
            return Descriptor(foreign.media_type, foreign.digest, foreign.size_bytes, urls=foreign.urls)
        sources = [source for source in self._store.sources_of(layer.diff) if source.repository.startswith(f"{self._name.registry}/")]
        for source in sources:
            if source.repository == self._where:
                if self._client.blob_size(self._name.repository, source.digest) is not None:
                    line.say("Layer already exists")
                    return Descriptor(source.media_type, source.digest, source.size_bytes)
                self._store.forget_source(source)
        with self._slots:
            for source in sources:
                if source.repository != self._where and (found := self._mount(source, line)):
                    return found
            return self._upload(layer, line)

    def _mount(self, source: Source, line: Line) -> Descriptor | None:
        """A registry that has the layer elsewhere need not be sent it; one that will not say so is."""
        other = source.repository.removeprefix(f"{self._name.registry}/")
        try:
            mounted = self._client.mount(self._name.repository, source.digest, other)
        except BerthError:
            return None
        if not mounted:
            return None
        line.say(f"Mounted from {other}")
        return Descriptor(source.media_type, source.digest, source.size_bytes)

    def _upload(self, layer: Layer, line: Line) -> Descriptor:
        total = self._store.layers.tar_size_bytes(layer.chain)

        def opened(offset: int) -> IO[bytes]:
            stream = GzipReader(_Counting(self._store.layers.tar(layer.chain, layer.diff), lambda seen: line.advance("Pushing", seen, total)))
            while offset and (data := stream.read(min(offset, 1 << 20))):
                offset -= len(data)
            return cast("IO[bytes]", stream)

        memory = self._memory(layer)
        try:
            digest, size, _ = self._client.upload(self._name.repository, opened, memory=memory, waiting=line.retrying)
            self._store.note_source(Source(layer.diff, self._where, digest, size, media.DOCKER_LAYER))
            if memory:
                memory.forget()
        finally:
            if memory:
                memory.close()
        line.say("Pushed")
        return Descriptor(media.DOCKER_LAYER, digest, size)

    def _memory(self, layer: Layer) -> Unsent | None:
        """None where another push sends the same, which then each does for itself, or where nothing can be noted."""
        try:
            return Unsent(self._store.layout.uploads, layer.diff, self._where)
        except (Conflict, OSError):
            return None

    def _send_config(self) -> Descriptor:
        raw = self._image.raw
        digest = digest_of(raw)
        if self._client.blob_size(self._name.repository, digest) is None:
            self._client.upload(self._name.repository, lambda offset: io.BytesIO(raw[offset:]), digest=digest, size_bytes=len(raw))
        return Descriptor(media.DOCKER_CONFIG, digest, len(raw))


def manifest_of(config: Descriptor, layers: list[Descriptor]) -> tuple[bytes, str]:
    """The manifest as Docker writes it, byte for byte, and its media type: OCI's where a layer has a form that Docker has no name for."""
    oci = any(layer.media_type not in (*media.DOCKER_LAYERS, *media.DOCKER_FOREIGN) for layer in layers)
    kind = media.OCI_MANIFEST if oci else media.DOCKER_MANIFEST
    document = {
        "schemaVersion": 2, "mediaType": kind, "config": _entry(config, media.OCI_CONFIG if oci else media.DOCKER_CONFIG),
        "layers": [_entry(layer, media.oci_layer(layer.media_type) if oci else layer.media_type) for layer in layers],
    }  # fmt: skip
    return json.dumps(document, indent=3).encode(), kind


def _entry(descriptor: Descriptor, media_type: str) -> dict[str, object]:
    entry: dict[str, object] = {"mediaType": media_type, "size": descriptor.size_bytes, "digest": descriptor.digest}
    return {**entry, "urls": descriptor.urls} if descriptor.urls else entry


class _Counting:
    """A stream that tells how far it was read."""

    def __init__(self, stream: Closable, progress: Callable[[int], None]) -> None:
        self._stream = stream
        self._progress = progress
        self._seen = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        self._seen += len(data)
        self._progress(self._seen)
        return data

    def close(self) -> None:
        self._stream.close()
