"""Pushes what a build has made, as one image or as an index: layers that are not there yet, configurations, manifests, the tag last."""

import asyncio
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from berth.build.imagedocuments import Document
from berth.build.outputs import ZSTD, Annotation, Output
from berth.engine.builds.assembly import Assembly, Made, assemble, is_oci, unique
from berth.engine.builds.blobs import Blob, Blobs, opened_at
from berth.engine.tasks import stoppable
from berth.errors import BerthError
from berth.oci.reference import Reference
from berth.registry import media
from berth.store.images import ImageStore, Layer, Source

if TYPE_CHECKING:
    from berth.registry.client.client import RegistryClient

_DOCKER_NAMES = {f"{media.OCI_LAYER}+gzip": media.DOCKER_LAYER, media.OCI_LAYER: media.DOCKER_LAYERS[1]}
Tell = Callable[[str], None]


class Uploads:
    """To one repository. Made for one push; `close` ends what is under way. slots: how many at once."""

    def __init__(self, client: "RegistryClient", name: Reference, images: ImageStore, blobs: Blobs, tell: Tell, slots: int) -> None:
        self._client = client
        self._halt = client.close
        self._name = name
        self._where = f"{name.registry}/{name.repository}"
        self._images = images
        self._blobs = blobs
        self._tell = tell
        self._gate = asyncio.Semaphore(slots)
        self._sent: dict[tuple[str, bool], asyncio.Task[dict]] = {}

    async def layer(self, layer: Layer, output: Output, *, oci: bool, exact: bool) -> dict:
        """Sees to it that the registry has a layer -> its descriptor. exact: in the form that the output says, not one that is there."""
        key = layer.diff, exact
        if key not in self._sent:
            self._sent[key] = asyncio.ensure_future(self._layer(layer, output, oci=oci, exact=exact))
        return dict(await asyncio.shield(self._sent[key]))

    async def close(self) -> None:
        tasks = list(self._sent.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _layer(self, layer: Layer, output: Output, *, oci: bool, exact: bool) -> dict:
        async with self._gate:
            if not exact and (found := await stoppable(lambda stop: self._there(layer, oci), self._halt)):
                return found
        blob = await self._blobs.of(layer, output.compression)
        async with self._gate:
            await stoppable(lambda stop: self._send(blob, layer), self._halt)
        return blob.descriptor(oci=oci)

    def _there(self, layer: Layer, oci: bool) -> dict | None:
        """The layer in whatever form this registry has it already."""
        if foreign := self._images.foreign.of(layer.diff):
            kind = media.oci_layer(foreign.media_type) if oci else foreign.media_type
            return {"mediaType": kind, "digest": foreign.digest, "size": foreign.size_bytes, "urls": foreign.urls}
        sources = [each for each in self._images.sources_of(layer.diff) if each.repository.startswith(f"{self._name.registry}/")]
        for source in sorted(sources, key=lambda each: (each.repository != self._where, each.repository)):
            kind = media.oci_layer(source.media_type) if oci else _DOCKER_NAMES.get(source.media_type, source.media_type)
            if not oci and kind.endswith("zstd"):
                continue
            if source.repository == self._where:
                if self._client.blob_size(self._name.repository, source.digest) is None:
                    self._images.forget_source(source)
                    continue
                self._tell(f"layer {layer.diff} is there already")
            elif not self._mounted(source):
                continue
            return {"mediaType": kind, "digest": source.digest, "size": source.size_bytes}
        return None

    def _mounted(self, source: Source) -> bool:
        try:
            return self._client.mount(self._name.repository, source.digest, source.repository.removeprefix(f"{self._name.registry}/"))
        except BerthError:
            return False  # a registry that will not say so is sent the layer

    async def blob(self, blob: Blob) -> None:
        """One that is no layer of the store."""
        await stoppable(lambda stop: self._send_blob(blob), self._halt)

    def _send_blob(self, blob: Blob) -> None:
        if self._client.blob_size(self._name.repository, blob.digest) is None:
            self._client.upload(self._name.repository, opened_at(blob), digest=blob.digest, size_bytes=blob.size_bytes)

    def _send(self, blob: Blob, layer: Layer) -> None:
        if self._client.blob_size(self._name.repository, blob.digest) is None:
            self._tell(f"pushing layer {blob.digest}, {blob.size_bytes} bytes")
            self._client.upload(self._name.repository, opened_at(blob), digest=blob.digest, size_bytes=blob.size_bytes)
        if blob.compression != ZSTD:
            kind = blob.descriptor(oci=False)["mediaType"]
            self._images.note_source(Source(layer.diff, self._where, blob.digest, blob.size_bytes, kind))

    async def documents(self, blobs: Sequence[Document], manifests: Sequence[Document], top: Document, tag: str) -> None:
        """The rest, what is named before what names it. tag: '' for none."""
        await stoppable(lambda stop: self._documents(blobs, manifests, top, tag), self._halt)

    def _documents(self, blobs: Sequence[Document], manifests: Sequence[Document], top: Document, tag: str) -> None:
        repository = self._name.repository
        for each in unique(blobs):
            if self._client.blob_size(repository, each.digest) is None:
                self._client.upload(repository, _opener(each.raw), digest=each.digest, size_bytes=len(each.raw))
        for each in unique(manifests):
            self._client.put_manifest(repository, each.digest, each.raw, each.media_type)
        self._client.put_manifest(repository, tag or top.digest, top.raw, top.media_type)


def _opener(raw: bytes) -> Callable[[int], io.BytesIO]:
    return lambda offset: io.BytesIO(raw[offset:])


async def push(
    uploads: Uploads, made: Sequence[Made], output: Output, names: Sequence[str], annotations: Sequence[Annotation], *, tag: str, portable: bool
) -> Assembly:
    """portable: what was built gets the same digests whatever the registry has of it; layers of base images keep those they came with."""
    oci = is_oci(output, annotations) or any(each.claims for each in made)

    async def describe(each: Made, layer: Layer) -> dict:
        exact = output.compression.force or (portable and layer.diff not in each.base.diffs)
        return await uploads.layer(layer, output, oci=oci, exact=exact)

    assembly = await assemble(made, output, names, annotations, describe)
    await uploads.documents(assembly.blobs, assembly.manifests, assembly.top, tag)
    return assembly
