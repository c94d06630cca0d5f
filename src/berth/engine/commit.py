"""Changes, export and commit: what became of a container's files since its image."""

import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import IO

from berth import errors
from berth.engine import changes as differences
from berth.engine import payload, state
from berth.engine.archive import inside
from berth.engine.containers import ContainerService
from berth.engine.events import EventBus
from berth.engine.images import publish
from berth.engine.registry import Container
from berth.engine.rootview import RootViews
from berth.engine.tasks import to_its_end
from berth.oci import reference
from berth.store.images import Image, ImageStore
from berth.store.tarwriter import TarWriter

log = logging.getLogger("berth.containers")

# Of a container's Config, what makes sense in an image.
_IMAGE_FIELDS = (
    "User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Healthcheck", "ArgsEscaped", "Volumes", "WorkingDir", "OnBuild",
    "Labels", "StopSignal", "StopTimeout", "Shell",
)  # fmt: skip


class Commits:
    """Looks at containers' changes; makes images of them."""

    def __init__(self, containers: ContainerService, roots: RootViews, images: ImageStore, events: EventBus) -> None:
        self._containers = containers
        self._roots = roots
        self._images = images
        self._events = events

    async def changes(self, container: Container) -> list[tuple[str, int]]:
        """(path, kind) of all that differs from the image."""
        async with self._roots.merged(container) as merged:
            return await self._changes(container, merged)

    async def _changes(self, container: Container, merged: int, hidden: Sequence[str] = ()) -> list[tuple[str, int]]:
        upper = os.open(self._roots.upper(container), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            async with self._roots.image(container) as image:
                return await to_its_end(lambda: differences.changes(upper, merged, image, hidden))
        finally:
            os.close(upper)

    @asynccontextmanager
    async def export(self, container: Container) -> AsyncIterator[Callable[[IO[bytes]], None]]:
        """A function that writes the container's file system, without what is mounted in it; blocks."""
        async with self._roots.merged(container) as root:

            def write(out: IO[bytes]) -> None:
                writer = TarWriter(out, inside(self._roots.maps(container)))
                writer.add_tree(root, "")
                writer.close()

            yield write

    @asynccontextmanager
    async def writing(
        self, container: Container, *, hidden: Sequence[str] = (), latest_s: int | None = None
    ) -> AsyncIterator[Callable[[IO[bytes]], None]]:
        """A function that writes a layer of what an ended container has changed; blocks. hidden: see changes; latest_s: of times."""
        async with self._roots.merged(container) as root:
            found = await self._changes(container, root, hidden)
            yield lambda out: self._write(container, root, found, out, latest_s)

    async def commit(
        self, container: Container, name: str, *, config: dict, author: str, comment: str, pause: bool
    ) -> Image:
        """An image of the container's changes over its own; config: what is to differ from the container's Config.

        name: a reference or ''. pause: whether its programs stand still meanwhile.
        """
        familiar = reference.parse(name).familiar if name else ""
        parent = self._images.find(container.record.image_id)
        paused = pause and await self._pause(container)
        try:
            async with self._roots.merged(container) as root:
                found = await self._changes(container, root)
                layer = await to_its_end(lambda: self._write_layer(container, root, found), os.unlink)
        finally:
            if paused:
                await self._unpause(container)
        record = container.record
        command = " ".join(record.config.get("Cmd") or [])
        image = await to_its_end(lambda: self._images.add_layer(
            parent, layer, config=image_config(config, record.config), author=author, comment=comment, created_by=command, name=familiar,
        ))  # fmt: skip
        if familiar:
            publish(self._events, image, "tag", familiar)
        self._containers.publish(container, "commit", {"comment": comment, "imageID": image.id, "imageRef": familiar})
        return image

    async def _pause(self, container: Container) -> bool:
        """Whether it stands still by our doing: one that is ending at this moment does so by itself."""
        if container.record.status != state.RUNNING:
            return False
        try:
            await self._containers.pause(container, for_commit=True)
        except (errors.BerthError, OSError) as error:
            log.info("container %s is committed without a pause: %s", container.record.id, error)
            return False
        return True

    async def _unpause(self, container: Container) -> None:
        try:
            await self._containers.unpause(container)
        except (errors.BerthError, OSError) as error:  # somebody else did, or it has been killed meanwhile
            log.info("container %s after its commit: %s", container.record.id, error)

    def _write_layer(self, container: Container, root: int, found: list[tuple[str, int]]) -> str:
        """The layer's archive as a temporary file; deleted paths as OCI whiteouts."""
        with self._images.layout.new_file() as file:
            try:
                self._write(container, root, found, file)
            except BaseException:
                os.unlink(file.name)
                raise
        return str(file.name)

    def _write(self, container: Container, root: int, found: list[tuple[str, int]], out: IO[bytes], latest_s: int | None = None) -> None:
        writer = TarWriter(out, inside(self._roots.maps(container)), latest_s=latest_s)
        differences.write(writer, root, found)
        writer.close()


def image_config(changed: dict, container: dict) -> dict:
    """An image's `config`: what is asked for over the container's. Pure."""
    merged = payload.merged_config(changed, container)
    for key in ("ExposedPorts", "Volumes"):
        both = {**(container.get(key) or {}), **(changed.get(key) or {})}
        if both:
            merged[key] = both
    for key in _IMAGE_FIELDS:
        if key not in ("Cmd", "Entrypoint") and key not in merged and container.get(key) is not None:
            merged[key] = container[key]
    return {key: merged[key] for key in _IMAGE_FIELDS if merged.get(key)}
