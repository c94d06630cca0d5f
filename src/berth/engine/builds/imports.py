"""What earlier builds have left elsewhere, for a build to find: `--cache-from`. Layers are fetched once something needs their files.

A step that is found there costs no byte but its record; a stage whose every step is found, and which nobody looks into, is never fetched.
So a layer may turn out to be lost when it is wanted: then no record leads to it any more, and the solver has the steps built that led to it.
"""

import asyncio
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import IO, TYPE_CHECKING, Protocol

from berth import errors
from berth.build import cacheformat, progress
from berth.build.cache import Cache, Record
from berth.build.cacheformat import CachedMount, CacheLayer, Contents, Place
from berth.build.progress import Event, Report
from berth.build.worker import LayersLost
from berth.engine.builds.blobs import gathered
from berth.engine.builds.request import CACHE_CONTEXT, BuildRequest, Client
from berth.engine.tasks import stoppable
from berth.oci import digest as digests
from berth.oci import reference
from berth.oci.reference import Reference
from berth.registry import documents, media
from berth.registry.documents import Descriptor, Document
from berth.store.compression import open_stream
from berth.store.images import ImageStore
from berth.store.partial import Partial
from berth.store.tarwriter import open_below, reopen

if TYPE_CHECKING:
    from berth.engine.distribution import Distribution
    from berth.registry.client.client import RegistryClient

_MOST_MANIFESTS = 64


class _Source(Protocol):
    """Where blobs are. Methods block."""

    where: str  # registry/repository, '' for no registry
    shown: str  # for people

    def layer(self, blob: Descriptor, layer: CacheLayer) -> None: ...

    def mount(self, blob: Descriptor, read: Callable[[IO[bytes]], None]) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Found:
    """One manifest's contents, and its blobs at a source."""

    contents: Contents
    blobs: Sequence[Descriptor]
    source: _Source


class Imports:
    """Of one build."""

    def __init__(self, images: ImageStore) -> None:
        self._images = images
        self._found: list[Found] = []
        self._layers: dict[str, list[tuple[CacheLayer, Found]]] = {}  # by chain: where it is to be had, as far as is known
        self._bringing: dict[str, asyncio.Task[None]] = {}
        self._hits: dict[str, Record] = {}
        self._sources: list[_Source] = []
        self._report: Report = lambda event: None

    async def close(self) -> None:
        tasks = list(self._bringing.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for source in self._sources:
            source.close()

    async def open(
        self, request: BuildRequest, client: Client, distribution: "Callable[[], Distribution]", report: Report, directory: Callable[[str], str]
    ) -> None:
        """Reads what caches there are; one that cannot be read makes a warning. directory: makes one for what a client sends."""
        self._report = report
        places = [cacheformat.source(number, each) for number, each in enumerate(request.cache_from)]
        opener = _Opener(self._images, client, distribution, directory)

        async def tried(place: Place) -> list[Found]:
            try:
                return await opener.open(place)
            except (errors.BerthError, OSError) as error:
                if not isinstance(error, errors.NotFound) or not place.in_store:
                    report(Event(progress.WARNING, at_ns=time.time_ns(), text=f"cache {place.shown} cannot be used: {error}"))
                return []
            finally:
                self._sources += opener.take()

        for found in await gathered([tried(place) for place in places]):
            for each in found:
                self._found.append(each)
                for chain, layer in each.contents.layers.items():
                    self._layers.setdefault(chain, []).append((layer, each))

    # -- for the solver -------------------------------------------------------------------------------------

    def find(self, key: str) -> Record | None:
        for each in self._found:
            if (record := each.contents.records.get(key)) and (not record.chain or self.chains_below(record.chain)):
                self._hits[key] = record
                return record
        return None

    def chains_below(self, chain: str) -> list[str]:
        """All chains, the topmost first, where each is here or can be had; [] otherwise."""
        found = []
        while chain:
            found.append(chain)
            below = self._images.layers_below(chain)
            if below is not None:
                return [*found[:-1], *(layer.chain for layer in reversed(below))]
            if chain not in self._layers or len(found) > len(self._layers):
                return []
            chain = self._layers[chain][0][0].parent
        return found

    def diffs(self, chain: str) -> tuple[str, ...]:
        """Bottom first; of a chain that `chains_below` knows."""
        found: list[str] = []
        while chain:
            below = self._images.layers_below(chain)
            if below is not None:
                return (*(layer.diff for layer in below), *reversed(found))
            layer, _ = self._layers[chain][0]
            found.append(layer.diff)
            chain = layer.parent
        return tuple(reversed(found))

    async def bring(self, chain: str) -> None:
        """The layers of a chain that are not here, those that do not wait for each other at once. LayersLost once all have been tried."""
        chains = self.chains_below(chain)
        if not chains:
            raise LayersLost(f"layer {chain} of a cache cannot be had")

        async def tried(each: str) -> LayersLost | None:
            try:
                await self._once(each)
            except LayersLost as lost:
                return lost
            return None

        for lost in await gathered([tried(each) for each in chains if not self._images.has_layer(each)]):
            if lost:
                raise lost

    async def _once(self, chain: str) -> None:
        if chain not in self._bringing:
            self._bringing[chain] = asyncio.ensure_future(self._bring(chain))
        await asyncio.shield(self._bringing[chain])

    async def _bring(self, chain: str) -> None:
        """From the first place that turns out to have it."""
        while places := self._layers.get(chain):
            layer, found = places[0]
            try:
                return await stoppable(partial(_fetch, found, layer), found.source.close)
            except (errors.SystemFailure, errors.Cancelled):  # about this machine or build, not about the cache
                raise
            except errors.BerthError as error:
                self._lose(layer, found.source, error)
        raise LayersLost(f"layer {chain} of a cache cannot be had")

    def _lose(self, layer: CacheLayer, source: _Source, error: errors.BerthError) -> None:
        """Forgets what a source does not have: this layer, or all where nothing is to be reached, which is asked only once then."""
        away = isinstance(error, errors.Unavailable)
        chains = [chain for chain in (list(self._layers) if away else [layer.chain]) if any(each[1].source is source for each in self._layers.get(chain, ()))]
        for chain in chains:
            left = [each for each in self._layers.pop(chain) if each[1].source is not source]
            if left:
                self._layers[chain] = left
        if chains:
            what = "its layers are" if away else f"layer {layer.diff} is"
            self._report(Event(progress.WARNING, at_ns=time.time_ns(), text=(
                f"cache {source.shown}: {what} left out, and the steps that led there are built: {error}"
            )))  # fmt: skip

    # -- for exports ----------------------------------------------------------------------------------------

    def records(self) -> list[Record]:
        return [record for each in self._found for record in each.contents.records.values()]

    def blob_of(self, chain: str) -> tuple[str, Descriptor] | None:
        """Where a layer is in a registry: (registry/repository, descriptor)."""
        for layer, found in self._layers.get(chain, ()):
            if found.source.where:
                return found.source.where, found.blobs[layer.blob]
        return None

    def settle(self, cache: Cache) -> None:
        """What was found, and has been fetched meanwhile, is found here the next time."""
        for record in self._hits.values():
            if self._images.layers_below(record.chain) is not None:
                cache.put(record.key, record.chain, record.parent, record.description, record.kind, record.created_ns)

    # -- cache mounts -----------------------------------------------------------------------------------------

    async def mounts(self, names: Iterable[str], take: Callable[[CachedMount, IO[bytes]], None]) -> None:
        """Has `take` read the archives of these mounts, in a thread, each from the first cache that has it."""
        wanted = set(names)
        for found in self._found:
            for mount in found.contents.mounts:
                if mount.name in wanted:
                    wanted.remove(mount.name)
                    await self._mount(found, mount, take)

    async def _mount(self, found: Found, mount: CachedMount, take: Callable[[CachedMount, IO[bytes]], None]) -> None:
        def work(stop: threading.Event) -> None:
            found.source.mount(found.blobs[mount.blob], lambda stream: take(mount, stream))

        await stoppable(work, found.source.close)


def _fetch(found: Found, layer: CacheLayer, stop: threading.Event) -> None:
    found.source.layer(found.blobs[layer.blob], layer)


class _Opener:
    def __init__(
        self, images: ImageStore, client: Client, distribution: "Callable[[], Distribution]", directory: Callable[[str], str]
    ) -> None:
        self._images = images
        self._client = client
        self._distribution = distribution
        self._directory = directory
        self._opened: list[_Source] = []

    def take(self) -> list[_Source]:
        """The sources opened since it was asked last; they are the caller's to close."""
        taken, self._opened = self._opened, []
        return taken

    async def open(self, place: Place) -> list[Found]:
        if place.in_store and (image := self._images.tagged(place.ref)):
            return [Found(cacheformat.read_inline(image.config), (), _Here())]
        if place.kind == cacheformat.LOCAL:
            return await self._local(place)
        return await self._registry(reference.parse(place.ref))

    async def _local(self, place: Place) -> list[Found]:
        into = self._directory("cache-from")
        tree = await self._client.context(f"{CACHE_CONTEXT}{place.number}", None, into, lambda stream, data: None)
        source = _Directory(tree.fd, place.shown, self._images)
        self._opened.append(source)
        return await stoppable(lambda stop: source.open())

    async def _registry(self, name: Reference) -> list[Found]:
        distribution, cancelled = self._distribution(), threading.Event()
        client = distribution.client(name.registry, await self._client.credentials(name.registry), cancelled)
        source = _Repository(client, cancelled, name, distribution, self._directory("cache-from"))
        self._opened.append(source)
        return await stoppable(lambda stop: source.open(), source.close)


def _contents(document: Document, config: bytes) -> Contents:
    """Of a manifest: a cache's, or an image's with records in it."""
    assert document.config
    if document.config.media_type == cacheformat.CONFIG_TYPE:
        return cacheformat.read(config, len(document.layers))
    value = cacheformat.parsed(config)
    found = cacheformat.read_inline(value)
    if len(found.layers) != len(document.layers):
        raise errors.DataLoss(f"the manifest lists {len(document.layers)} layers, its configuration {len(found.layers)}")
    if not found.records:
        raise errors.NotFound("the image holds no cache: it was not built with --cache-to type=inline")
    return found


class _Here:
    """The image store itself, which has all layers."""

    where = ""
    shown = "of the image store"

    def layer(self, blob: Descriptor, layer: CacheLayer) -> None:
        raise errors.NotFound(f"layer {layer.diff} has been removed meanwhile")

    def mount(self, blob: Descriptor, read: Callable[[IO[bytes]], None]) -> None:
        raise errors.NotFound("images hold no cache mounts")

    def close(self) -> None:
        pass


class _Repository:
    """A registry's."""

    def __init__(
        self, client: "RegistryClient", cancelled: threading.Event, name: Reference, distribution: "Distribution", directory: str
    ) -> None:
        self.where = f"{name.registry}/{name.repository}"
        self.shown = name.familiar
        self._client = client
        self._cancelled = cancelled
        self._name = name
        self._pull = distribution.layers(client, name, cancelled)
        self._directory = directory

    def open(self) -> list[Found]:
        top = self._client.manifest(self._name)
        if not top.is_index:
            return [self._found(top)]
        entries = [each for each in top.manifests if each.annotations.get("vnd.docker.reference.type") != "attestation-manifest"]
        name = self._name
        manifests = [self._client.manifest(Reference(name.registry, name.repository, "", each.digest)) for each in entries[:_MOST_MANIFESTS]]
        return [self._found(each) for each in manifests if not each.is_index]

    def _found(self, document: Document) -> Found:
        assert document.config
        config = self._client.config(self._name.repository, document.config)
        return Found(_contents(document, config), document.layers, self)

    def layer(self, blob: Descriptor, layer: CacheLayer) -> None:
        if blob.media_type and not media.is_layer(blob.media_type):
            raise errors.InvalidParameter(f"the cache has a layer of type {blob.media_type}, which is no archive of files")
        self._pull.bring(blob, layer.diff, layer.parent, layer.chain)

    def mount(self, blob: Descriptor, read: Callable[[IO[bytes]], None]) -> None:
        partial = Partial(self._directory, blob.digest, blob.size_bytes)
        try:
            self._client.download(self._name.repository, blob, partial)
            with open(partial.path, "rb") as file:
                read(_verified(file, blob))
        finally:
            partial.discard()
            partial.close()

    def close(self) -> None:
        self._cancelled.set()
        self._client.close()


class _Directory:
    """An OCI layout below a descriptor, which it owns."""

    where = ""

    def __init__(self, fd: int, shown: str, images: ImageStore) -> None:
        self.shown = shown
        self._fd = fd
        self._images = images

    def open(self) -> list[Found]:
        try:
            index = documents.parse(self._read("index.json"), media.OCI_INDEX)
        except errors.DataLoss as error:
            raise errors.DataLoss(str(error).replace("the registry's manifest", "its index.json")) from None
        found = []
        for entry in index.manifests[:_MOST_MANIFESTS]:
            document = documents.parse(self._blob(entry), entry.media_type)
            if document.config:
                found.append(Found(_contents(document, self._blob(document.config)), document.layers, self))
        return found

    def _blob(self, blob: Descriptor) -> bytes:
        return documents.check(self._read(_path(blob)), blob.digest, "blob")

    def _read(self, path: str) -> bytes:
        with self._opened(path) as file:
            data = file.read(cacheformat.MOST_BYTES + 1)
        if len(data) > cacheformat.MOST_BYTES:
            raise errors.DataLoss(f"the cache's {path} is larger than {cacheformat.MOST_BYTES} bytes")
        return data

    def _opened(self, path: str) -> IO[bytes]:
        try:
            fd = open_below(self._fd, path)
        except OSError as error:
            raise errors.NotFound(f"the cache's directory has no {path}: {error.strerror}") from None
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise errors.DataLoss(f"the cache's {path} is no file")
            return os.fdopen(reopen(fd, os.O_RDONLY | os.O_NOCTTY), "rb")
        finally:
            os.close(fd)

    def layer(self, blob: Descriptor, layer: CacheLayer) -> None:
        if self._images.has_layer(layer.chain):
            return
        with self._opened(_path(blob)) as file:
            loose = self._images.layers.unpack(open_stream(file))
        try:
            if loose.diff != layer.diff:
                raise errors.DataLoss(f"the cache's layer {blob.digest} unpacks to {loose.diff}, its configuration says {layer.diff}")
            self._images.keep_layers([(loose, layer.parent)])
        finally:
            self._images.layers.drop(loose)

    def mount(self, blob: Descriptor, read: Callable[[IO[bytes]], None]) -> None:
        with self._opened(_path(blob)) as file:
            read(_verified(file, blob))

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _verified(file: IO[bytes], blob: Descriptor) -> IO[bytes]:
    """What a file holds, decompressed, once it has been seen to be what it should."""
    hasher = digests.hasher(blob.digest)
    while data := file.read(1 << 20):
        hasher.update(data)
    if digests.text_of(hasher) != blob.digest:
        raise errors.DataLoss(f"a cache mount's archive has digest {digests.text_of(hasher)}, not {blob.digest}: it was changed")
    file.seek(0)
    return open_stream(file)


def _path(blob: Descriptor) -> str:
    return f"blobs/{blob.digest.partition(':')[0]}/{digests.hexadecimal(blob.digest)}"
