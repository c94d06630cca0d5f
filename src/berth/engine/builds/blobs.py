"""The layers of a build's results as blobs: compressed, each once, into files that go with the build."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import IO, TypeVar, cast

from berth.build.imagedocuments import layer_type
from berth.build.outputs import UNCOMPRESSED, Compression
from berth.engine.tasks import stoppable
from berth.store.archivewriter import SavedLayer, Stream
from berth.store.images import ImageStore, Layer
from berth.store.packing import pack

_T = TypeVar("_T")
_AT_A_TIME = 2


@dataclass(frozen=True, slots=True)
class Blob:
    """open: a stream of its bytes, from the start."""

    digest: str
    size_bytes: int
    compression: str
    open: Callable[[], Stream]

    def descriptor(self, *, oci: bool) -> dict:
        return {"mediaType": layer_type(self.compression, oci=oci), "digest": self.digest, "size": self.size_bytes}

    def saved(self) -> SavedLayer:
        return SavedLayer(self.digest, self.size_bytes, self.open)


class Blobs:
    """Of one build. new_directory: makes one with this in its name, on the store's file system; the caller removes it.

    portable: compressed so that every machine gets the same bytes.
    """

    def __init__(self, images: ImageStore, new_directory: Callable[[str], str], *, portable: bool) -> None:
        self._images = images
        self._new_directory = new_directory
        self._portable = portable
        self._made: dict[tuple[str, Compression], asyncio.Task[Blob]] = {}
        self._gate = asyncio.Semaphore(_AT_A_TIME)

    async def of(self, layer: Layer, compression: Compression) -> Blob:
        """The layer's archive in this form."""
        key = layer.diff, Compression(compression.kind, compression.level)
        if key not in self._made:
            self._made[key] = asyncio.ensure_future(self._make(layer, compression))
        return await asyncio.shield(self._made[key])

    async def close(self) -> None:
        """Ends what is under way: nobody reads layers after that."""
        tasks = list(self._made.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _tar(self, layer: Layer) -> Callable[[], Stream]:
        return lambda: self._images.layers.tar(layer.chain, layer.diff)

    async def _make(self, layer: Layer, compression: Compression) -> Blob:
        if compression.kind == UNCOMPRESSED:
            return Blob(layer.diff, self._images.layers.tar_size_bytes(layer.chain), UNCOMPRESSED, self._tar(layer))
        async with self._gate:
            return await stoppable(lambda stop: self._pack(layer, compression, stop))

    def _pack(self, layer: Layer, compression: Compression, stop: threading.Event) -> Blob:
        path = f"{self._new_directory('blob')}/{layer.diff.removeprefix('sha256:')}.{compression.kind}-{compression.level}"
        stream = self._tar(layer)()
        try:
            with open(path, "wb") as out:
                digest, size = pack(stream, out, compression.kind, level=compression.level, portable=self._portable, stop=stop)
        finally:
            stream.close()
        return Blob(digest, size, compression.kind, lambda: cast("Stream", open(path, "rb")))


async def gathered(work: list[Awaitable[_T]]) -> list[_T]:
    """All of them; the first failure ends the others, which have ended when it is raised."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def opened_at(blob: Blob) -> Callable[[int], IO[bytes]]:
    """As an upload asks for it: from an offset on."""

    def open_from(offset: int) -> IO[bytes]:
        stream = blob.open()
        while offset and (data := stream.read(min(offset, 1 << 20))):
            offset -= len(data)
        return cast("IO[bytes]", stream)

    return open_from
