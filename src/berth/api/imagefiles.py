"""Images as files: import, load, save."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import IO, cast

from berth import errors
from berth.api import compat
from berth.api.changes import apply_changes
from berth.api.messages import Put, tell, tell_of_body
from berth.api.request import platform_of
from berth.api.threads import in_own_thread, in_thread_with_body, send_written, settle
from berth.engine import imageplatform
from berth.engine.feed import Feed, not_written
from berth.engine.images import publish
from berth.engine.service import Engine
from berth.http.exchange import Exchange
from berth.http.routing import Route
from berth.oci import platforms, reference
from berth.oci.platforms import Platform
from berth.registry.progress import Line, short
from berth.store.bringing import Loaded
from berth.store.images import Image


class ImageFiles:
    """Handlers; they see the engine's services and the exchange, no kernel and no files."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def routes(self) -> list[Route]:
        return [
            ("POST", "/images/load", self.image_load), ("GET", "/images/get", self.image_save),
            ("GET", "/images/{name...}/get", self.image_save),
        ]  # fmt: skip

    async def image_import(self, exchange: Exchange) -> None:
        source = exchange.query.get("fromSrc", "")
        if source != "-" and not source.startswith(("http://", "https://")):
            raise errors.InvalidParameter(f"import from {source!r}: neither '-' nor an address that begins with http:// or https://")
        repository, tag = exchange.query.get("repo", ""), exchange.query.get("tag", "")
        name = f"{repository}:{tag}" if repository and tag else repository
        if name:
            reference.parse(name)
        config = apply_changes(exchange.query_lists.get("changes", []))
        message = exchange.query.get("message", "") or f"Imported from {source}"
        text = exchange.query.get("platform", "")
        platform = platforms.parse(text) if text else platforms.host()
        if platform.os != "linux":
            raise errors.InvalidParameter(f"image operating system \"{platform.os}\" cannot be used on this platform: it has a Linux kernel")

        def bring(stream: IO[bytes]) -> Image:
            return self._engine.images.import_filesystem(stream, name, message, config, platform)

        await tell(exchange, self._import(exchange, source, name, bring))

    async def _import(self, exchange: Exchange, source: str, name: str, bring: Callable[[IO[bytes]], Image]) -> AsyncIterator[dict]:
        if source == "-":
            try:
                image = await in_thread_with_body(exchange.body, bring)
            except OSError as error:
                raise not_written(error) from error
        else:
            from berth.api.fetching import WebArchive  # brings urllib: not for every start of the engine

            archive = await in_own_thread(lambda: WebArchive(source))
            yield {"status": f"Downloading from {source}"}
            feed = Feed(asyncio.get_running_loop())
            archive.progress = partial(Line(feed.put, "").advance, "Importing")
            with contextlib.closing(archive):
                work = in_own_thread(lambda: feed.run(lambda: bring(cast("IO[bytes]", archive))))
                try:
                    async for message in feed.messages():
                        yield message
                finally:
                    archive.stop()
                    await settle(work)
            image = work.result()
        if name:
            publish(self._engine.events, image, "tag", reference.parse(name).familiar)
        publish(self._engine.events, image, "import")
        yield {"status": image.id}

    async def image_load(self, exchange: Exchange) -> None:
        wanted = self._platform(exchange)
        quiet = exchange.flag("quiet", True)

        def work(stream: IO[bytes], put: Put) -> Callable[[], list[dict]]:
            lines: dict[str, Line] = {}

            def progress(name: str, current: int, total: int) -> None:
                if name not in lines:
                    lines[name] = Line(put, short(name))
                lines[name].advance("Loading layer", current, total)

            return partial(self._loaded, self._engine.images.load(stream, wanted, None if quiet else progress))

        await tell_of_body(exchange, work)

    def _loaded(self, loaded: Loaded) -> list[dict]:
        for identity in dict.fromkeys(identity for _, identity in loaded.images):
            publish(self._engine.events, self._engine.images.find(identity), "load")
        said = [f"Not loaded: {words}" for words in loaded.passed]
        for name, identity in loaded.images:
            if name in loaded.replaced:
                said.append(f"The image {name} already exists, renaming the old one with ID {loaded.replaced[name]} to empty string")
            said.append(f"Loaded image: {name}" if name else f"Loaded image ID: {identity}")
        return [{"stream": f"{text}\n"} for text in said]

    async def image_save(self, exchange: Exchange) -> None:
        wanted = self._platform(exchange)
        names = [exchange.parameters["name"]] if "name" in exchange.parameters else exchange.query_lists.get("names", [])
        if not names:
            raise errors.InvalidParameter("no image named: query parameter 'names' is empty")
        saved = dict.fromkeys(
            imageplatform.found(self._engine.images, tag or identity, wanted)
            for name in names for tag, identity in self._engine.images.saved_names(name)
        )  # fmt: skip
        exchange.start_stream("application/x-tar")
        await send_written(exchange, lambda out: self._engine.images.save(names, out))
        for image in saved:
            publish(self._engine.events, image, "save")
        exchange.end_stream()

    @staticmethod
    def _platform(exchange: Exchange) -> Platform | None:
        return None if compat.before(exchange.version, 48) else platform_of(exchange.query_lists.get("platform", []))
