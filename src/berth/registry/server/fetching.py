"""A blob on its way from another registry through this one: fetched once, by a thread, and followed by all who ask meanwhile."""

import asyncio
import hashlib
import os

from berth.errors import DataLoss
from berth.http.body import Disconnected
from berth.http.exchange import Exchange
from berth.registry.client.client import RegistryClient
from berth.registry.documents import Descriptor
from berth.registry.server.contents import Contents, blob_key, blob_link
from berth.registry.server.pulling import blob_headers, patiently, unknown_blob
from berth.store.partial import ArrivingReader, Partial

_SLICE_BYTES = 8 << 20
_NOTHING_CAME_S = 300.0


class Fetch:
    """One blob. `work` runs in a thread; all else belongs to the event loop, which `work` calls."""

    def __init__(self, name: str, digest: str) -> None:
        self.name, self.digest = name, digest
        self.size_bytes = 0
        self.fetched_bytes = 0  # 0 where another repository had it already
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.finished = False
        self._loop = asyncio.get_running_loop()
        self._partial: Partial | None = None
        self._descriptor = -1
        self._arrived_bytes = 0
        self._error: BaseException | None = None
        self._changed = asyncio.Event()

    # -- the thread's side ------------------------------------------------------------------------------

    def work(self, client: RegistryClient, repository: str, contents: Contents, directory: str) -> None:
        """Fetches, checks and keeps the blob. Raises BerthError, which followers get too."""
        error: BaseException | None = None
        try:
            self._work(client, repository, contents, directory)
        except BaseException as failure:
            error = failure
            raise
        finally:
            self._loop.call_soon_threadsafe(self._finish, error)

    def _work(self, client: RegistryClient, repository: str, contents: Contents, directory: str) -> None:
        size = client.blob_size(repository, self.digest)
        if size is None:
            raise unknown_blob(self.name, self.digest)
        with contents.lock:
            if contents.storage.stat(blob_key(self.digest)):
                contents.storage.write(blob_link(self.name, self.digest), b"")
                return
        partial = Partial(directory, self.digest, size)
        try:
            descriptor = os.open(partial.path, os.O_RDONLY | os.O_CLOEXEC)
            self._loop.call_soon_threadsafe(self._start, partial, descriptor)
            before = partial.present_bytes
            client.download(repository, Descriptor("", self.digest, size), partial, lambda count: self._progress(partial))
            self.fetched_bytes = size - before
            hashed = hashlib.sha256()
            reader = ArrivingReader(partial, hashed)
            while reader.read():
                pass
            if f"sha256:{hashed.hexdigest()}" != self.digest:
                partial.discard()
                raise DataLoss(f"blob {self.digest} came with digest sha256:{hashed.hexdigest()} from the registry behind this cache")
            whole = f"{partial.path}.whole"
            partial.take(whole)
            contents.add_blob(self.name, self.digest, whole)
        finally:
            partial.close()

    def _progress(self, partial: Partial) -> None:
        self._loop.call_soon_threadsafe(self._advance, partial.arrived_bytes)

    # -- the loop's side --------------------------------------------------------------------------------

    def _start(self, partial: Partial, descriptor: int) -> None:
        self._partial, self._descriptor, self.size_bytes = partial, descriptor, partial.size_bytes
        if not self.started.done():
            self.started.set_result(None)

    def _advance(self, arrived_bytes: int) -> None:
        self._arrived_bytes = max(self._arrived_bytes, arrived_bytes)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _finish(self, error: BaseException | None) -> None:
        self.finished, self._error = True, error
        if not self.started.done():
            self.started.set_result(None)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._wake()

    async def wait(self) -> None:
        """Until it is kept; raises what went wrong."""
        while not self.finished:
            await self._changed.wait()
        if self._error:
            raise self._error

    async def follow(self, exchange: Exchange) -> bool:
        """Sends the blob while it arrives; False, and nothing sent, if it is kept already. The last byte waits for the digest."""
        await self.started
        if self.finished:
            await self.wait()
            return False
        descriptor = os.dup(self._descriptor)
        try:
            exchange.start_body(200, self.size_bytes, blob_headers(self.digest))
            await self._send(exchange, descriptor)
        finally:
            os.close(descriptor)
        return True

    async def _send(self, exchange: Exchange, descriptor: int) -> None:
        sent = 0
        while sent < self.size_bytes:
            if self._error:
                raise Disconnected  # a body that stays short is all that says so
            ready = self.size_bytes if self.finished else min(self._arrived_bytes, self.size_bytes - 1)
            if ready <= sent:
                changed = self._changed
                try:
                    async with asyncio.timeout(_NOTHING_CAME_S):
                        await changed.wait()
                except TimeoutError:
                    raise Disconnected from None
                continue
            count = min(ready - sent, _SLICE_BYTES)
            await patiently(exchange.send_file(descriptor, sent, count))
            sent += count
