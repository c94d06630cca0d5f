"""Images that builds begin with, also those for other platforms than the one that the store keeps under a name.

    DATA_ROOT/build/bases.json     [[name, platform, image id], …]; losing it costs a question to a registry

A pull gives the name to what it brought. Where that is for another platform than what had the name before, the name goes back: a build for
arm64 must not leave this machine's `debian` unable to run.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import Awaitable, Callable

from berth.engine import imageplatform
from berth.errors import BerthError, NotFound
from berth.oci import platforms, reference
from berth.store.images import Image, ImageStore

_MOST = 1000


class Bases:
    """Of one engine; used from the loop alone."""

    def __init__(self, images: ImageStore, directory: str) -> None:
        self._images = images
        self._path = f"{directory}/bases.json"
        self._locks: dict[str, asyncio.Lock] = {}
        self._known: dict[tuple[str, str], str] = {}
        with contextlib.suppress(OSError, ValueError, TypeError), open(self._path) as file:
            self._known = {(str(name), str(platform)): str(identity) for name, platform, identity in json.load(file)}

    def here(self, name: str, platform: str) -> Image:
        """NotFound where it is not in the store for this platform."""
        try:
            return imageplatform.found(self._images, name, platforms.parse(platform))
        except NotFound:
            image = None if reference.is_image_id(name) else self._images.by_id(self._known.get((reference.parse(name).familiar, platform), ""))
            if image is None:
                raise
            return image

    async def pulled(self, name: str, platform: str, pull: Callable[[], Awaitable[None]]) -> Image:
        """After `pull`, which brings it. Pulls of one name go one after the other."""
        familiar, wanted = reference.parse(name).familiar, platforms.parse(platform)
        async with self._locks.setdefault(familiar, asyncio.Lock()):
            before = self._images.tagged(familiar)
            try:
                await pull()
            except BerthError as error:
                has = before and platforms.of_document(before.config)
                if not has or platforms.rank(wanted, has) is not None:
                    raise
                raise type(error)(f"{error}; {familiar} is here for {has}, and {platform} is wanted") from None
            image = imageplatform.found(self._images, name, wanted)
            if platforms.rank(platforms.host(), wanted) is None:
                self._note(familiar, platform, image)
                if before and before.id != image.id and _fits_host(before):
                    with contextlib.suppress(BerthError):  # removed meanwhile
                        self._images.tag(before.id, familiar)
            return image

    def _note(self, name: str, platform: str, image: Image) -> None:
        self._known.pop((name, platform), None)
        self._known[name, platform] = image.id
        rows = [[*key, identity] for key, identity in self._known.items() if self._images.by_id(identity)][-_MOST:]
        with contextlib.suppress(OSError):
            with open(f"{self._path}.new", "w") as file:
                json.dump(rows, file)
            os.rename(f"{self._path}.new", self._path)


def _fits_host(image: Image) -> bool:
    offered = platforms.of_document(image.config)
    return offered is None or platforms.rank(platforms.host(), offered) is not None
