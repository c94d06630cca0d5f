"""Networks: create, inspect, remove, prune, and containers that join and leave them. Docker's words, and what is done for them.

A change of a container's networks holds its lock; a network that is being removed is not found any more.
"""

import asyncio
import dataclasses
import logging
from ipaddress import IPv6Network
from typing import Any

from berth import errors
from berth.engine import prune
from berth.engine.containers import ContainerService
from berth.engine.events import EventBus
from berth.engine.nets import container as netcontainer
from berth.engine.nets import endpointnames
from berth.engine.nets import records as netrecords
from berth.engine.nets import views as netviews
from berth.engine.nets.attaching import asked, check_joinable
from berth.engine.nets.endpointnames import endpoints_of
from berth.engine.nets.endpoints import Endpoints
from berth.engine.nets.host import HostNetworks
from berth.engine.nets.payload import NetworkRequest
from berth.engine.nets.records import NetworkRecord
from berth.engine.nets.store import NetworkStore
from berth.engine.registry import Container
from berth.engine.tasks import Tasks
from berth.network import addresses, model
from berth.network.model import Range, Subnet

log = logging.getLogger("berth.networks")

_LOST_AFTER_S = 1.0


class NetworkService:
    """All networks of one engine."""

    def __init__(
        self, store: NetworkStore, host: HostNetworks, endpoints: Endpoints, containers: ContainerService, events: EventBus, tasks: Tasks
    ) -> None:  # fmt: skip
        self.store = store
        self._host = host
        self._endpoints = endpoints
        self._containers = containers
        self._events = events
        self._tasks = tasks
        self._lost: set[str] = set()  # interfaces of which it is being found out whether they are to be mended
        host.on_lost = self._on_lost

    # -- looking --------------------------------------------------------------------------------

    def inspect(self, network: NetworkRecord) -> dict[str, Any]:
        """GET /networks/{id}."""
        return netviews.payload(network, (container.record for container in self._containers.all()))

    def listed(self, filters: dict[str, list[str]], *, containers: bool = False) -> list[dict[str, Any]]:
        """GET /networks; InvalidParameter for a filter that nobody knows. containers: whether it says who is in them."""
        netviews.check(filters)
        passes = netviews.chooser(filters, self._used())
        records = [container.record for container in self._containers.all()] if containers else []
        return [netviews.payload(network, records) for network in self.store.all() if passes(network)]

    def _used(self) -> set[str]:
        """Ids of networks that running containers are in."""
        found = set()
        for container in self._containers.all():
            if container.record.running:
                found |= {entry.get("network_id") for entry in endpoints_of(container.record).values()}
        return {identity for identity in found if identity}

    # -- an engine that starts and ends -----------------------------------------------------------

    async def restore(self) -> list[str]:
        """What running containers and people's own networks need of the host, whatever an engine before left of it; in words what was mended."""
        running = [container for container in self._containers.all() if container.record.running]
        used, mended = self._used(), []
        needed = {network.id: network for network in self.store.all() if network.id in used or not (network.predefined or network.config_only)}
        leftovers = [network.as_model() for network in self.store.all() if network.id not in needed]
        lost: set[str] = set()
        try:
            wanted = [network.as_model() for network in needed.values()]
            lost = await self._host.restore(wanted, leftovers, self._endpoints.published(), self._endpoints.outsides())
            await self._endpoints.relay()
        except errors.BerthError as error:
            log.error("networks are not as they were: %s", error)
        for container in running:
            if not container.record.running:  # it has ended meanwhile; who starts it again holds its lock, and waits for us
                continue
            async with container.lock:
                mended += [f"container {container.record.id[:12]}: {text}" for text in await self._mend(container, lost)]
        self._endpoints.open()
        return mended

    def _on_lost(self, names: set[str]) -> None:
        """Interfaces have gone, those of running containers too, unless these have ended: that is known in a moment."""
        new = set(self._endpoints.owners(names)) - self._lost
        self._lost |= new
        if new:
            self._tasks.spawn(self._mend_lost(new))

    async def _mend_lost(self, names: set[str]) -> None:
        await asyncio.sleep(_LOST_AFTER_S)
        self._lost -= names
        for identity in set(self._endpoints.owners(names).values()):
            container = self._containers.find(identity)
            async with container.lock:
                lost = await self._host.lost(set(self._endpoints.owners(names)))
                for text in await self._endpoints.mend(container.record, lost):
                    log.warning("container %s: %s", identity[:12], text)

    async def _mend(self, container: Container, lost: set[str]) -> list[str]:
        record, directory = container.record, self._containers.directory(container)
        try:
            told = [*await self._endpoints.mend(record, lost), await self._endpoints.finish(record, directory)]
        except errors.BerthError as error:
            told = [f"its networks are not as they were: {error}"]
        if found := [text for text in told if text]:
            await self._containers.save_quietly(container)
        return found

    def in_use(self) -> bool:
        """Whether containers go on that need what networks have of the host."""
        return any(c.record.running and endpointnames.has_own_namespace(c.record) for c in self._containers.all())

    # -- create ---------------------------------------------------------------------------------

    async def create(self, request: NetworkRequest) -> tuple[NetworkRecord, list[str]]:
        """Conflict for a name that is taken, Forbidden for a subnet or bridge that is another's; nothing is left of one that fails."""
        if any(network.name == request.name for network in self.store.taking_up()):
            raise errors.Conflict(f"network with name {request.name} already exists")
        if request.config_from:
            request = self._configured(request)
        elif defaults := self.store.settings.default_options.get(request.driver):
            request = dataclasses.replace(request, options={**defaults, **request.options})
        record = NetworkRecord(
            request.name, model.NULL if request.config_only else request.driver, ipam=self._ipam(request), options=request.options, labels=request.labels,
            internal=request.internal, attachable=request.attachable, ipv4=request.ipv4, ipv6=request.ipv6,
            config_from=request.config_from, config_only=request.config_only,
        )  # fmt: skip
        if not request.config_only:
            self._choose_subnets(record, request)
            self._check_interface(record)
        await self.store.add(record)
        try:
            if not request.config_only:
                await self._host.up(record.as_model())
        except BaseException:
            self.store.hide(record)
            await self._down(record)
            await self.store.remove(record)
            raise
        self._endpoints.warm_up()
        self._events.publish("network", "create", record.id, {"name": record.name, "type": record.driver})
        return record, list(request.warnings)

    def _configured(self, request: NetworkRequest) -> NetworkRequest:
        """With the options of the network that it names."""
        try:
            source: NetworkRecord | None = self.store.find(request.config_from)
        except errors.NotFound:
            source = None
        if source is None or not source.config_only:
            why = f": network {source.name} was made without --config-only" if source else ""
            raise errors.NotFound(f'configuration network "{request.config_from}" does not exist{why}')
        return dataclasses.replace(request, subnets=source.subnets(), options=source.options, labels=source.labels, ipv6=source.ipv6)

    def _ipam(self, request: NetworkRequest) -> dict[str, Any]:
        config = [netrecords.ipam_entry(subnet) for subnet in request.subnets]
        return {"Driver": request.ipam_driver, "Options": request.ipam_options or {}, "Config": config}

    def _choose_subnets(self, record: NetworkRecord, request: NetworkRequest) -> None:
        if request.ipam_driver == "null":
            return
        wanted = [subnet.network for subnet in request.subnets]
        for subnet in wanted:
            self.store.check_free(subnet)
        found = list(request.subnets)
        if request.ipv4 and not any(subnet.version == 4 for subnet in wanted):
            found.insert(0, Subnet(self.store.free_subnet(), None))
        if request.ipv6 and not any(isinstance(subnet, IPv6Network) for subnet in wanted):
            found.append(Subnet(addresses.unique_local(record.id), None))
        isolated = [version for version in (4, 6) if record.as_model().gateway_mode(version) == model.ISOLATED]
        found = [subnet if subnet.network.version in isolated else _with_gateway(subnet) for subnet in found]
        record.ipam = {**record.ipam, "Config": [netrecords.ipam_entry(subnet) for subnet in found]}
        record.chosen = [str(subnet) for subnet in wanted]

    def _check_interface(self, record: NetworkRecord) -> None:
        other = next((n for n in self.store.taking_up() if n.interface == record.interface and n.driver == model.BRIDGE), None)
        if record.driver == model.BRIDGE and other:
            raise errors.Forbidden(
                f"cannot create network {record.id} ({record.interface}): conflicts with network {other.id} ({other.interface}): "
                "networks have same bridge name"
            )

    # -- remove ---------------------------------------------------------------------------------

    async def remove(self, network: NetworkRecord) -> None:
        """Forbidden for one that is predefined or has containers in it."""
        if network.predefined:
            raise errors.Forbidden(f"{network.name} is a pre-defined network and cannot be removed")
        await self._endpoints.settled()  # those that have just ended are in it no more
        if inside := self._endpoints.users(network):
            found = [self._containers.find(identity).record for identity in sorted(inside)]
            names = ", ".join(f'name:"{record.name}" id:"{record.id[:12]}"' for record in found)
            raise errors.Forbidden(f"error while removing network: network {network.name} has active endpoints ({names})")
        dependent = next((other for other in self.store.all() if other.config_from == network.name), None)
        if network.config_only and dependent:
            raise errors.Forbidden(
                f'error while removing network: configuration network "{network.name}" is in use by network {dependent.name}'
            )
        await self._forget(network)

    async def _forget(self, network: NetworkRecord) -> None:
        """What it has of the host goes first: an engine that is killed in between leaves a network, and nothing that is nobody's."""
        self.store.hide(network)
        await self._down(network)
        try:
            await self.store.remove(network)
        except BaseException:
            self.store.show(network)
            raise
        await self._endpoints.forget(network)
        self._events.publish("network", "destroy", network.id, {"name": network.name, "type": network.driver})

    async def _down(self, network: NetworkRecord) -> None:
        if not network.config_only:
            try:
                await self._host.down(network.as_model())
            except errors.BerthError as error:
                log.warning("network %s is removed, but not what it had of the host: %s", network.name, error)

    async def prune(self, filters: dict[str, list[str]]) -> list[str]:
        """Removes the networks that no container is in, running or not; the names of what is gone."""
        prune.check(filters, ("label", "label!", "until"))
        until_s = prune.until(filters)
        named = {name for container in self._containers.all() for name in endpoints_of(container.record)}
        removed = []
        await self._endpoints.settled()
        for network in self.store.all():
            if network.predefined or network.name in named or self._endpoints.users(network) or network.created_ns / 1e9 > until_s:
                continue
            if prune.labels_match(network.labels, filters):
                await self._forget(network)
                removed.append(network.name)
        self._events.publish("network", "prune", "", {"reclaimed": "0"})
        return removed

    # -- containers -----------------------------------------------------------------------------

    async def connect(self, network: NetworkRecord, container: Container, settings: dict[str, Any]) -> None:
        """Adds a network to a container, at once if it runs. Forbidden where its networks are not its own."""
        async with container.lock:
            record = container.record
            mode = endpointnames.mode_of(record.host)
            names = endpoints_of(record)
            if mode.startswith("container:"):
                raise errors.InvalidParameter(netcontainer.NO_OTHER_NETWORK)
            if network.name == netrecords.HOST and mode != netrecords.HOST:
                raise errors.InvalidParameter(netcontainer.NOT_WITH_HOST)
            if network.name in names:
                raise errors.Forbidden(f"endpoint with name {record.name} already exists in network {network.name}")
            if mode == netrecords.HOST:
                raise errors.InvalidParameter(netcontainer.NO_OTHER_NETWORK)
            if netrecords.NONE in names or (network.name == netrecords.NONE and names):
                raise errors.InvalidParameter(netcontainer.NOT_WITH_NONE)
            check_joinable(network, settings)
            if record.running:
                await self._endpoints.connect(record, network, settings, self._containers.directory(container))
            else:
                record.endpoints = {**names, network.name: {"settings": asked(settings), "network_id": network.id, "live": None}}
            await self._containers.save(container)
        if record.running:  # one that starts later is connected then
            self._publish(network, record.id, "connect")

    async def disconnect(self, network_text: str, container: Container, *, force: bool) -> None:
        """Takes a network from a container, at once if it runs; one that is gone from one that does not run, or with force."""
        async with container.lock:
            record = container.record
            names = endpoints_of(record)
            try:
                network = self.store.find(network_text)
            except errors.NotFound as error:
                if record.running and not force:
                    raise
                if network_text not in names:
                    raise errors.Forbidden(f"container {record.id} is not connected to the network {network_text}: {error}") from None
                await self._endpoints.drop(record, network_text, self._containers.directory(container))
                await self._containers.save(container)
                return
            if endpointnames.mode_of(record.host) == network.name == netrecords.HOST:
                raise errors.InvalidParameter(netcontainer.NOT_WITH_HOST)
            if network.name not in names:
                raise errors.Forbidden(f"container {record.id} is not connected to {'network' if record.running else 'the network'} {network.name}")
            try:
                if record.running:
                    await self._endpoints.disconnect(record, network, self._containers.directory(container))
                else:
                    record.endpoints = {name: entry for name, entry in names.items() if name != network.name}
            finally:
                await self._containers.save(container)
        self._publish(network, record.id, "disconnect")

    def _publish(self, network: NetworkRecord, container_id: str, action: str) -> None:
        self._events.publish("network", action, network.id, {"container": container_id, "name": network.name, "type": network.driver})


def _with_gateway(subnet: Subnet) -> Subnet:
    if subnet.gateway:
        return subnet
    return Subnet(subnet.network, _gateway_for(subnet), subnet.range, subnet.reserved)


def _gateway_for(subnet: Subnet) -> model.Address:
    """The first address that nobody reserved; of the range where there is one, as Docker has it."""
    base: Range = subnet.range or subnet.network
    taken = set(subnet.reserved.values())
    first = addresses.first_host(base)
    for offset in range(min(base.num_addresses, len(taken) + 2)):
        candidate = first + offset
        if candidate in base and candidate not in taken:
            return candidate
    return first
