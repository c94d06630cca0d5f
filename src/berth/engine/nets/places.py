"""A container's place in a network: its addresses, its interface, the way out, where published ports lead. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface
from typing import Any

from berth.engine.nets.endpoint import INTERFACE_NAME
from berth.engine.nets.records import NetworkRecord
from berth.network import model
from berth.network.model import Address, Attachment, Interface, PublishedPort

_PREFIX_OPTION, _PREFIX = "com.docker.network.container_iface_prefix", "eth"
_BINDING_OPTION = "com.docker.network.bridge.host_binding_ipv4"
_ITSELF = {4: ip_address("0.0.0.0"), 6: ip_address("::")}  # as a router: the interface
Settings = dict[str, Any]  # Docker's EndpointSettings, as asked for
Live = dict[str, Any]  # what a container has in a network while it runs, see nets/records.py


@dataclass(slots=True)
class Place:
    """One container in one network, decided and not yet in the kernel's hands."""

    network: NetworkRecord
    settings: Settings
    attachment: Attachment
    endpoint_id: str
    link_local: tuple[Interface, ...]  # of the attachment's addresses, those that are no pool's
    dns_names: list[str]
    routers: tuple[Address, ...] = ()  # of the network, whether it leads this container out or not: what Docker calls its gateways

    def live(self) -> Live:
        """As records keep it."""
        return {
            "id": self.endpoint_id, "interface": self.attachment.name, "outside": self.attachment.outside, "mac": self.attachment.mac,
            "addresses": [str(address) for address in self.attachment.addresses if address not in self.link_local],
            "link_local": [str(address) for address in self.link_local],
            "gateways": [str(address) for address in self.attachment.gateways], "dns_names": self.dns_names,
            "routers": [str(address) for address in self.routers],
        }  # fmt: skip


def attachment_of(live: Live) -> Attachment:
    texts = [*live["addresses"], *live.get("link_local", ())]
    return Attachment(
        live["interface"], live["outside"], live["mac"], tuple(map(ip_interface, texts)), tuple(map(ip_address, live["gateways"])),
    )  # fmt: skip


def interface_name(network: NetworkRecord, settings: Settings, taken: Iterable[str]) -> str:
    """As the container sees it: what was asked for, or the first number that is free."""
    if asked := (settings.get("DriverOpts") or {}).get(INTERFACE_NAME):
        return str(asked)
    prefix = network.options.get(_PREFIX_OPTION) or _PREFIX
    names = set(taken)
    return next(name for number in range(len(names) + 1) if (name := f"{prefix}{number}") not in names)


# -- the way out --------------------------------------------------------------------------------------


def gateway_networks(chosen: Sequence[tuple[NetworkRecord, Settings]]) -> dict[int, str]:
    """IP version -> the id of the network that has a container's default route: the highest GwPriority, then the first name."""
    found: dict[int, str] = {}
    order = sorted(chosen, key=lambda entry: (-(entry[1].get("GwPriority") or 0), entry[0].name))
    for network, _ in order:
        for version in _routers(network):
            found.setdefault(version, network.id)
    return found


def _routers(network: NetworkRecord) -> dict[int, Address]:
    """By IP version; none where it does not lead out."""
    if network.internal:
        return {}
    if network.driver == model.IPVLAN and network.options.get("ipvlan_mode") in ("l3", "l3s"):  # no router is asked for by ARP
        return {subnet.network.version: _ITSELF[subnet.network.version] for subnet in network.subnets()}
    return {subnet.network.version: subnet.gateway for subnet in reversed(network.subnets()) if subnet.gateway}


def own_routers(network: NetworkRecord, addresses: Iterable[Interface]) -> tuple[Address, ...]:
    """The network's gateways, of the IP versions of these addresses."""
    versions = {address.version for address in addresses}
    return tuple(router for version, router in sorted(_routers(network).items()) if version in versions)


def routers(network: NetworkRecord, gateways: dict[int, str], addresses: Iterable[Interface]) -> tuple[Address, ...]:
    """The network's gateways, of the IP versions for which it leads out."""
    return tuple(router for router in own_routers(network, addresses) if gateways.get(router.version) == network.id)


# -- published ports ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """Where published ports of a container lead: by IP version.

    opened: addresses at which others reach them directly, with the bridges that those are behind; binding: where they are published if
    nobody names an address of the host, None for what the engine says.
    """

    interface: str = ""
    addresses: dict[int, Address] = field(default_factory=dict)
    opened: tuple[tuple[Address, str], ...] = ()
    binding: Address | None = None

    def of(self, address: Address) -> Address | None:
        """The container's address for a port on the host's `address`: of the other family where it has none of the same.

        None where no port of the host leads to it.
        """
        if any(opened.version == address.version for opened, interface in self.opened if interface == self.interface):
            return None
        return self.addresses.get(address.version) or next(iter(self.addresses.values()), None)


def target_of(places: Iterable[tuple[NetworkRecord, Live]]) -> Target | None:
    """The bridge network that leads out, and those that others have routes to; None where there is neither: such a container has no
    published ports."""
    interface, binding = "", None
    addresses: dict[int, Address] = {}
    opened: list[tuple[Address, str]] = []
    for network, live in places:
        if network.driver != model.BRIDGE:
            continue
        known = network.as_model()
        found: dict[int, Address] = {address.version: address for text in reversed(live["addresses"]) for address in (ip_interface(text).ip,)}
        routed = {version: address for version, address in found.items() if known.gateway_mode(version) == model.ROUTED}
        opened += [(address, network.interface) for address in routed.values()]
        if live["gateways"] and not interface:
            interface, binding = network.interface, ip_address(network.options.get(_BINDING_OPTION) or "0.0.0.0")
            addresses = {version: address for version, address in found.items() if version not in routed}
    if not interface and not opened:
        return None
    return Target(interface, addresses, tuple(opened), None if binding and binding.is_unspecified else binding)


def kept_port(port: PublishedPort) -> dict[str, Any]:
    """As records keep it."""
    return {
        "protocol": port.protocol, "host_address": str(port.host_address), "host_port": port.host_port, "address": str(port.address),
        "port": port.port, "interface": port.interface,
    }  # fmt: skip


def port_of(entry: dict[str, Any]) -> PublishedPort:
    return PublishedPort(
        entry["protocol"], ip_address(entry["host_address"]), entry["host_port"], ip_address(entry["address"]), entry["port"], entry["interface"]
    )
