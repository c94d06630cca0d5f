"""Containers' places in networks: made before a start, taken down after an end. What is decided here the kernel is told by HostNetworks.

A container that starts gets, in this order: addresses, ports of the host, a network namespace, interfaces in it, rules, names. Whatever
fails takes down what was there before it. What it has is written down (note.py) before the program can run: an engine that is killed
then finds it again (`restore`), and one that is killed earlier leaves a namespace that nothing is in, which the kernel removes with all
its interfaces.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Iterable, Sequence
from ipaddress import ip_address, ip_interface
from typing import Any

from berth import errors
from berth.engine.nets import note as netnote
from berth.engine.nets import places, portmaps
from berth.engine.nets import ports as netports
from berth.engine.nets import records as netrecords
from berth.engine.nets.container import ContainerNetworking
from berth.engine.nets.containernames import ContainerNames
from berth.engine.nets.endpoint import EndpointRequest, check_addresses, endpoint
from berth.engine.nets.endpointnames import dns_names, endpoints_of, has_own_namespace
from berth.engine.nets.heldports import Held, HeldPorts
from berth.engine.nets.host import HostNetworks
from berth.engine.nets.namespaces import Namespace, Namespaces
from berth.engine.nets.note import Note
from berth.engine.nets.places import Live, Place, Settings, Target
from berth.engine.nets.records import NetworkRecord
from berth.engine.nets.store import NetworkStore
from berth.engine.state import Record
from berth.engine.tasks import Tasks
from berth.network import addresses, model
from berth.network.model import Address, Attachment, Interface, PublishedPort

log = logging.getLogger("berth.networks")

_ASKED = ("IPAMConfig", "Links", "Aliases", "MacAddress", "DriverOpts", "GwPriority")  # of EndpointSettings; the rest is the engine's to say
_LINK_LOCAL_BITS = {4: 16, 6: 64}


class Attaching:
    """All places of all containers. One container at a time is attached or detached: its lock is held, or it has ended."""

    def __init__(self, store: NetworkStore, namespaces: Namespaces, host: HostNetworks, names: ContainerNames, tasks: Tasks) -> None:
        self._store = store
        self._namespaces = namespaces
        self._host = host
        self._names = names
        self._tasks = tasks
        self._ports = HeldPorts(host, self.settled)
        self._pools: dict[str, list[addresses.Pool]] = {}
        self._users: dict[str, set[str]] = {}  # by network: containers that have a place there, are given one, or are giving it back
        self._ends: dict[str, str] = {}  # the host's ends of interfaces -> the container that runs with it
        self._leaving: dict[str, asyncio.Event] = {}  # set once everything of a container that ended is given back
        self._notes: dict[str, Note] = {}  # of containers that were in the middle of a change when the engine before was killed
        self._restored = asyncio.Event()  # nothing is attached before it is known what there is

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
            found[network.name if network else name] = {"settings": asked(given.get(name, {})), "network_id": "", "live": None}
        return found

    def places(self, record: Record) -> list[tuple[NetworkRecord, Settings, Live]]:
        """Networks that a container is in now, with what was asked for and what it has."""
        return [(network, entry["settings"], entry["live"]) for network, entry in self._live(record)]

    def host_gateways(self, record: Record) -> list[str]:
        """What `host-gateway` stands for: the engine's own setting, or the host as the container's networks have it."""
        if self._store.settings.host_gateways:
            return [str(address) for address in self._store.settings.host_gateways]
        return [text for _, _, live in self.places(record) for text in live["gateways"] if not ip_address(text).is_unspecified]

    def warm_up(self) -> None:
        """Somebody is about to start containers in networks."""
        self._namespaces.warm_up()
        self._names.warm_up()

    def users(self, network: NetworkRecord) -> set[str]:
        """Ids of the containers for whose sake it cannot be removed."""
        return set(self._users.get(network.id, ()))

    def owners(self, outsides: Iterable[str]) -> dict[str, str]:
        """Of host's ends of interfaces, those that containers have which run: the containers' ids."""
        return {name: self._ends[name] for name in outsides if name in self._ends}

    def outsides(self) -> list[str]:
        """The host's ends of all interfaces of containers."""
        return list(self._ends)

    def published(self) -> list[PublishedPort]:
        """By all containers."""
        return self._ports.published()

    # -- start and end --------------------------------------------------------------------------

    async def attach(self, record: Record, directory: str, mappings: tuple[list[dict], list[dict]] | None) -> Namespace | None:
        """A namespace with everything in it, for a container that starts; None for one that has none of its own.

        mappings: of ids, if it runs in a user namespace.
        """
        if not has_own_namespace(record):
            return None
        await self._restored.wait()
        if leaving := self._leaving.get(record.id):
            await leaving.wait()
        chosen = [(self._store.find(name), entry["settings"]) for name, entry in endpoints_of(record).items()]
        for network, settings in chosen:
            check_joinable(network, settings)
        chosen = [(network, settings) for network, settings in chosen if network.has_addresses]
        if not chosen:
            return None
        found: list[Place] = []
        namespace = None
        for network, _ in chosen:
            self._users.setdefault(network.id, set()).add(record.id)
        try:
            gateways = places.gateway_networks(chosen)
            for network, settings in chosen:
                name = places.interface_name(network, settings, [place.attachment.name for place in found])
                found.append(await self._place_of(record, network, settings, name, gateways))
            target = places.target_of([(place.network, place.live()) for place in found])
            await self._ports.hold(record.id, self._wishes(record, target), target)
            namespace = await self._namespaces.take(mappings)
            for place in found:
                await self._join(place.network, place.settings, place.attachment, namespace)
            await self._ports.lead(record.id)
            await self._names.add(record, [(place.network, place.settings, place.live()) for place in found], namespace.fd)
            self._commit(record, found, directory)
        except BaseException:
            if namespace:
                namespace.close()
            await self._clear(record.id, self._ports.pop(record.id), [(place.network, place.live()) for place in found])
            for network, _ in chosen:
                self._leave(network, record.id)
            raise
        return namespace

    async def started(self, record: Record) -> None:
        """Its program runs."""
        await self._names.watch(record)

    def _commit(self, record: Record, more: Sequence[Place], directory: str, **note: Any) -> None:
        """From here on it has these places too, whatever becomes of the engine; what is not written stays as it was."""
        entries, ports = dict(endpoints_of(record)), record.ports
        for place in more:
            entries[place.network.name] = {"settings": place.settings, "network_id": place.network.id, "live": place.live()}
        record.ports = [places.kept_port(port) for port in self._ports.of(record.id).published]
        try:
            netnote.write(record, directory, endpoints=entries, **note)
        except BaseException:
            record.ports = ports
            raise
        record.endpoints = entries
        self._ends |= {place.attachment.outside: record.id for place in more if place.network.driver == model.BRIDGE}

    def detach(self, record: Record) -> None:
        """Of one that has ended: its places are nobody's, and what the kernel has of them is taken down meanwhile."""
        found = self._live_places(record)
        if any(entry.get("live") for entry in endpoints_of(record).values()):
            record.endpoints = {name: {**entry, "live": None} for name, entry in endpoints_of(record).items()}
        record.ports = []
        held = self._ports.pop(record.id)
        if held is None and not found:
            return
        for _, live in found:
            self._ends.pop(live["outside"], None)
        self._leaving[record.id] = asyncio.Event()
        self._tasks.spawn(self._detach(record.id, held, found))

    async def _detach(self, identity: str, held: Held | None, found: list[tuple[NetworkRecord, Live]]) -> None:
        try:
            await self._clear(identity, held, found)
        finally:
            for network, _ in found:
                self._leave(network, identity)
            self._leaving.pop(identity).set()

    async def settled(self) -> None:
        """Once everything of those that have ended is given back."""
        for leaving in list(self._leaving.values()):
            await leaving.wait()

    async def _clear(self, identity: str, held: Held | None, found: list[tuple[NetworkRecord, Live]]) -> None:
        """All of one container. Rules before ports, interfaces before addresses: nobody may get one that still leads elsewhere."""
        with _logged():
            await self._names.remove(identity, found)
        if held:
            with _logged():
                await self._ports.give_back(held)
        for network, live in found:
            await self._take_down(network, live)

    async def _take_down(self, network: NetworkRecord, live: Live) -> None:
        self._ends.pop(live["outside"], None)
        with _logged():
            await self._host.detach(live["outside"])
        for text in live["addresses"]:
            self._give_back(network, ip_interface(text).ip)

    def _leave(self, network: NetworkRecord, identity: str) -> None:
        self._users.get(network.id, set()).discard(identity)

    def _live(self, record: Record) -> list[tuple[NetworkRecord, dict[str, Any]]]:
        """Networks that a container is in now, with its entries."""
        found = []
        for entry in endpoints_of(record).values():
            if entry.get("live"):
                with contextlib.suppress(errors.NotFound):
                    found.append((self._store.find(entry["network_id"]), entry))
        return found

    def _live_places(self, record: Record) -> list[tuple[NetworkRecord, Live]]:
        return [(network, entry["live"]) for network, entry in self._live(record)]

    # -- an engine that starts ------------------------------------------------------------------

    def recall(self, record: Record, directory: str) -> None:
        """What the engine before wrote down of a container that was found running."""
        note = netnote.read(directory)
        if note is None:
            return
        record.endpoints, record.ports = note.endpoints, note.ports
        if any(record.host.get(key) != value for key, value in note.host.items()):
            record.host = {**record.host, **note.host}
        if note.unsettled or note.leaving:
            self._notes[record.id] = note

    async def restore(self, record: Record) -> list[str]:
        """Takes for a running container what it has: addresses, ports, names. Rules are put in for all at once (`HostNetworks.restore`)."""
        entries = dict(endpoints_of(record))
        for network, entry in self._live(record):
            self._users.setdefault(network.id, set()).add(record.id)
            if network.driver == model.BRIDGE:
                self._ends[entry["live"]["outside"]] = record.id
            for text in entry["live"]["addresses"]:
                self._take(network, ip_interface(text).ip)
            known = dns_names(record, network, entry["settings"])
            if entry["live"]["dns_names"] != known:  # it was being renamed
                entries[network.name] = {**entry, "live": {**entry["live"], "dns_names": known}}
        if entries != endpoints_of(record):
            record.endpoints = entries
        troubles = []
        try:
            await self._names.restore(record, self.places(record))
        except errors.BerthError as error:
            troubles.append(f"has no names: {error}")
        ports = [places.port_of(entry) for entry in record.ports]
        return troubles + (self._ports.retake(record.id, ports) if ports else [])

    async def relay(self) -> None:
        """Serves the ports of all that were found running, as far as rules cannot."""
        for identity in self._ports.ids():
            await self._ports.of(identity).relay()

    def open(self) -> None:
        """What there is is known, and is as it must be: containers may start."""
        self._notes.clear()
        self._restored.set()

    # -- deciding -------------------------------------------------------------------------------

    async def _place_of(
        self, record: Record, network: NetworkRecord, settings: Settings, interface: str, gateways: dict[int, str]
    ) -> Place:  # fmt: skip
        """An address that is taken may be one that has just ended gives back: Compose starts the new one in the same moment."""
        try:
            return self._place(record, network, settings, interface, gateways)
        except (errors.Forbidden, errors.Conflict):
            await self.settled()
            return self._place(record, network, settings, interface, gateways)

    def _place(
        self, record: Record, network: NetworkRecord, settings: Settings, interface: str, gateways: dict[int, str]
    ) -> Place:  # fmt: skip
        if network.driver == model.IPVLAN and settings.get("MacAddress"):
            raise errors.InvalidParameter("ipvlan interfaces do not support custom mac address assignment: they all have their parent's")
        wanted = settings.get("IPAMConfig") or {}
        found = self._choose(network, wanted)
        link_local = tuple(ip_interface(f"{text}/{_LINK_LOCAL_BITS[ip_address(text).version]}") for text in wanted.get("LinkLocalIPs") or [])
        identity = netrecords.endpoint_id()
        mac = settings.get("MacAddress") or (addresses.hardware_address(found[0].ip) if found and network.driver != model.IPVLAN else "")
        attachment = Attachment(interface, f"veth{identity[:7]}", mac, (*found, *link_local), places.routers(network, gateways, found))
        return Place(network, settings, attachment, identity, link_local, dns_names(record, network, settings), places.own_routers(network, found))

    def _choose(self, network: NetworkRecord, wanted: dict[str, Any]) -> list[Interface]:
        """Its addresses: those asked for (IPAMConfig), or the next that are free."""
        found: list[Interface] = []
        try:
            for pool, subnet in zip(self._pools_of(network), network.subnets(), strict=True):
                text = wanted.get("IPv4Address" if subnet.network.version == 4 else "IPv6Address") or ""
                asked_for = ip_address(text) if text else None
                if asked_for is not None and asked_for not in pool:
                    continue  # another subnet of the network has it
                if asked_for is None and any(address.version == subnet.network.version for address in found):
                    continue
                found.append(ip_interface(f"{pool.take(asked_for)}/{subnet.network.prefixlen}"))
        except BaseException:
            for address in found:
                self._give_back(network, address.ip)
            raise
        return found

    async def _join(self, network: NetworkRecord, settings: Settings, attachment: Attachment, namespace: Namespace) -> None:
        """The kernel is told."""
        await self._host.attach(network.as_model(), attachment, namespace)
        sysctls = EndpointRequest(driver_opts=settings.get("DriverOpts") or {}).sysctls
        if sysctls:
            await self._namespaces.set_sysctls(
                namespace.fd, {name.replace(".IFNAME.", f".{attachment.name}."): value for name, value in sysctls.items()}
            )

    def _wishes(self, record: Record, target: Target | None) -> list[portmaps.Wish]:
        return portmaps.wishes(
            netports.port_bindings(record.host.get("PortBindings") or {}), tuple(netports.exposed(record.config.get("ExposedPorts") or {})),
            publish_all=bool(record.host.get("PublishAllPorts")), default=(target.binding if target else None) or self._host.binding,
            ipv6=self._host.has_ipv6,
        )  # fmt: skip

    def _target(self, record: Record) -> Target | None:
        return places.target_of(self._live_places(record))

    @contextlib.asynccontextmanager
    async def _inside(self, record: Record) -> AsyncIterator[Namespace]:
        """The network namespace of one that runs. Conflict if it ends just now."""
        try:
            fd = os.open(f"/proc/{record.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            raise errors.Conflict(f"container {record.id} is not running") from None
        try:
            namespace = Namespace(os.dup(fd), await self._namespaces.enter(fd))
        finally:
            os.close(fd)
        try:
            yield namespace
        finally:
            namespace.close()

    # -- addresses ------------------------------------------------------------------------------

    def _pools_of(self, network: NetworkRecord) -> list[addresses.Pool]:
        if network.id not in self._pools:
            self._pools[network.id] = [addresses.Pool(subnet) for subnet in network.subnets()]
        return self._pools[network.id]

    def _take(self, network: NetworkRecord, address: Address) -> None:
        """What a container has that runs already; it may be outside of what the network has by now."""
        for pool in self._pools_of(network):
            if address in pool:
                with contextlib.suppress(errors.BerthError):
                    pool.take(address)

    def _give_back(self, network: NetworkRecord, address: Address) -> None:
        for pool in self._pools_of(network):
            if address in pool:
                pool.give_back(address)

    async def forget(self, network: NetworkRecord) -> None:
        """A network that is removed."""
        self._pools.pop(network.id, None)
        self._users.pop(network.id, None)
        await self._names.forget(network)


def check_joinable(network: NetworkRecord, settings: Settings) -> None:
    """What cannot be known to be wrong before the network is there, in Docker's words."""
    if network.config_only:
        raise errors.Forbidden(f"cannot create endpoint on configuration-only network: {network.name} is for --config-from")
    if network.has_addresses:
        check_addresses(endpoint(settings, network.name), network.chosen_subnets())


def asked(settings: dict[str, Any]) -> Settings:
    """What a client asked for, of EndpointSettings."""
    return {key: value for key, value in settings.items() if key in _ASKED and value}


@contextlib.contextmanager
def _logged() -> Any:
    """What cannot be taken down does not keep the rest from it."""
    try:
        yield
    except errors.BerthError as error:
        log.warning("%s", error)
