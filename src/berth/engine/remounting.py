"""`POST /containers/{id}/update` with MountAdd and MountRemove: mounts of a container changed, also while it runs.

A layer of the container service (registry.py). The request is written down before anything is done (`pending_mounts`), so
that an engine which is killed meanwhile has the next one finish it; once it is done, the record has the mounts it has then.
"""

import os
from typing import Any

from berth import errors
from berth.engine import hostfiles, mountrules, payload
from berth.engine.asking import ask
from berth.engine.mounting import insertions
from berth.engine.mountpoints import IMAGE, TMPFS, VOLUME, MountPoint, is_plain, oci_mount, of_record, source_of
from berth.engine.mountrules import WantedMount
from berth.engine.registry import SHORT, Container
from berth.engine.running import Running
from berth.engine.volumerecord import VolumeRecord
from berth.store.imagerecords import Lower

_NEVER = ("/proc", "/sys", "/dev")


class Remounting(Running):
    """Mounts that come and go in the life of a container."""

    def check_mounts(self, container: Container, request: dict[str, Any]) -> None:
        """Raises what `change_mounts` would, as far as that can be known before."""
        self._wanted_changes(container, request)

    async def change_mounts(self, container: Container, request: dict[str, Any]) -> None:
        """Does what a request asks for, all of it or nothing. The caller has the container's lock."""
        wanted, removed = self._wanted_changes(container, request)
        if not wanted and not removed:
            return
        record = container.record
        made: list[VolumeRecord] = []
        try:
            async with self._settling(wanted) as (added, made):
                record.pending_mounts = {"added": [point.to_dict() for point in added], "removed": removed, "mounts": request.get("MountAdd") or []}
                await self._database.write(*insertions(made), self._update_of(container))
                await self._volumes.add(made)
            await self._apply_changes(container, again=False)
        except BaseException:
            await self._undo_changes(container, made)
            raise

    def _wanted_changes(self, container: Container, request: dict[str, Any]) -> tuple[list[WantedMount], list[str]]:
        payload.check({}, {"Mounts": request.get("MountAdd")})
        removed = [mountrules.target(path) for path in request.get("MountRemove") or []]
        have = {point.destination for point in of_record(container.record)}
        for path in removed:
            if path not in have:
                raise errors.NotFound(f"nothing is mounted at {path} in container {container.record.id[:SHORT]} by its --volume or --mount")
        found = self._checked_mounts([mountrules.of_mount(mount) for mount in request.get("MountAdd") or []])
        taken = (have - set(removed)) | {mountrules.target(path) for path in container.record.host.get("Tmpfs") or {}}
        for each in found:
            at = each.point.destination
            if at in taken:
                raise errors.Conflict(f"Duplicate mount point: {at}")
            if any(at == path or at.startswith(f"{path}/") for path in _NEVER):
                raise errors.InvalidParameter(f"cannot mount at {at} of a container that runs: {', '.join(_NEVER)} are its kernel's")
            taken.add(at)
        return found, removed

    # -- doing it -----------------------------------------------------------------------------------------

    async def _apply_changes(self, container: Container, *, again: bool) -> None:
        """Brings the container, and then its record, to what is pending."""
        record, pending = container.record, container.record.pending_mounts or {}
        added, removed = [MountPoint.of_dict(found) for found in pending["added"]], pending["removed"]
        gone = [point for point in of_record(record) if point.destination in removed]
        if record.running:
            await self._volumes.mount(point.name for point in added if point.kind == VOLUME)
            added, _ = await self._filled(container, added, mounted=True)
            await self._graft(container, added, removed, again=again)
        kept = [point for point in of_record(record) if point.destination not in removed]
        record.mounts = [point.to_dict() for point in (*kept, *added)]
        record.host = _host_after(record.host, removed, pending["mounts"])
        record.pending_mounts = None
        await self.save(container)
        if record.running:
            self._publish_mounts(container, added)
            self._publish_unmounts(container, gone)
        await self._volumes.unmount_idle(point.name for point in gone if point.kind == VOLUME)

    async def _graft(self, container: Container, added: list[MountPoint], removed: list[str], *, again: bool) -> None:
        maps = self._remap_of(container.record.host) or ([], [])
        message = {
            "kind": "graft", "remove": removed, "add": [self._graft_of(container, n, point) for n, point in enumerate(added)], "again": again,
            "uid_mappings": maps[0], "gid_mappings": maps[1],
        }  # fmt: skip
        pidfd = self._pidfd_of(container)
        try:
            await ask(self._launcher, message, [pidfd], "mounts into a running container")
        finally:
            os.close(pidfd)

    def _graft_of(self, container: Container, number: int, point: MountPoint) -> dict[str, Any]:
        path = self._volumes.mountpoint(point.name) if point.kind == VOLUME else point.source
        source: str | dict | None = None if point.kind == TMPFS else path
        if point.kind != TMPFS and not is_plain(point):
            directory = self.directory(container)
            lower = self._images.lower(self._images.find(container.record.image_id)) if point.idmap else Lower([], "", [])
            layers = self._layers_of(point) if point.kind == IMAGE else None
            user_of = self._user_of(container, lower.below(f"{directory}/upper"))
            source = source_of(point, f"{directory}/mounts/live{number}", path, layers, user_of, self._remap_of(container.record.host))
        return {"destination": point.destination, "source": source, "options": oci_mount(point, path)["options"]}

    def _pidfd_of(self, container: Container) -> int:
        record = container.record
        try:
            pidfd = os.pidfd_open(record.pid)
        except OSError:
            raise errors.Conflict(f"container {record.id[:SHORT]} is not running") from None
        if hostfiles.start_ticks(record.pid) == record.pid_start_ticks:
            return pidfd
        os.close(pidfd)  # the number belongs to somebody else by now
        raise errors.Conflict(f"container {record.id[:SHORT]} is not running")

    # -- what went wrong --------------------------------------------------------------------------------------

    async def _undo_changes(self, container: Container, made: list[VolumeRecord]) -> None:
        """The helper has put everything back; so the record says again what there is, and volumes that were made are gone."""
        record = container.record
        names = [found["name"] for found in (record.pending_mounts or {}).get("added", []) if found["kind"] == VOLUME]
        record.pending_mounts = None
        async with self._volumes.lock:
            unused = [r.name for r in made if self._volumes.has(r.name) and not self.users_of_volume(r.name)]
            paths = await self._volumes.remove_with(unused, self._update_of(container))
        hostfiles.remove_directories(paths)
        await self._volumes.unmount_idle(name for name in names if self._volumes.has(name))

    async def finish_mounts(self, container: Container) -> list[str]:
        """At start-up: a change that the engine before did not live to finish."""
        if not container.record.pending_mounts:
            return []
        try:
            await self._apply_changes(container, again=True)
        except errors.BerthError as error:
            await self._undo_changes(container, [])
            return [f"a change of its mounts could not be finished: {error}"]
        return ["a change of its mounts is finished"]


def _host_after(host: dict[str, Any], removed: list[str], mounts: list[dict[str, Any]]) -> dict[str, Any]:
    """The HostConfig as if the container had been made so."""

    def stays(item: str | dict[str, Any]) -> bool:
        if isinstance(item, dict):
            return mountrules.target(item["Target"]) not in removed
        parts = item.split(":")
        return mountrules.target(parts[1] if len(parts) > 1 else parts[0]) not in removed

    binds, had = ([item for item in host.get(key) or [] if stays(item)] for key in ("Binds", "Mounts"))
    return {**host, "Binds": binds or None, "Mounts": [*had, *mounts] or None}
