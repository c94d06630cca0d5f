"""A registry as a cache of another one: what is asked for is fetched once, sent on as it comes, and kept.

A tag is asked of the other registry each time, by a HEAD request; where that does not answer, what is kept is served.
"""

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from urllib.parse import urlsplit

from berth.errors import BerthError, InvalidParameter, NotFound, Unauthorized, Unavailable
from berth.oci.reference import Reference
from berth.registry.client.challenge import Credentials
from berth.registry.client.client import RegistryClient
from berth.registry.client.settings import DOCKER_HUB, Settings
from berth.registry.server import manifests, names
from berth.registry.server.contents import Contents, Manifest, blob_key
from berth.registry.server.fetching import Fetch
from berth.registry.server.options import Options
from berth.registry.server.pulling import send, unknown_blob
from berth.registry.server.refusals import Refused
from berth.registry.server.registry import Registry, Request

log = logging.getLogger("berth.registry")

_FETCHES = 8
_ASKING = 8
_TRIM_TO = 0.9
_HUB_HOSTS = ("docker.io", "index.docker.io", "registry-1.docker.io")
_Result = TypeVar("_Result")


class Cache:
    """One other registry. Two pools of threads: a manifest must not wait behind eight large blobs."""

    def __init__(self, registry: Registry, options: Options) -> None:
        self._registry = registry
        self._contents = registry.contents
        self._host, self._client, self._cancelled = _client(options)
        self._directory = f"{options.root}/fetching"
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        self._fetches: dict[str, Fetch] = {}
        self._tags: dict[tuple[str, str], asyncio.Future[Manifest]] = {}
        self._blob_pool = ThreadPoolExecutor(_FETCHES, thread_name_prefix="fetch")
        self._pool = ThreadPoolExecutor(_ASKING, thread_name_prefix="ask")
        self._most_bytes = options.cache_bytes
        self._stored_bytes = sum(size for _, size, _ in stored(self._contents)) if self._most_bytes else 0
        self._trimming = threading.Lock()

    def close(self) -> None:
        """Ends what is under way; what came of a blob is gone on with after the next start."""
        self._cancelled.set()
        self._client.close()
        self._blob_pool.shutdown(cancel_futures=True)
        self._pool.shutdown(cancel_futures=True)

    async def _ask(self, work: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _reference(self, name: str, tag: str = "", digest: str = "") -> Reference:
        return Reference(self._host, self._repository(name), tag, digest)

    def _repository(self, name: str) -> str:
        return f"library/{name}" if self._host == DOCKER_HUB and "/" not in name else name

    # -- manifests --------------------------------------------------------------------------------------

    async def manifest(self, name: str, reference: str) -> Manifest:
        """By tag or digest. Refused if neither registry has it."""
        metrics = self._registry.metrics
        if names.is_digest(reference):
            found = await self._registry.run(self._contents.manifest, name, reference)
            metrics.cache["hit" if found else "miss"] += 1
            return found if found else await self._ask(lambda: self._fetch_manifest(name, "", reference))
        if not names.is_tag(reference):
            raise Refused("MANIFEST_UNKNOWN", f"manifest {reference[:200]} is not in {name}")
        key = (name, reference)
        if key not in self._tags:  # many who ask for one tag at once are one question
            self._tags[key] = asyncio.ensure_future(self._ask(lambda: self._by_tag(name, reference)))
            self._tags[key].add_done_callback(lambda done: (self._tags.pop(key, None), done.cancelled() or done.exception()))
        return await asyncio.shield(self._tags[key])

    def _by_tag(self, name: str, tag: str) -> Manifest:
        kept = self._contents.resolve(name, tag)
        try:
            found = self._client.describe(self._reference(name, tag))
        except (NotFound, Unauthorized) as error:
            raise Refused("MANIFEST_UNKNOWN", str(error)) from None
        except Unavailable as error:
            manifest = self._contents.manifest(name, kept) if kept else None
            if manifest is None:
                raise
            log.warning("%s:%s is served as it was kept: %s", name, tag, error)
            return manifest
        if found is None:
            self._contents.remove_tag(name, tag)
            raise Refused("MANIFEST_UNKNOWN", f"manifest {tag} is not in {name}", detail={"name": name, "reference": tag})
        manifest = self._contents.manifest(name, found.digest)
        self._registry.metrics.cache["hit" if manifest else "miss"] += 1
        if manifest is None or kept != found.digest:
            return self._fetch_manifest(name, tag, found.digest)
        return manifest

    def _fetch_manifest(self, name: str, tag: str, digest: str) -> Manifest:
        try:
            document = self._client.manifest(self._reference(name, "", digest))
        except (NotFound, Unauthorized) as error:
            raise Refused("MANIFEST_UNKNOWN", str(error)) from None
        self._contents.put_manifest(name, tag, manifests.parse(document.raw, document.media_type), checked=False)
        self._registry.index.update(name)
        return Manifest(document.digest, document.media_type, document.raw)

    # -- blobs ------------------------------------------------------------------------------------------

    async def blob(self, request: Request, digest: str) -> None:
        """Answers with a blob that is not here yet."""
        exchange, name = request.exchange, request.name
        if exchange.method == "HEAD":
            size = await self._size(name, digest)
            exchange.respond(200, headers={"Content-Length": str(size), "Content-Type": "application/octet-stream", "Docker-Content-Digest": digest})
            return
        fetch = self._fetches.get(digest)
        if fetch and fetch.name != name:  # which says nothing of this repository
            await self._size(name, digest)
        if await self._fetched(fetch or self._begin(name, digest), request, digest):
            return
        content = await self._registry.run(self._contents.open_blob, name, digest)
        if content is None:
            raise unknown_blob(name, digest)
        try:
            await send(self._registry, exchange, digest, content)
        finally:
            content.close()

    async def _fetched(self, fetch: Fetch, request: Request, digest: str) -> bool:
        """Waits for the blob, which then is this repository's, too; True if it was sent meanwhile."""
        exchange, name = request.exchange, request.name
        try:
            if exchange.headers.get("range"):
                await fetch.wait()
                sent = False
            else:
                sent = await fetch.follow(exchange)
        except Refused:
            if fetch.name == name or exchange.responded:
                raise
            return await self._fetched(self._begin(name, digest), request, digest)  # the other repository has none
        self._registry.metrics.sent_bytes += fetch.size_bytes if sent else 0
        await self._registry.run(self._contents.mount, name, digest, fetch.name)
        return sent

    async def _size(self, name: str, digest: str) -> int:
        """Of a blob of this repository, as the other registry says. Refused where it has none."""
        size = await self._ask(lambda: self._client.blob_size(self._repository(name), digest))
        if size is None:
            raise unknown_blob(name, digest)
        return size

    def _begin(self, name: str, digest: str) -> Fetch:
        fetch = self._fetches[digest] = Fetch(name, digest)
        self._registry.metrics.cache["miss"] += 1
        loop = asyncio.get_running_loop()
        task = loop.run_in_executor(self._blob_pool, fetch.work, self._client, self._repository(name), self._contents, self._directory)
        task.add_done_callback(lambda done: self._ended(fetch, done))
        return fetch

    def _ended(self, fetch: Fetch, done: "asyncio.Future[None]") -> None:
        if self._fetches.get(fetch.digest) is fetch:
            del self._fetches[fetch.digest]
        if not done.cancelled() and (error := done.exception()):
            log.warning("blob %s of %s: %s", fetch.digest, fetch.name, error)
            return
        self._registry.metrics.fetched_bytes += fetch.fetched_bytes
        self._stored_bytes += fetch.fetched_bytes
        if self._most_bytes and self._stored_bytes > self._most_bytes and not done.cancelled():
            self._pool.submit(self._trim)

    def _trim(self) -> None:
        """Removes the blobs that were not used for longest. Their links stay: they say only whose they are."""
        with self._trimming:
            blobs = sorted(stored(self._contents))
            left = sum(size for _, size, _ in blobs)
            for used_s, size, digest in blobs:
                if left <= self._most_bytes * _TRIM_TO:
                    break
                with self._contents.lock:
                    found = self._contents.storage.stat(blob_key(digest))
                    if found and found.modified_s <= used_s and self._contents.storage.delete(blob_key(digest)):
                        left -= size
            self._stored_bytes = left

    # -- lists ------------------------------------------------------------------------------------------

    async def tags(self, name: str) -> list[str]:
        """The other registry's; what is kept where that does not answer."""
        try:
            return sorted(await self._ask(lambda: self._client.tags(self._reference(name))))
        except (NotFound, Unauthorized) as error:
            raise Refused("NAME_UNKNOWN", str(error)) from None
        except Unavailable:
            found = await self._registry.run(self._contents.tags, name)
            if not found:
                raise
            return found

    async def referrers(self, name: str, digest: str) -> list[dict]:
        try:
            found = await self._ask(lambda: self._client.referrers(self._repository(name), digest))
        except BerthError as error:
            log.warning("referrers of %s in %s: %s", digest, name, error)
            return await self._registry.run(self._contents.referrers, name, digest)
        return [
            {**one.as_json(), **({"artifactType": one.artifact_type} if one.artifact_type else {}), **({"annotations": one.annotations} if one.annotations else {})}
            for one in found
        ]


def stored(contents: Contents) -> list[tuple[float, int, str]]:
    """(used last, size, digest) of every blob that is no manifest."""
    kept = {entry.name for name in list(contents.names) for entry in contents.manifests(name)}
    storage = contents.storage
    entries = (entry for part in storage.children("blobs") for entry in storage.children(f"blobs/{part.name}"))
    return [(entry.modified_s, entry.size_bytes, f"sha256:{entry.name}") for entry in entries if entry.name not in kept]


def _client(options: Options) -> tuple[str, RegistryClient, threading.Event]:
    parts = urlsplit(options.remote)
    if not parts.hostname or parts.username or parts.path.rstrip("/") or parts.query:
        raise InvalidParameter(f"--proxy-remote {options.remote!r}: give http:// or https:// and a host, nothing behind it")
    password = ""
    if options.remote_password_file:
        try:
            with open(options.remote_password_file) as file:
                password = file.read().rstrip("\n")
        except OSError as error:
            raise InvalidParameter(f"--proxy-password-file {options.remote_password_file}: {error.strerror}") from None
    host = DOCKER_HUB if parts.hostname in _HUB_HOSTS else parts.netloc
    settings = Settings(insecure=[host] if parts.scheme == "http" else [])
    cancelled = threading.Event()
    return host, RegistryClient(host, settings, Credentials(options.remote_username, password), cancelled), cancelled
