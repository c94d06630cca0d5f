"""Networks of a container that runs: joined and left, ports published and withdrawn, its name changed, what is broken mended.

Each change comes true at one moment, when note.py has written it down. What is done before is undone if the engine is killed, or the
container ends, until then; what comes after is done by the next engine (`finish`), or not needed any more.
"""

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any

from berth import errors
from berth.engine import etcfiles
from berth.engine.nets import note as netnote
from berth.engine.nets import places, portmaps
from berth.engine.nets import ports as netports
from berth.engine.nets.attaching import Attaching, asked
from berth.engine.nets.endpointnames import dns_names, endpoints_of, may_change_itself
from berth.engine.nets.namespaces import Namespace
from berth.engine.nets.places import Live, Place
from berth.engine.nets.records import NetworkRecord
from berth.engine.state import Record

__all__ = ["Endpoints"]
log = logging.getLogger("berth.networks")


class Endpoints(Attaching):
    """Whoever calls one of these holds the container's lock; it may end meanwhile all the same."""

    # -- another network, or one less -----------------------------------------------------------

    async def connect(self, record: Record, network: NetworkRecord, settings: dict[str, Any], directory: str) -> None:
        """Conflict if the container ends meanwhile: then nothing is left of it."""
        self._users.setdefault(network.id, set()).add(record.id)
        place = None
        try:
            async with self._inside(record) as namespace:
                place = await self._planned(record, network, settings, namespace)
                netnote.write(record, directory, leaving=[place.live()], unsettled=True)
                await self._join(network, place.settings, place.attachment, namespace)
                if not record.running:
                    raise errors.Conflict(f"container {record.id} has ended meanwhile")
                self._commit(record, [place], directory, unsettled=True)
                await self._settle(record, directory, namespace)
        except BaseException:
            if place and self._has(record, network, place):
                with contextlib.suppress(errors.BerthError):
                    await self.disconnect(record, network, directory)
            elif place:
                await self._undo(record, network, place, directory)
            self._leave(network, record.id)
            raise

    async def _planned(self, record: Record, network: NetworkRecord, settings: dict[str, Any], namespace: Namespace) -> Place:
        """Its default route is settled later, with those of the others."""
        name = places.interface_name(network, settings, await self._host.names_inside(namespace))
        return await self._place_of(record, network, asked(settings), name, {})

    def _has(self, record: Record, network: NetworkRecord, place: Place) -> bool:
        entry = endpoints_of(record).get(network.name) or {}
        return bool((entry.get("live") or {}).get("id") == place.endpoint_id)

    async def _undo(self, record: Record, network: NetworkRecord, place: Place, directory: str) -> None:
        """The change was not to be."""
        if record.running:
            with contextlib.suppress(errors.BerthError):
                async with self._inside(record) as namespace:
                    await self._host.remove_inside(namespace, place.attachment.name)
        await self._take_down(network, place.live())
        if record.running:
            with contextlib.suppress(errors.SystemFailure):
                netnote.write(record, directory)

    async def disconnect(self, record: Record, network: NetworkRecord, directory: str) -> None:
        """Once it is written down it is so, and what the kernel still has of it is of no use to anybody."""
        entries = dict(endpoints_of(record))
        live = (entries.pop(network.name)).get("live")
        netnote.write(record, directory, endpoints=entries, leaving=[live] if live else [], unsettled=True)
        record.endpoints = entries
        try:
            async with self._inside_if_running(record) as namespace:
                if live:
                    await self._part(network, live, namespace)
                await self._settle(record, directory, namespace, gone=live)
        finally:
            self._leave(network, record.id)

    async def _part(self, network: NetworkRecord, live: Live, namespace: Namespace | None) -> None:
        await self._names.leave(network, live)
        if namespace:
            await self._host.remove_inside(namespace, live["interface"])
        await self._take_down(network, live)

    async def drop(self, record: Record, name: str, directory: str) -> None:
        """A network that is no more, from the record of a container that names it."""
        record.endpoints = {key: entry for key, entry in endpoints_of(record).items() if key != name}
        if record.running:
            netnote.write(record, directory)

    # -- what follows from a change ---------------------------------------------------------------

    async def _settle(self, record: Record, directory: str, namespace: Namespace | None, gone: Live | None = None) -> None:
        """The way out, ports, names and files follow the networks that it is in now."""
        if record.running and namespace:
            await self._lead_out(record, namespace)
        if record.running:
            await self._retarget(record)
        if record.running:
            await self._names.change(record, self.places(record), namespace.fd if namespace else -1)
            _change_files(record, directory, self.places(record), gone)
        if not record.running:  # and whoever saw it end did not know of what has been done since
            await self._names.remove(record.id, self._live_places(record))
            return
        self._commit(record, [], directory)

    async def _lead_out(self, record: Record, namespace: Namespace) -> None:
        """Default routes by the networks that have them now."""
        live = self._live(record)
        gateways = places.gateway_networks([(network, entry["settings"]) for network, entry in live])
        entries, changed = dict(endpoints_of(record)), False
        for network, entry in live:
            attachment = places.attachment_of(entry["live"])
            routers = [str(router) for router in places.routers(network, gateways, attachment.addresses)]
            if routers != entry["live"]["gateways"]:
                changed = True
                entries[network.name] = {**entry, "live": {**entry["live"], "gateways": routers}}
        if changed:
            record.endpoints = entries
            leading = [(network.as_model(), places.attachment_of(entry["live"])) for network, entry in self._live(record)]
            try:
                await self._host.set_gateways(leading, namespace)
            except errors.BerthError as error:  # its root may have done anything to its interfaces
                log.warning("container %s: its default route stays as it was: %s", record.id[:12], error)

    async def _retarget(self, record: Record) -> None:
        """Ports lead by the network that leads out, which may be another one now."""
        target = self._target(record)
        if self._ports.of(record.id).ports and self._ports.can_move(record.id, target):
            assert target
            await self._ports.retarget(record.id, target)
        else:
            if held := self._ports.pop(record.id):
                await self._ports.give_back(held)
            if target:
                await self._ports.hold(record.id, self._wishes(record, target), target)
                await self._ports.lead(record.id)
        if not record.running and (held := self._ports.pop(record.id)):
            await self._ports.give_back(held)

    @contextlib.asynccontextmanager
    async def _inside_if_running(self, record: Record) -> AsyncIterator[Namespace | None]:
        async with contextlib.AsyncExitStack() as stack:
            namespace = None
            with contextlib.suppress(errors.Conflict):
                namespace = await stack.enter_async_context(self._inside(record))
            yield namespace

    # -- names and ports ------------------------------------------------------------------------

    async def renamed(self, record: Record, directory: str) -> None:
        """Others find a running container by its new name."""
        entries, live = dict(endpoints_of(record)), self._live(record)
        if not record.running or not live:
            return
        for network, entry in live:
            entries[network.name] = {**entry, "live": {**entry["live"], "dns_names": dns_names(record, network, entry["settings"])}}
        netnote.write(record, directory, endpoints=entries)
        record.endpoints = entries
        await self._names.change(record, self.places(record), -1)

    async def change_ports(
        self, record: Record, host: dict[str, Any], changes: netports.PortChanges, directory: str, also: Callable[[], Awaitable[None]]
    ) -> None:  # fmt: skip
        """Publishes ports of a running container and takes others away: all of it, or nothing.

        host: HostConfig after it; also: what is done while this can still be undone, and undoes it by its failure.
        """
        going = [port for port in self._ports.of(record.id).published if any(portmaps.is_meant(port, binding) for binding in changes.remove)]
        target = self._target(record)
        if changes.add and target is None:
            raise errors.Conflict("no port can be published: the container is in no bridge network that leads out")
        default = target.binding if target and target.binding else self._host.binding
        wishes = portmaps.wishes(changes.add, (), publish_all=False, default=default, ipv6=self._host.has_ipv6)

        async def commit() -> None:
            await also()
            if record.running:  # else all of it is being given back
                self._commit(record, [], directory, host=host)

        await self._ports.change(record.id, wishes, going, target, commit)

    # -- mending --------------------------------------------------------------------------------

    async def finish(self, record: Record, directory: str) -> str:
        """Of a container that was found running: a change that the engine before was in the middle of, undone or done; in words."""
        note = self._notes.pop(record.id, None)
        if note is None or not record.running:
            return ""
        async with self._inside_if_running(record) as namespace:
            for live in note.leaving:
                if namespace:
                    await self._host.remove_inside(namespace, live["interface"])
                await self._host.detach(live["outside"])
                _change_files(record, directory, self.places(record), live)
            if namespace:
                await self._lead_out(record, namespace)
            await self._settle(record, directory, namespace)
        return "a change of its networks was under way, and is done or undone"

    async def mend(self, record: Record, lost: Collection[str]) -> list[str]:
        """Gives a running container the interfaces again that somebody has deleted; in words. lost: names of the host's ends."""
        told = []
        for network, entry in self._live(record):
            live = entry["live"]
            if live["outside"] not in lost or not record.running:
                continue
            what = f"its interface {live['interface']} in network {network.name} was deleted"
            if may_change_itself(record):  # and may have done it
                told.append(f"{what}; a restart, or disconnecting and connecting that network, gives it another one")
                continue
            try:
                async with self._inside(record) as namespace:
                    await self._join(network, entry["settings"], places.attachment_of(live), namespace)
                told.append(f"{what}, and is there again")
            except errors.BerthError as error:
                told.append(f"{what}, and cannot be made again: {error}")
        return told


def _change_files(record: Record, directory: str, found: list[etcfiles.Place], gone: Live | None) -> None:
    had = [text.partition("/")[0] for text in (gone or {"addresses": []})["addresses"]]
    have = [text.partition("/")[0] for _, _, live in found for text in live["addresses"]]
    try:
        etcfiles.change(record, directory, found, gone=had, have=have)
    except OSError as error:
        log.warning("container %s: its hosts file stays as it was: %s", record.id[:12], error.strerror)
