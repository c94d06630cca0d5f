"""Containers' places in networks: made before a start, taken down after an end. What is decided here the kernel is told by HostNetworks.

A container that starts gets, in this order: addresses, ports of the host, a network namespace, interfaces in it, rules, names. Whatever
fails takes down what was there before it. What it has is written to network.json beside its bundle before the program can run: an
engine that is killed then finds it again (`restore`), and one that is killed earlier leaves a namespace that nothing is in, which the
kernel removes with all its interfaces.
"""

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface
from typing import Any

from berth import errors
from berth.engine import etcfiles, netports, netrecords, portmaps
from berth.engine.containernames import ContainerNames
from berth.engine.endpointnames import dns_names, endpoints_of, has_own_namespace
from berth.engine.hostnetworks import HostNetworks
from berth.engine.namespaces import Namespace, Namespaces
from berth.engine.netcontainer import ContainerNetworking
from berth.engine.netrecords import NetworkRecord
from berth.engine.netstore import NetworkStore
from berth.engine.state import Record
from berth.engine.tasks import Tasks
from berth.network import addresses, model
from berth.network import ports as hostports
from berth.network.model import Address, Attachment, Interface, PublishedPort
from berth.network.relay import Relay, is_needed

log = logging.getLogger("berth.networks")

_FILE = "network.json"
_ASKED = ("IPAMConfig", "Links", "Aliases", "MacAddress", "DriverOpts", "GwPriority")  # of EndpointSettings; the rest is the engine's to say


@dataclass(slots=True)
class Place:
    """A container in one network, decided and not yet in the kernel's hands."""

    network: NetworkRecord
    settings: dict[str, Any]
    attachment: Attachment
    endpoint_id: str
    dns_names: list[str]

    def live(self) -> dict[str, Any]:
        """As records keep it."""
        return {
            "id": self.endpoint_id, "interface": self.attachment.name, "outside": self.attachment.outside, "mac": self.attachment.mac,
            "addresses": [str(address) for address in self.attachment.addresses],
            "gateways": [str(address) for address in self.attachment.gateways], "dns_names": self.dns_names,
        }  # fmt: skip


@dataclass(slots=True)
class Held:
    """What a running container has of the host's ports, each with what keeps it from others; given back when it ends."""

    ports: dict[PublishedPort, hostports.Held | None] = field(default_factory=dict)
    relays: dict[PublishedPort, Relay] = field(default_factory=dict)

    @property
    def published(self) -> list[PublishedPort]:
        return list(self.ports)

    async def relay(self) -> None:
        """Serves those that rules cannot lead on."""
        for port, kept in self.ports.items():
            if is_needed(port) and port not in self.relays and kept and kept.socket:
                self.relays[port] = Relay(port, kept.socket)
                await self.relays[port].start()

    def close(self, published: Iterable[PublishedPort]) -> None:
        for port in list(published):
            if relay := self.relays.pop(port, None):
                relay.close()
            if kept := self.ports.pop(port, None):
                kept.close()


class Endpoints:
    """All places of all containers. One container at a time is attached or detached: its lock is held, or it has ended."""

    def __init__(self, store: NetworkStore, namespaces: Namespaces, host: HostNetworks, names: ContainerNames, tasks: Tasks) -> None:
        self._store = store
        self._namespaces = namespaces
        self._host = host
        self._names = names
        self._tasks = tasks
        self._pools: dict[str, list[addresses.Pool]] = {}
        self._held: dict[str, Held] = {}  # by the container's id
        self._leaving: dict[str, asyncio.Event] = {}  # set once everything of a container that ended is given back
        self._next_port_seed = int.from_bytes(os.urandom(2), "little")

    def network(self, name: str) -> NetworkRecord | None:
        """By its name, id, or the start of one."""
        try:
            return self._store.find(name)
        except errors.BerthError:
            return None

    @property
    def default_mode(self) -> str:
        """The network of a container that names none: the default bridge, unless the engine has none."""
        return netrecords.BRIDGE if self.network(netrecords.BRIDGE) else netrecords.NONE

    def wanted(self, networking: ContainerNetworking, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """`endpoints` of a new container's record; settings: EndpointsConfig, as the client sent it."""
        given = {netrecords.BRIDGE if name == "default" else name: value or {} for name, value in settings.items()}
        found = {}
        names = networking.endpoints or ([] if networking.joins else [networking.mode])
        for name in names:
            network = self.network(name)
            entry = {key: value for key, value in given.get(name, {}).items() if key in _ASKED and value}
            found[network.name if network else name] = {"settings": entry, "network_id": "", "live": None}
        return found

    def places(self, record: Record) -> list[tuple[NetworkRecord, dict[str, Any], dict[str, Any]]]:
        """Networks that a container is in now, with what was asked for and what it has."""
        return [(network, entry["settings"], entry["live"]) for network, entry in self._live(record)]

    def host_gateways(self, record: Record) -> list[str]:
        """What `host-gateway` stands for: the engine's own setting, or the host as the container's networks have it."""
        if self._store.settings.host_gateways:
            return [str(address) for address in self._store.settings.host_gateways]
        return [text for _, _, live in self.places(record) for text in live["gateways"]]

    def warm_up(self) -> None:
        """Somebody is about to start containers in networks."""
        self._namespaces.warm_up()
        self._names.warm_up()

    # -- start and end --------------------------------------------------------------------------

    async def attach(self, record: Record, directory: str, mappings: tuple[list[dict], list[dict]] | None) -> Namespace | None:
        """A namespace with everything in it, for a container that starts; None for one that has none of its own.

        mappings: of ids, if it runs in a user namespace.
        """
        if not has_own_namespace(record):
            return None
        if leaving := self._leaving.get(record.id):
            await leaving.wait()
        chosen = [(self._store.find(name), entry["settings"]) for name, entry in endpoints_of(record).items()]
        chosen = [(network, settings) for network, settings in chosen if network.has_addresses]
        if not chosen:
            return None
        places: list[Place] = []
        held = self._held[record.id] = Held()
        namespace = None
        try:
            gateways = gateway_networks(chosen)
            for number, (network, settings) in enumerate(chosen):
                places.append(self._place(record, network, settings, f"eth{number}", gateways))
            await self._hold_ports(record, places, held)
            namespace = await self._namespaces.take(mappings)
            for place in places:
                await self._host.attach(place.network.as_model(), place.attachment, namespace)
            await self._host.publish(held.published)
            await held.relay()
            await self._names.add(record, [(place.network, place.settings, place.live()) for place in places], namespace.fd)
            self._note(record, places, held, directory)
        except BaseException:
            if namespace:
                namespace.close()
            await self._names.remove(record.id, [(place.network, place.live()) for place in places])
            await self._take_down(held, [(place.network, place.live()) for place in places])
            self._held.pop(record.id, None)
            raise
        return namespace

    async def started(self, record: Record) -> None:
        """Its program runs."""
        await self._names.watch(record)

    def _note(self, record: Record, places: list[Place], held: Held, directory: str) -> None:
        entries = dict(endpoints_of(record))
        for place in places:
            entries[place.network.name] = {**entries[place.network.name], "network_id": place.network.id, "live": place.live()}
        record.endpoints = entries
        record.ports = [_kept_port(port) for port in held.published]
        with open(f"{directory}/{_FILE}.new", "w") as file:
            json.dump({"endpoints": record.endpoints, "ports": record.ports}, file)
        os.rename(f"{directory}/{_FILE}.new", f"{directory}/{_FILE}")

    def detach(self, record: Record) -> None:
        """Of one that has ended: its places are nobody's, and what the kernel has of them is taken down meanwhile."""
        places = self._live_places(record)
        record.endpoints = {name: {**entry, "live": None} for name, entry in endpoints_of(record).items()}
        record.ports = []
        held = self._held.pop(record.id, None)
        if held is None and not places:
            return
        self._leaving[record.id] = asyncio.Event()
        self._tasks.spawn(self._detach(record.id, held or Held(), places))

    async def _detach(self, identity: str, held: Held, places: list[tuple[NetworkRecord, dict[str, Any]]]) -> None:
        try:
            await self._names.remove(identity, places)
            await self._take_down(held, places)
        finally:
            self._leaving.pop(identity).set()

    async def settled(self) -> None:
        """Once everything of those that have ended is given back."""
        for leaving in list(self._leaving.values()):
            await leaving.wait()

    async def _take_down(self, held: Held, places: list[tuple[NetworkRecord, dict[str, Any]]]) -> None:
        """Rules before ports, interfaces before addresses: nobody may get one that still leads elsewhere."""
        try:
            if held.published:
                await self._host.unpublish(held.published)
            for network, live in places:
                await self._host.detach(network.as_model(), live["outside"])
        except errors.BerthError as error:
            log.warning("%s", error)
        held.close(held.published)
        for network, live in places:
            for text in live["addresses"]:
                self._give_back(network, ip_interface(text).ip)

    def _live(self, record: Record) -> list[tuple[NetworkRecord, dict[str, Any]]]:
        """Networks that a container is in now, with its entries."""
        found = []
        for entry in endpoints_of(record).values():
            if entry.get("live"):
                with contextlib.suppress(errors.NotFound):
                    found.append((self._store.find(entry["network_id"]), entry))
        return found

    # -- an engine that starts ------------------------------------------------------------------

    def recall(self, record: Record, directory: str) -> None:
        """What the engine before wrote down of a container that was found running."""
        try:
            with open(f"{directory}/{_FILE}") as file:
                kept = json.load(file)
        except (OSError, ValueError):
            return
        if not any(entry.get("live") for entry in record.endpoints.values()):
            record.endpoints, record.ports = kept["endpoints"], kept["ports"]

    async def restore(self, record: Record) -> list[str]:
        """Takes for a running container what it has: addresses and ports. Rules are put in for all at once (`HostNetworks.restore`)."""
        mended = []
        for network, entry in self._live(record):
            for text in entry["live"]["addresses"]:
                with contextlib.suppress(errors.BerthError):
                    self._take(network, ip_interface(text).ip)
        await self._names.restore(record, self.places(record))
        held = self._held[record.id] = Held()
        for entry in record.ports:
            port = _port_of(entry)
            held.ports[port] = None
            try:
                held.ports[port] = hostports.hold(port.protocol, port.host_address, port.host_port)
            except errors.BerthError as error:
                mended.append(f"port {port.host_port}/{port.protocol} still leads to it, but is not held: {error}")
        await held.relay()
        return mended

    def networks_in_use(self) -> set[str]:
        """Ids of those that running containers have ports or places in, as far as this engine made or restored them."""
        return {port.interface for held in self._held.values() for port in held.published}

    def published(self) -> list[PublishedPort]:
        """By all containers."""
        return [port for held in self._held.values() for port in held.published]

    # -- a running container --------------------------------------------------------------------

    async def connect(self, record: Record, network: NetworkRecord, settings: dict[str, Any], directory: str) -> None:
        """Another network for one that runs."""
        entries = endpoints_of(record)
        taken = {entry["live"]["interface"] for entry in entries.values() if entry.get("live")}
        name = next(f"eth{number}" for number in range(len(taken) + 1) if f"eth{number}" not in taken)
        have = {address.version for _, entry in self._live(record) for text in entry["live"]["gateways"] for address in [ip_address(text)]}
        gateways = {version: network.id for version in (4, 6) if version not in have and not network.internal}
        place = self._place(record, network, settings, name, gateways)
        held = self._held.setdefault(record.id, Held())
        try:
            async with self._inside(record) as namespace:
                await self._host.attach(network.as_model(), place.attachment, namespace)
                record.endpoints = {**entries, network.name: {"settings": settings, "network_id": network.id, "live": None}}
                self._note(record, [place], held, directory)
                await self._names.change(record, self.places(record), namespace.fd)
                etcfiles.change(record, directory, self.places(record), gone=(), come=[str(address.ip) for address in place.attachment.addresses])
        except BaseException:
            record.endpoints = entries
            await self._take_down(Held(), [(network, place.live())])
            raise
        await self._republish(record, held, directory)

    async def disconnect(self, record: Record, network: NetworkRecord, directory: str) -> None:
        """Takes a network from one that runs."""
        entries = dict(endpoints_of(record))
        entry = entries.pop(network.name)
        record.endpoints = entries
        held = self._held.setdefault(record.id, Held())
        if live := entry.get("live"):
            await self._names.leave(network, live)
            await self._names.change(record, self.places(record), -1)
            gone = [text.partition("/")[0] for text in live["addresses"]]
            etcfiles.change(record, directory, self.places(record), gone=gone, come=())
            async with self._inside(record) as namespace:
                await self._host.remove_inside(namespace, live["interface"])
                await self._take_down(Held(), [(network, live)])
                if live["gateways"]:
                    await self._lead_out(record, namespace)
        self._note(record, [], held, directory)
        await self._republish(record, held, directory)

    @contextlib.asynccontextmanager
    async def _inside(self, record: Record) -> AsyncIterator[Namespace]:
        """The network namespace of one that runs."""
        fd = os.open(f"/proc/{record.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            namespace = Namespace(os.dup(fd), await self._namespaces.enter(fd))
        finally:
            os.close(fd)
        try:
            yield namespace
        finally:
            namespace.close()

    async def _lead_out(self, record: Record, namespace: Namespace) -> None:
        """A default route by one of the networks that are left."""
        entries = dict(endpoints_of(record))
        live = self._live(record)
        gateways = gateway_networks([(network, entry["settings"]) for network, entry in live])
        for network, entry in live:
            routers = _routers(network, gateways, [ip_interface(text) for text in entry["live"]["addresses"]])
            if routers:
                entries[network.name] = {**entry, "live": {**entry["live"], "gateways": [str(router) for router in routers]}}
                attachment = _attachment_of(entries[network.name]["live"])
                await self._host.set_gateways(network.as_model(), attachment, namespace)
        record.endpoints = entries

    async def _republish(self, record: Record, held: Held, directory: str) -> None:
        """Ports lead by the network that leads out, which may be another one now."""
        target = _target(self._live_places(record))
        stale = [port for port in held.published if target is None or port.interface != target.interface]
        if stale:
            await self._host.unpublish(stale)
            held.close(stale)
        if target and not held.ports:
            await self._hold_all(self._wishes(record, netports.port_bindings(record.host.get("PortBindings") or {})), target, held)
            await self._host.publish(held.published)
            await held.relay()
        self._note(record, [], held, directory)

    def _live_places(self, record: Record) -> list[tuple[NetworkRecord, dict[str, Any]]]:
        return [(network, entry["live"]) for network, entry in self._live(record)]

    async def renamed(self, record: Record, directory: str) -> None:
        """Others find a running container by its new name."""
        entries, live = dict(endpoints_of(record)), self._live(record)
        if not record.running or not live:
            return
        for network, entry in live:
            entries[network.name] = {**entry, "live": {**entry["live"], "dns_names": dns_names(record, network, entry["settings"])}}
        record.endpoints = entries
        self._note(record, [], self._held.setdefault(record.id, Held()), directory)
        await self._names.change(record, self.places(record), -1)

    async def change_ports(
        self, record: Record, add: tuple[netports.PortBinding, ...], remove: tuple[netports.PortBinding, ...], directory: str
    ) -> None:  # fmt: skip
        """Publishes ports of a running container and takes others away: all of it, or nothing."""
        held = self._held.setdefault(record.id, Held())
        going = [port for port in held.published if any(portmaps.is_meant(port, binding) for binding in remove)]
        target = _target(self._live_places(record))
        if add and target is None:
            raise errors.Conflict("no port can be published: the container is in no bridge network that leads out")
        new = Held()
        await self._host.unpublish(going)
        held.close(going)
        try:
            await self._hold_all(portmaps.wishes(add, (), publish_all=False, default=self._host.binding, ipv6=self._host.has_ipv6), target, new)
            await self._host.publish(new.published)
            await new.relay()
        except BaseException:
            new.close(new.published)
            for port in going:
                held.ports[port] = hostports.hold(port.protocol, port.host_address, port.host_port)
            await self._host.publish(going)
            await held.relay()
            raise
        held.ports |= new.ports
        held.relays |= new.relays
        self._note(record, [], held, directory)

    # -- deciding -------------------------------------------------------------------------------

    def _place(
        self, record: Record, network: NetworkRecord, settings: dict[str, Any], interface: str, gateways: dict[int, str]
    ) -> Place:  # fmt: skip
        wanted = settings.get("IPAMConfig") or {}
        taken: list[Address] = []
        found: list[Interface] = []
        try:
            for pool, subnet in zip(self._pools_of(network), network.subnets(), strict=True):
                text = wanted.get("IPv4Address" if subnet.network.version == 4 else "IPv6Address") or ""
                asked = ip_address(text) if text else None
                if asked is not None and asked not in pool:
                    continue  # another subnet of the network has it
                if asked is None and any(address.version == subnet.network.version for address in found):
                    continue
                address = pool.take(asked)
                taken.append(address)
                found.append(ip_interface(f"{address}/{subnet.network.prefixlen}"))
        except BaseException:
            for address in taken:
                self._give_back(network, address)
            raise
        identity = netrecords.endpoint_id()
        mac = settings.get("MacAddress") or (addresses.hardware_address(found[0].ip) if found else "")
        routers = _routers(network, gateways, found)
        attachment = Attachment(interface, f"veth{identity[:7]}", mac, tuple(found), routers)
        return Place(network, settings, attachment, identity, dns_names(record, network, settings))

    async def _hold_ports(self, record: Record, places: list[Place], held: Held) -> None:
        target = _target([(place.network, place.live()) for place in places])
        await self._hold_all(self._wishes(record, netports.port_bindings(record.host.get("PortBindings") or {})), target, held)

    def _wishes(self, record: Record, bindings: tuple[netports.PortBinding, ...]) -> list[portmaps.Wish]:
        return portmaps.wishes(
            bindings, tuple(netports.exposed(record.config.get("ExposedPorts") or {})), publish_all=bool(record.host.get("PublishAllPorts")),
            default=self._host.binding, ipv6=self._host.has_ipv6,
        )  # fmt: skip

    async def _hold_all(self, wishes: list[portmaps.Wish], target: "Target | None", held: Held) -> None:
        """Those of a container that no published port can lead to are left out, as Docker does."""
        for wish in wishes if target else ():
            for port in await self._hold(wish):
                assert target
                inside = target.addresses.get(port.address.version) or next(iter(target.addresses.values()))
                held.ports[PublishedPort(wish.protocol, port.address, port.port, inside, wish.port, target.interface)] = port

    async def _hold(self, wish: portmaps.Wish) -> list[hostports.Held]:
        if wish.host_ports is None:
            self._next_port_seed += 1
            candidates = hostports.ephemeral(self._next_port_seed)
        else:
            candidates = wish.host_ports
        try:
            return hostports.hold_any(wish.protocol, list(wish.addresses), candidates)
        except errors.Conflict:
            if not self._leaving:
                raise
        for leaving in list(self._leaving.values()):  # one that has just ended gives it back in a moment
            await leaving.wait()
        return hostports.hold_any(wish.protocol, list(wish.addresses), candidates)

    async def forget(self, network: NetworkRecord) -> None:
        """A network that is removed."""
        self._pools.pop(network.id, None)
        await self._names.forget(network)

    # -- addresses ------------------------------------------------------------------------------

    def _pools_of(self, network: NetworkRecord) -> list[addresses.Pool]:
        if network.id not in self._pools:
            self._pools[network.id] = [addresses.Pool(subnet) for subnet in network.subnets()]
        return self._pools[network.id]

    def _take(self, network: NetworkRecord, address: Address) -> None:
        next(pool for pool in self._pools_of(network) if address in pool).take(address)

    def _give_back(self, network: NetworkRecord, address: Address) -> None:
        for pool in self._pools_of(network):
            if address in pool:
                pool.give_back(address)


def gateway_networks(chosen: list[tuple[NetworkRecord, dict[str, Any]]]) -> dict[int, str]:
    """IP version -> the id of the network that has a container's default route: the highest GwPriority, then the first name."""
    found: dict[int, str] = {}
    order = sorted(chosen, key=lambda entry: (-(entry[1].get("GwPriority") or 0), entry[0].name))
    for network, _ in order:
        if network.internal:
            continue
        for subnet in network.subnets():
            if subnet.gateway:
                found.setdefault(subnet.network.version, network.id)
    return found


def _routers(network: NetworkRecord, gateways: dict[int, str], addresses_: list[Interface]) -> tuple[Address, ...]:
    """The network's gateways, of the IP versions for which it leads out."""
    versions = {address.version for address in addresses_}
    return tuple(
        subnet.gateway for subnet in network.subnets()
        if subnet.gateway and subnet.network.version in versions and gateways.get(subnet.network.version) == network.id
    )  # fmt: skip


def _attachment_of(live: dict[str, Any]) -> Attachment:
    return Attachment(
        live["interface"], live["outside"], live["mac"], tuple(map(ip_interface, live["addresses"])), tuple(map(ip_address, live["gateways"]))
    )


def _kept_port(port: PublishedPort) -> dict[str, Any]:
    return {
        "protocol": port.protocol, "host_address": str(port.host_address), "host_port": port.host_port, "address": str(port.address),
        "port": port.port, "interface": port.interface,
    }  # fmt: skip


def _port_of(entry: dict[str, Any]) -> PublishedPort:
    return PublishedPort(
        entry["protocol"], ip_address(entry["host_address"]), entry["host_port"], ip_address(entry["address"]), entry["port"], entry["interface"]
    )


@dataclass(frozen=True, slots=True)
class Target:
    """Where published ports of a container lead: by IP version."""

    interface: str
    addresses: dict[int, Address]


def _target(places: list[tuple[NetworkRecord, dict[str, Any]]]) -> Target | None:
    """The bridge network that leads out; None where there is none: such a container has no published ports."""
    for network, live in places:
        if network.driver == model.BRIDGE and live["gateways"]:
            found = [ip_interface(text).ip for text in live["addresses"]]
            return Target(network.interface, {address.version: address for address in found})
    return None
