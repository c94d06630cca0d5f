"""Leaves a build's results elsewhere, for other builds to find: `--cache-to`. See build/cacheformat.py for the form."""

import hashlib
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

from berth import errors
from berth.build import cacheformat, graph, progress
from berth.build.cache import Cache, Record
from berth.build.cacheformat import CachedMount, CacheLayer, Place
from berth.build.files.context import Directory
from berth.build.graph import Vertex
from berth.build.imagedocuments import OCI_MANIFEST, Document, document
from berth.build.outputs import GZIP, Output
from berth.build.progress import Event, Report
from berth.build.worker import LayersLost
from berth.engine.builds.blobs import Blob, Blobs, gathered
from berth.engine.builds.imports import Imports
from berth.engine.builds.mounts import CacheMounts
from berth.engine.builds.push import Uploads
from berth.engine.builds.request import BuildRequest, Client
from berth.engine.builds.worker import BuildWorker
from berth.engine.hostfiles import remove_directories
from berth.engine.tasks import stoppable
from berth.oci import reference
from berth.oci.reference import Reference
from berth.store.archivewriter import Writing
from berth.store.images import ImageStore, Layer
from berth.store.packing import pack
from berth.store.tarwriter import TarWriter
from berth.store.unpacking import Limits, Unpacker

if TYPE_CHECKING:
    from berth.engine.distribution import Distribution
    from berth.registry.client.client import RegistryClient

_MOUNT_LIMITS = Limits(entries=2_000_000, directories=800_000)


def targets(request: BuildRequest) -> list[Place]:
    """Those of a request, checked."""
    found = [cacheformat.target(number, each) for number, each in enumerate(request.cache_to)]
    if request.options.build_args.get("BUILDKIT_INLINE_CACHE", "") in ("1", "true"):
        found.append(Place(cacheformat.INLINE_KIND, len(found)))
    return found


def check(request: BuildRequest) -> None:
    """InvalidParameter for places that cannot be, before anything is built."""
    targets(request)
    for number, each in enumerate(request.cache_from):
        cacheformat.source(number, each)


class Exports:
    """Of one build. used: what its steps have found or made, by chain and parent."""

    def __init__(
        self, *, request: BuildRequest, client: Client, worker: BuildWorker, images: ImageStore, cache: Cache, mounts: CacheMounts, imports: Imports,
        distribution: "Callable[[], Distribution]", report: Report, used: Mapping[tuple[str, str], Record], blobs: Blobs,
    ) -> None:  # fmt: skip
        self._request = request
        self._client = client
        self._worker = worker
        self._images = images
        self._cache = cache
        self._mounts = mounts
        self._imports = imports
        self._distribution = distribution
        self._report = report
        self._used = used
        self._blobs = blobs
        self._epoch = request.options.epoch

    def inline(self, chains: Sequence[str]) -> list[dict[str, Any]]:
        """What an image of these layers says of its steps; [] where it is not to."""
        wanted = any(place.kind == cacheformat.INLINE_KIND for place in targets(self._request))
        return cacheformat.inline(self._records(), chains, self._epoch) if wanted else []

    def _records(self) -> list[Record]:
        """Every key that leads to what was used: a step may have one that is known at once and one of its files' contents."""
        known = {record.key: record for record in self._used.values()}
        for record in (*self._imports.records(), *self._cache.all()):
            if (record.chain, record.parent) in self._used:
                known.setdefault(record.key, record)
        return [record for record in known.values() if self._worker.keep(record.chain)]

    async def run(self, vertices: Sequence[Vertex], chains: Sequence[str], telling: Callable[[str, Awaitable[Any]], Awaitable[Any]]) -> None:
        """Writes all of them. vertices: what was built; chains: of the layers of the results."""
        for place in targets(self._request):
            if place.kind == cacheformat.INLINE_KIND:
                continue
            try:
                await telling(f"exporting cache to {place.shown}", self._export(place, vertices, set(chains)))
            except (errors.BerthError, OSError) as error:
                if not place.ignore_error:
                    raise
                self._report(Event(progress.WARNING, at_ns=time.time_ns(), text=f"cache was not exported to {place.shown}: {error}"))

    async def _export(self, place: Place, vertices: Sequence[Vertex], chains: set[str]) -> None:
        while True:
            try:
                return await self._export_all(place, vertices, chains)
            except LayersLost:  # of a stage that nobody needed the files of: without its records, then
                continue

    async def _export_all(self, place: Place, vertices: Sequence[Vertex], chains: set[str]) -> None:
        records = [record for record in self._records() if place.mode == cacheformat.MAX or record.chain in chains]
        layers = self._layers(record.chain for record in records)
        mounts = await self._archived(vertices) if place.mounts else []
        if place.kind == cacheformat.LOCAL:
            await self._to_client(place, records, layers, mounts)
        else:
            await self._to_registry(place, records, layers, mounts)

    def _layers(self, chains: Iterable[str]) -> dict[str, tuple[str, str]]:
        """chain -> (diff, parent) of all layers that these need, from the bottom up."""
        found: dict[str, tuple[str, str]] = {}
        for chain in chains:
            below = self._imports.chains_below(chain)[::-1]
            for each, parent, diff in zip(below, ["", *below], self._worker.diffs(chain), strict=False):
                found.setdefault(each, (diff, parent))
        return found

    async def _layer(self, chain: str) -> Layer:
        await self._worker.bring(chain)
        below = self._images.layers_below(chain)
        if not below:
            raise errors.NotFound(f"layer {chain} has been removed meanwhile")
        return below[-1]

    # -- a directory of the client's ------------------------------------------------------------------------

    async def _to_client(
        self, place: Place, records: list[Record], layers: dict[str, tuple[str, str]], mounts: "list[tuple[CachedMount, Blob]]"
    ) -> None:
        async def blob(chain: str) -> Blob:
            return await self._blobs.of(await self._layer(chain), place.compression)

        blobs = await gathered([blob(chain) for chain in layers])
        config, manifest = self._documents(records, layers, [each.descriptor(oci=True) for each in blobs], mounts)

        def write(out: IO[bytes]) -> None:
            writing = Writing(out)
            for each in (config, manifest):
                writing.blob(each.raw)
            for blob in [*blobs, *(blob for _, blob in mounts)]:
                writing.layer(blob.saved())
            writing.layout([manifest.descriptor()])
            writing.end()

        await self._client.output(len(self._request.outputs) + place.number, write)

    def _documents(
        self, records: list[Record], layers: dict[str, tuple[str, str]], descriptors: list[dict], mounts: "list[tuple[CachedMount, Blob]]"
    ) -> tuple[Document, Document]:
        """(configuration, manifest)."""
        listed = [CacheLayer(chain, diff, parent, number) for number, (chain, (diff, parent)) in enumerate(layers.items())]
        named = [CachedMount(mount.name, mount.called, len(listed) + number) for number, (mount, _) in enumerate(mounts)]
        config = Document(cacheformat.CONFIG_TYPE, cacheformat.config(records, listed, named, self._epoch))
        blobs = [*descriptors, *(blob.descriptor(oci=True) for _, blob in mounts)]
        return config, document(OCI_MANIFEST, {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config.descriptor(), "layers": blobs})

    # -- a registry -------------------------------------------------------------------------------------------

    async def _to_registry(
        self, place: Place, records: list[Record], layers: dict[str, tuple[str, str]], mounts: "list[tuple[CachedMount, Blob]]"
    ) -> None:
        name = reference.parse(place.ref)
        distribution = self._distribution()
        client = distribution.client(name.registry, await self._client.credentials(name.registry), threading.Event())
        uploads = Uploads(client, name, self._images, self._blobs, lambda text: None, distribution.max_uploads)
        output = Output("image", 0, compression=place.compression)

        async def sent(chain: str) -> dict:
            if found := await stoppable(lambda stop: self._there(client, name, chain), client.close):
                return found
            return await uploads.layer(await self._layer(chain), output, oci=True, exact=place.compression.force)

        try:
            descriptors = await gathered([sent(chain) for chain in layers])
            for _, blob in mounts:
                await uploads.blob(blob)
            config, manifest = self._documents(records, layers, descriptors, mounts)
            await uploads.documents([config], [], manifest, name.tag)
        finally:
            await uploads.close()
            client.close()

    def _there(self, client: "RegistryClient", name: Reference, chain: str) -> dict | None:
        """A layer that is not here, because nobody needed its files, and lies in the same repository: it stays where it is."""
        if self._images.has_layer(chain) or not (found := self._imports.blob_of(chain)):
            return None
        where, blob = found
        if where != f"{name.registry}/{name.repository}" or client.blob_size(name.repository, blob.digest) is None:
            return None
        return {"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size_bytes}

    # -- cache mounts -------------------------------------------------------------------------------------------

    async def _archived(self, vertices: Sequence[Vertex]) -> "list[tuple[CachedMount, Blob]]":
        names = mount_names(vertices)
        found = []
        for name, called, _ in sorted(self._mounts.all()):
            if name.partition(".")[0] in names:
                directory = self._worker.new_directory("mount")
                found.append((CachedMount(name, called, 0), await stoppable(lambda stop, name=name, at=directory: self._pack(name, at, stop))))  # type: ignore[misc]
        return found

    def _pack(self, name: str, directory: str, stop: threading.Event) -> Blob:
        plain, packed = f"{directory}/tar", f"{directory}/gz"
        with Directory(self._mounts.path(name)) as top, open(plain, "wb") as out:
            writer = TarWriter(out)
            writer.add_tree(top.fd, "./")
            writer.close()
        with open(plain, "rb") as source, open(packed, "wb") as out:
            digest, size = pack(source, out, GZIP, stop=stop)
        os.unlink(plain)
        return Blob(digest, size, GZIP, lambda: open(packed, "rb"))


def mount_names(vertices: Sequence[Vertex]) -> dict[str, graph.Mount]:
    """The directories of the cache mounts that steps ask for, and one of those who do."""
    found: dict[str, graph.Mount] = {}
    pending, seen = list(vertices), set()
    while pending:
        vertex = pending.pop()
        if vertex in seen:
            continue
        seen.add(vertex)
        pending += vertex.inputs
        for mount in vertex.op.mounts if isinstance(vertex.op, graph.Run) else ():
            if mount.kind == graph.CACHE:
                found[hashlib.sha256((mount.identity or mount.target).encode()).hexdigest()[:32]] = mount
    return found


async def import_mounts(imports: Imports, mounts: CacheMounts, vertices: Sequence[Vertex], scratch: Callable[[str], str], report: Report) -> None:
    """Fills the cache mounts that steps ask for and that are not here yet. One that cannot be read makes a warning, and an empty mount."""
    here = {name for name, _, _ in mounts.all()}
    missing = {each for name in mount_names(vertices) for each in (name, f"{name}.0")} - here
    try:
        await imports.mounts(missing, lambda mount, stream: _unpack(mounts, mount, stream, scratch("mount")))
    except (errors.BerthError, OSError) as error:
        report(Event(progress.WARNING, at_ns=time.time_ns(), text=f"cache mounts were not read: {error}"))


def _unpack(mounts: CacheMounts, mount: CachedMount, stream: IO[bytes], scratch: str) -> None:
    top = f"{scratch}/files"
    os.mkdir(top, 0o755)
    with Directory(top) as directory:
        Unpacker(directory.fd, whiteouts=False, limits=_MOUNT_LIMITS).unpack(stream, lambda data: None)
    path = mounts.path(mount.name)
    try:
        os.rename(top, path)
    except OSError:  # another build has made it meanwhile
        remove_directories([top])
        return
    with open(f"{path}.about", "w") as file:
        file.write(f"{mount.called}\n")


__all__ = ["Exports", "check", "import_mounts", "targets"]
