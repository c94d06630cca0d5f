"""`POST /containers/{id}/update`: limits, restart policy, ports and mounts, of a running container at once; all of a request or nothing.

A layer of the container service (registry.py). Of one that runs, limits come first, as files that can be written back; ports are held and
led next; mounts come while both can still be undone, for they themselves are done whole or not at all.
"""

import asyncio
import os

from berth import errors
from berth.engine import state, updates
from berth.engine.nets import portmaps
from berth.engine.nets import ports as netports
from berth.engine.nets.endpointnames import has_own_namespace
from berth.engine.nets.places import port_of
from berth.engine.registry import Container
from berth.engine.remounting import Remounting
from berth.engine.state import Record
from berth.linux import cgroup_undo
from berth.linux.cgroup_base import Setting


class Updating(Remounting):
    """What of a container can be another in its life."""

    async def update(self, container: Container, request: dict) -> list[str]:
        """Returns warnings."""
        changes = updates.wanted(request)
        ports = netports.port_changes(request)
        async with container.lock:
            record, warnings = container.record, []
            try:
                if record.status == state.REMOVING:
                    raise errors.Conflict('container is marked for removal and cannot be "update"')
                if record.running and not self._has_weights(container) and (changes.pop("BlkioWeight", 0) or changes.pop("BlkioWeightDevice", 0)):
                    warnings.append(updates.NO_WEIGHT)
                self._check_host_has(updates.merged(record.host, changes))
                ported = self._changed_ports(record, ports) if ports else {}
                self.check_mounts(container, request)
                if record.running:
                    await self._update_live(container, request, changes, ports, ported)
                else:
                    await self.change_mounts(container, request)
            except errors.BerthError as error:
                raise type(updates.refusal(error))(f"Cannot update container {record.id}: {error}") from error
            record.host = updates.merged({**record.host, **ported}, changes)
            record.pending_update = None
            await self.save(container)
            self.publish(container, "update")
        return warnings

    async def _update_live(self, container: Container, request: dict, changes: dict, ports: netports.PortChanges, ported: dict) -> None:
        record = container.record
        had = await self._limit(container, changes)
        try:
            if ports:
                host = {**record.host, **ported}
                await self._endpoints.change_ports(record, host, ports, self.directory(container), lambda: self.change_mounts(container, request))
            else:
                await self.change_mounts(container, request)
        except BaseException as error:
            await self._unlimit(container, had, error)
            raise

    # -- limits -------------------------------------------------------------------------------------

    async def _limit(self, container: Container, changes: dict) -> list[Setting]:
        """Writes limits to the cgroup; an engine that is killed meanwhile has the next one finish it. Returns what they were."""
        record = container.record
        resources = updates.live_resources(updates.merged(record.host, changes), changes)
        if not resources:
            return []
        record.pending_update = changes
        await self.save(container)
        try:
            return await asyncio.to_thread(cgroup_undo.change, self._group(container), resources)
        except errors.BerthError as error:
            record.pending_update = None
            await self.save(container)
            if isinstance(error, errors.NotFound):  # its cgroup
                raise errors.Conflict(f"container {record.id} has ended meanwhile") from None
            raise

    async def _unlimit(self, container: Container, had: list[Setting], cause: BaseException) -> None:
        if not had:
            return
        container.record.pending_update = None
        try:
            await asyncio.to_thread(cgroup_undo.put_back, self._group(container), had)
        except errors.BerthError as error:
            raise errors.SystemFailure(f"{cause}; and its limits are not as they were: {error}") from error
        finally:
            await self.save(container)

    def _has_weights(self, container: Container) -> bool:
        """Whether the host's I/O scheduler knows weights: only then has a group their files."""
        directory = self._group(container).directory_of("io" if self.host.hosts.version == 2 else "blkio")
        return any(os.path.exists(f"{directory}/{name}") for name in ("io.weight", "io.bfq.weight", "blkio.weight", "blkio.bfq.weight"))

    def _check_host_has(self, host: dict) -> None:
        """What was asked for by name and this host cannot give is an error, never silence."""
        if self.host.remap and host.get("Privileged") and host.get("UsernsMode") != "host":
            raise errors.InvalidParameter(
                "privileged mode is incompatible with user namespaces. You must run the container in the host namespace "
                "when running privileged mode: add --userns host"
            )
        if self.host.hosts.version == 2:
            for key, words in (
                ("MemorySwappiness", "a swappiness for each container"), ("CpuRealtimePeriod", "real-time CPU periods"),
                ("CpuRealtimeRuntime", "real-time CPU runtimes"),
            ):  # fmt: skip
                if host.get(key) not in (None, 0, -1):
                    raise errors.NotImplementedHere(f"{key}: cgroup v2 does not have {words}; leave it out on this host")

    # -- ports --------------------------------------------------------------------------------------

    def _changed_ports(self, record: Record, changes: netports.PortChanges) -> dict:
        """What of HostConfig is another then."""
        if changes.add and not has_own_namespace(record):
            raise errors.Conflict(f"no port can be published: its network is {record.host['NetworkMode']}")
        live = [port_of(entry) for entry in record.ports] if record.running else []
        return portmaps.changed(record.host, list(netports.exposed(record.config.get("ExposedPorts") or {})), live, changes)
