"""The mounts of containers: settled when one is made, there while it runs, let go of when it ends.

A layer of the container service (registry.py). Which volumes are whose follows from the containers' records alone.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

from berth import errors
from berth.engine import copyup, hostfiles, mountrules, relabel, state
from berth.engine.idmaps import Maps
from berth.engine.mountpoints import BIND, CHAIN, IMAGE, VOLUME, MountPoint, is_plain, oci_mount, of_record, source_of
from berth.engine.mountrules import WantedMount
from berth.engine.registry import Container, Registry
from berth.engine.tasks import to_its_end
from berth.engine.volumerecord import VolumeRecord
from berth.engine.volumes import insertion
from berth.store.database import Statement
from berth.store.imagerecords import Lower

ViewImage = Callable[[Container], AbstractAsyncContextManager[int]]


class Mounting(Registry):
    """What containers have mounted. view_image: the root of a container's image as a descriptor; set by whoever makes views."""

    view_image: ViewImage

    # -- when a container is made -------------------------------------------------------------------------

    def _wanted_mounts(self, config: dict[str, Any], host: dict[str, Any]) -> list[WantedMount]:
        """What a request asks for, checked as far as words go."""
        inherited = mountrules.inherited(host.get("VolumesFrom") or [], lambda name: of_record(self.find(name).record))
        wanted = mountrules.wanted(host, config.get("Volumes"), inherited)
        return self._checked_mounts(wanted)

    def _checked_mounts(self, wanted: list[WantedMount]) -> list[WantedMount]:
        """With images found, and sources made that are to be made."""
        found = [self._with_image(each) if each.point.kind == IMAGE and not each.point.source else each for each in wanted]
        hostfiles.make_bind_sources([each.point.source for each in found if each.make_source])
        return found

    def _with_image(self, wanted: WantedMount) -> WantedMount:
        try:
            image = self._images.find(wanted.point.name)
        except errors.NotFound as error:
            raise errors.InvalidParameter(f"mount at {wanted.point.destination}: {error}") from None  # clients pull on "not found"
        return replace(wanted, point=replace(wanted.point, source=image.id))

    @asynccontextmanager
    async def _settling(self, wanted: list[WantedMount]) -> AsyncIterator[tuple[list[MountPoint], list[VolumeRecord]]]:
        """The mounts, and records of volumes that are to be made; none that is named goes away meanwhile."""
        async with AsyncExitStack() as stack:
            if any(each.point.kind == VOLUME for each in wanted):
                await stack.enter_async_context(self._volumes.lock)
            made: dict[str, VolumeRecord] = {}
            yield [self._settled(each, made) for each in wanted], list(made.values())

    def _settled(self, wanted: WantedMount, made: dict[str, VolumeRecord]) -> MountPoint:
        point = wanted.point
        if point.kind != VOLUME or point.name in made:
            return point
        record = self._volumes.drafted(point.name, wanted.driver, wanted.labels, wanted.options)
        if record:
            made[record.name] = record
            point = replace(point, name=record.name)
        return point

    async def _populate(self, container: Container, *, mounted: bool) -> bool:
        """Copies what the image has into volumes that are empty; whether the record is another now.

        mounted: into those with a file system of their own, too, which may be empty each time they are mounted.
        """
        points, changed = await self._filled(container, of_record(container.record), mounted=mounted)
        if changed:
            container.record.mounts = [point.to_dict() for point in points]
        return changed

    async def _filled(self, container: Container, points: list[MountPoint], *, mounted: bool) -> tuple[list[MountPoint], bool]:
        """Those mounts after that, and whether one has changed."""
        todo = [point for point in points if point.copy and (mounted or not self._volumes.find(point.name).record.has_filesystem)]
        layers = self.lower_of(container.record).directories if todo else []
        todo = [point for point in todo if copyup.may_have(layers, point.destination)]
        if not todo:
            return points, False
        async with self.view_image(container) as root:
            for point in todo:
                async with self._volumes.find(point.name).lock:
                    await to_its_end(lambda point=point: self._copy(root, point))  # type: ignore[misc]
        once = {point.destination for point in todo if not self._volumes.find(point.name).record.has_filesystem}
        return [replace(point, copy=False) if point.destination in once else point for point in points], bool(once)

    def _copy(self, root: int, point: MountPoint) -> None:
        content = copyup.open_content(root, point.destination)
        if content >= 0:
            copyup.populate(self._volumes.mountpoint(point.name), content)

    # -- while it runs --------------------------------------------------------------------------------------

    def _volumes_of(self, container: Container) -> list[str]:
        pending = (container.record.pending_mounts or {}).get("added", [])
        points = [*of_record(container.record), *map(MountPoint.of_dict, pending)]
        return [point.name for point in points if point.kind == VOLUME]

    async def _hold_mounts(self, container: Container) -> None:
        """Before a start: all that it mounts is in its place. `_release_mounts` follows, whatever becomes of it."""
        container.holds_mounts = True
        names = self._volumes_of(container)
        await self._volumes.mount(names)
        if names and await self._populate(container, mounted=True):
            await self.save(container)
        if self.host.selinux:
            await self._relabel(container)

    async def _relabel(self, container: Container) -> None:
        for point in of_record(container.record):
            if point.label and point.kind in (BIND, VOLUME):
                path = self._volumes.mountpoint(point.name) if point.kind == VOLUME else point.source
                label = relabel.label_of(point.label, container.record.host.get("SecurityOpt") or [])
                await asyncio.to_thread(relabel.relabel, path, label)

    def _oci_mounts(
        self, container: Container, user_of: Callable[[str], tuple[int, int]], id_maps: Maps | None
    ) -> tuple[list[dict], list[dict]]:
        """What the runtime mounts, and sources that the starter makes for it first (runtime/sources.py).

        user_of: ids of a user of the container by name, '' for its own.
        """
        mounts: list[dict] = []
        sources: list[dict] = []
        for number, point in enumerate(of_record(container.record)):
            path = self._volumes.mountpoint(point.name) if point.kind == VOLUME else point.source
            if is_plain(point):
                mounts.append(oci_mount(point, path))
                continue
            at = f"{self.directory(container)}/mounts/{number}"
            layers = self._layers_of(point) if point.kind == IMAGE else None
            sources.append(source_of(point, at, path, layers, user_of, id_maps))
            mounts.append(oci_mount(point, at))
        return mounts, sources

    def _layers_of(self, point: MountPoint) -> dict:
        try:
            if point.source.startswith("/"):
                return Lower([point.source], "", []).fields()
            if point.source.startswith(CHAIN):
                return self._images.lower_of_chain(point.source.removeprefix(CHAIN)).fields()
            return self._images.lower(self._images.find(point.source)).fields()
        except errors.NotFound:
            raise errors.Conflict(f"image {point.name}, which is mounted at {point.destination}, is gone") from None

    def _publish_mounts(self, container: Container, points: list[MountPoint] | None = None) -> None:
        """points: those meant, if not all."""
        for point in of_record(container.record) if points is None else points:
            if point.kind == VOLUME:
                self._volumes.publish_use(point.name, "mount", {
                    "container": container.record.id, "destination": point.destination, "propagation": point.propagation,
                    "read/write": "false" if point.read_only else "true",
                })  # fmt: skip

    def _publish_unmounts(self, container: Container, points: list[MountPoint] | None = None) -> None:
        for point in of_record(container.record) if points is None else points:
            if point.kind == VOLUME:
                self._volumes.publish_use(point.name, "unmount", {"container": container.record.id})

    def _release_mounts(self, container: Container) -> None:
        """It has ended: volumes that nobody else uses are let go of."""
        container.holds_mounts = False
        names = self._volumes_of(container)
        if any(self._volumes.has(name) and self._volumes.find(name).record.has_filesystem for name in names):
            self._tasks.spawn(self._volumes.unmount_idle(names))

    def volumes_held(self, container: Container) -> AbstractAsyncContextManager[None]:
        """Its volumes in their places, for who looks into it while it does not run."""
        return self._volumes.held(self._volumes_of(container))

    def users_of_volume(self, name: str) -> list[str]:
        """Ids of the containers that have it in their records."""
        return [c.record.id for c in self._by_id.values() if name in self._volumes_of(c)]

    def is_volume_used_now(self, name: str) -> bool:
        """Whether a container that runs, or is being started, has it mounted."""
        return any((c.holds_mounts or c.record.running) and name in self._volumes_of(c) for c in self._by_id.values())

    # -- in the end -------------------------------------------------------------------------------------------

    async def _delete(self, container: Container, *, with_volumes: bool) -> list[str]:
        """Takes its record out of the database, with_volumes: and those of anonymous volumes that no other container has.

        Returns directories that are to be removed.
        """
        statement: Statement = ("DELETE FROM containers WHERE id = ?", (container.record.id,))
        own = {point.name for point in of_record(container.record) if point.anonymous} if with_volumes else set()
        if not own:
            await self._database.write(statement, lasting=not container.record.auto_remove)
            return []
        async with self._volumes.lock:
            alone = sorted(name for name in own if self._volumes.has(name) and self.users_of_volume(name) == [container.record.id])
            return await self._volumes.remove_with(alone, statement)

    async def _undo_create(self, container: Container, made: list[VolumeRecord]) -> None:
        """A create that failed half-way: neither the container nor the volumes that it brought were ever there."""
        record = container.record
        record.move(state.REMOVING)
        async with self._volumes.lock:
            del self._by_id[record.id], self._by_name[record.name]
            names = [r.name for r in made if self._volumes.has(r.name) and not self.users_of_volume(r.name)]
            paths = await self._volumes.remove_with(names, ("DELETE FROM containers WHERE id = ?", (record.id,)))
        await to_its_end(lambda: hostfiles.remove_directories([*paths, self.directory(container)]))


def insertions(records: list[VolumeRecord]) -> list[Statement]:
    """Those that make volumes, for the transaction that makes their container."""
    return [insertion(record) for record in records]

