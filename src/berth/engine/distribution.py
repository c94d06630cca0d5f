"""Images from and to registries, as the engine does them: for a client that listens to the progress, and may leave.

The work is `registry`'s and blocks, so it has a thread of its own; what it reports comes through a queue. A client that
leaves ends its transfer; what has arrived stays for the next one.
"""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import TypeVar

from berth import VERSION
from berth.engine import imageplatform
from berth.engine.events import EventBus
from berth.engine.feed import Feed
from berth.engine.options import Options
from berth.engine.registryauth import login_registry, split_term
from berth.errors import InvalidParameter, NotFound
from berth.oci import platforms, reference
from berth.oci.reference import Reference
from berth.registry import documents
from berth.registry.client.challenge import Credentials
from berth.registry.client.client import RegistryClient
from berth.registry.client.keeping import Keeper
from berth.registry.client.settings import Settings
from berth.registry.progress import Report
from berth.registry.pulling import Pull, Transfers
from berth.registry.pushing import Push
from berth.store.images import Image, ImageStore

_T = TypeVar("_T")

class Distribution:
    """Pull, push, search and login for one engine."""

    def __init__(self, options: Options, images: ImageStore, events: EventBus) -> None:
        self._options = options
        self._images = images
        self._events = events
        self._transfers = Transfers(options.max_concurrent_downloads)
        self._uploads = threading.BoundedSemaphore(options.max_concurrent_uploads)
        self._running: set[threading.Event] = set()
        self._keeper = Keeper()

    def close(self) -> None:
        """The engine ends: so do its transfers."""
        for cancelled in list(self._running):
            cancelled.set()
        self._keeper.close()

    def _settings(self) -> Settings:
        options = self._options
        return Settings(
            mirrors=options.registry_mirrors, insecure=options.insecure_registries, attempts=options.max_download_attempts,
            agent=f"berth/{VERSION}", foreign=options.foreign_registries, environment=options.proxies(),
        )  # fmt: skip

    def client(self, registry: str, credentials: Credentials, cancelled: threading.Event) -> RegistryClient:
        """For what a build pushes or reads beside images; the caller's to close."""
        return RegistryClient(registry, self._settings(), credentials, cancelled, self._keeper)

    def layers(self, client: RegistryClient, name: Reference, cancelled: threading.Event) -> Pull:
        """To bring single layers of a repository."""
        return Pull(client, self._images, self._transfers, name, None, lambda message: None, cancelled, whole=False)

    @property
    def max_uploads(self) -> int:
        return self._options.max_concurrent_uploads

    # -- transfers ------------------------------------------------------------------------------------

    async def pull(self, name: Reference, platform: str, credentials: Credentials) -> AsyncIterator[dict]:
        """Docker's messages. name without tag and digest: every tag of the repository. Errors are raised, also halfway."""
        wanted = platforms.parse(platform) if platform else None

        def work(client: RegistryClient, report: Report, cancelled: threading.Event) -> None:
            names = [name]
            if not name.tag and not name.digest:
                names = [Reference(name.registry, name.repository, tag, "") for tag in client.tags(name)]
            new = [self._pull(client, one, wanted, report, cancelled) for one in names]
            said = "Downloaded newer image" if any(new) else "Image is up to date"
            report({"status": f"Status: {said} for {name.familiar}"})

        async for message in self._run(name.registry, credentials, work):
            yield message

    def _pull(
        self, client: RegistryClient, name: Reference, wanted: platforms.Platform | None, report: Report, cancelled: threading.Event
    ) -> bool:
        found = Pull(client, self._images, self._transfers, name, wanted, report, cancelled).run()
        report({"status": f"Digest: {found.digest}"})
        report({"event": ("pull", name, found.image)})
        return found.new

    async def push(self, name: Reference, credentials: Credentials, wanted: platforms.Platform | None = None) -> AsyncIterator[dict]:
        """Docker's messages. name without tag: every tag of the repository that is here. wanted: NotFound if one is for another platform."""

        def work(client: RegistryClient, report: Report, cancelled: threading.Event) -> None:
            if wanted:
                for one in self._tags_of(name):
                    imageplatform.found(self._images, one.familiar, wanted)
            report({"status": f"The push refers to repository [{name.registry}/{name.repository}]"})
            for one in self._tags_of(name):
                self._push(client, one, report, cancelled)

        async for message in self._run(name.registry, credentials, work):
            yield message

    def _tags_of(self, name: Reference) -> list[Reference]:
        if name.digest:
            raise InvalidParameter("cannot push a digest reference")
        here = [reference.parse(tag) for image in self._images.all() for tag in self._images.names_of(image.id)]
        found = [one for one in here if one.familiar_name == name.familiar_name]
        if not found:
            raise NotFound(f"An image does not exist locally with the tag: {name.familiar_name}")
        if name.tag and name.tag not in {one.tag for one in found}:
            raise NotFound(f"tag does not exist: {name.familiar}")
        return [name] if name.tag else sorted(found, key=lambda one: one.tag)

    def _push(self, client: RegistryClient, name: Reference, report: Report, cancelled: threading.Event) -> None:
        image = self._images.find(name.familiar)
        pushed = Push(
            client, self._images, self._uploads, name, image, report, cancelled, uploads=self._options.max_concurrent_uploads
        ).run()
        report({"status": f"{name.tag}: digest: {pushed.digest} size: {pushed.size_bytes}"})
        report({"progressDetail": {}, "aux": {"Tag": name.tag, "Digest": pushed.digest, "Size": pushed.size_bytes}})
        report({"event": ("push", name, image)})

    async def _run(
        self, registry: str, credentials: Credentials, work: Callable[[RegistryClient, Report, threading.Event], None]
    ) -> AsyncIterator[dict]:
        """Runs `work` in a thread; its reports in order, then what it raised."""
        feed = Feed(asyncio.get_running_loop())
        cancelled = threading.Event()
        client = RegistryClient(registry, self._settings(), credentials, cancelled, self._keeper)

        def whole() -> None:
            work(client, feed.put, cancelled)
            client.release()

        def run() -> None:
            with suppress(BaseException):  # the feed tells
                feed.run(whole)

        thread = threading.Thread(target=run, name=f"registry-{registry}", daemon=True)
        self._running.add(cancelled)
        thread.start()
        try:
            async for message in feed.messages():
                if "event" in message:
                    self._publish(*message["event"])
                else:
                    yield message
        finally:
            self._running.discard(cancelled)
            cancelled.set()
            client.close()
            await asyncio.shield(feed.ended.wait())

    def _publish(self, action: str, name: Reference, image: Image) -> None:
        labels = (image.config.get("config") or {}).get("Labels") or {}
        self._events.publish("image", action, name.familiar, {**labels, "name": name.familiar_name})

    # -- questions --------------------------------------------------------------------------------------

    async def login(self, address: str, credentials: Credentials) -> str:
        """Tries the credentials -> the identity token, or ''. Unauthorized if the registry does not take them."""
        return await asyncio.to_thread(self._ask, login_registry(address), credentials, lambda client: client.login())

    async def search(self, term: str, limit: int, credentials: Credentials) -> list[dict]:
        """The entries of a registry's index; `host/term` asks the registry of that name."""
        registry, term = split_term(term)
        return await asyncio.to_thread(self._ask, registry, credentials, lambda client: client.search(term, limit))

    async def inspect(self, name: Reference, credentials: Credentials) -> dict:
        """What a registry has under a name: GET /distribution/{name}/json."""

        def work(client: RegistryClient) -> dict:
            top = client.manifest(name)
            found = [entry.platform for entry in top.manifests if entry.platform]
            if not top.is_index and top.config:
                found = [one for one in [platforms.of_document(_json(client.config(name.repository, top.config)))] if one]
            return {
                "Descriptor": documents.Descriptor(top.media_type, top.digest, len(top.raw)).as_json(),
                "Platforms": [one.as_json() for one in found],
            }  # fmt: skip

        return await asyncio.to_thread(self._ask, name.registry, credentials, work)

    def _ask(self, registry: str, credentials: Credentials, work: Callable[[RegistryClient], _T]) -> _T:
        with RegistryClient(registry, self._settings(), credentials) as client:
            return work(client)


def _json(raw: bytes) -> object:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None
