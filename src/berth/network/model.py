"""What the parts of this package tell each other: a network, a container's place in one, a published port. Pure.

The engine makes these from its records; nothing here is kept.
"""

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network, ip_address, ip_interface

Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface  # an address with its subnet
Range = IPv4Network | IPv6Network

MAX_INTERFACE_NAME = 15  # IFNAMSIZ without its zero
BRIDGE, MACVLAN, IPVLAN, HOST, NULL = "bridge", "macvlan", "ipvlan", "host", "null"
# Ways between a bridge network and the world, for each IP version (Docker's gateway_mode_ipv4 and _ipv6).
NAT, NAT_UNPROTECTED, ROUTED, ISOLATED = "nat", "nat-unprotected", "routed", "isolated"


@dataclass(frozen=True, slots=True)
class Names:
    """What one engine calls its own in the kernel; engines beside each other on a host have different ones.

    loop_in, loop_out: a veth pair from the host to the host, see firewall.py.
    """

    table: str = "berth"
    bridge: str = "berth0"
    loop_in: str = "berth-in"
    loop_out: str = "berth-out"

    @classmethod
    def of(cls, instance: str) -> "Names":
        """instance: six hexadecimal digits, or nothing for the engine of the default directories."""
        return cls(f"berth-{instance}", f"berth-{instance}", f"bin-{instance}", f"bout-{instance}") if instance else cls()


@dataclass(frozen=True, slots=True)
class Subnet:
    """One IPAM entry of a network. reserved: AuxiliaryAddresses by name; range: what addresses are picked from, or None for all."""

    network: Range
    gateway: Address | None
    range: Range | None = None
    reserved: dict[str, Address] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Network:
    """A network as the kernel needs to know it. interface: the bridge's name, or the parent of a macvlan or ipvlan ("" for none).

    options: those that Docker's clients gave (com.docker.network.bridge.*, macvlan_mode …), as text; the properties read them.
    """

    id: str
    name: str
    driver: str
    interface: str
    subnets: tuple[Subnet, ...] = ()
    internal: bool = False
    options: dict[str, str] = field(default_factory=dict)

    @property
    def mtu(self) -> int:
        """0 for the kernel's own."""
        return int(self.options.get("com.docker.network.driver.mtu") or 0)

    @property
    def icc(self) -> bool:
        """Whether its containers reach each other."""
        return self._is_on("com.docker.network.bridge.enable_icc")

    def gateway_mode(self, version: int) -> str:
        """nat: reached by published ports of the host; nat-unprotected: by its containers' own addresses, too, on all ports; routed:
        by these alone, on published ports; isolated: not at all, the host has no address in it."""
        return self.options.get(f"com.docker.network.bridge.gateway_mode_ipv{version}") or NAT

    def masquerade(self, version: int) -> bool:
        return self.gateway_mode(version) in (NAT, NAT_UNPROTECTED) and self._is_on("com.docker.network.bridge.enable_ip_masquerade")

    def source(self, version: int) -> Address | None:
        """The host's address that what leaves gets; None for that of the interface by which it leaves."""
        text = self.options.get(f"com.docker.network.host_ipv{version}")
        return ip_address(text) if text else None

    def host_addresses(self) -> tuple[Interface, ...]:
        """Of the bridge: its gateways, as far as they are the host's."""
        return tuple(
            ip_interface(f"{subnet.gateway}/{subnet.network.prefixlen}") for subnet in self.subnets
            if subnet.gateway and self.gateway_mode(subnet.network.version) != ISOLATED
            and not (subnet.network.version == 4 and self._is_on("com.docker.network.bridge.inhibit_ipv4", default=False))
        )  # fmt: skip

    @property
    def has_ipv6(self) -> bool:
        return any(subnet.network.version == 6 for subnet in self.subnets)

    def _is_on(self, key: str, *, default: bool = True) -> bool:
        return self.options.get(key, str(default)).lower() in ("true", "1", "t")


@dataclass(frozen=True, slots=True)
class Attachment:
    """A container's place in a network. name: of its interface inside (eth0); outside: of the host's end of a veth pair.

    gateways: default routes that this attachment gives the container, none where another one gives them.
    """

    name: str
    outside: str
    mac: str
    addresses: tuple[Interface, ...] = ()
    gateways: tuple[Address, ...] = ()
    sysctls: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PublishedPort:
    """A port of the host that leads to one of a container. protocol: tcp, udp or sctp; host_address: unspecified (0.0.0.0, ::) for any.

    host_port: 0 for a port that is reached by the container's own address (`ROUTED`), and no port of the host leads to.
    interface: the bridge by which the container is reached.
    """

    protocol: str
    host_address: Address
    host_port: int
    address: Address
    port: int
    interface: str
