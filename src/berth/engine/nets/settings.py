"""What the engine was told of networks, by the names that dockerd's daemon.json has for them. Pure.

default-address-pools, default-gateway and the like are checked when they are read: what contradicts itself ends the start with a message.
"""

from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from berth.engine.config_values import Mistake
from berth.errors import InvalidParameter
from berth.network import addresses, model
from berth.network.model import Address, Range, Subnet

_DEFAULT_PREFIX = "com.docker.network."


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """bridge: of the default network's interface, '' for the engine's own name, none for no such network.

    binding: where ports are published if nobody names an address; None for all of them. direct: a published port is open whatever
    the host's firewall says of the port, as Docker has it.
    """

    bridge: str = ""
    subnets: tuple[Subnet, ...] = ()  # of the default network; () for those that are free
    pools: tuple[tuple[Range, int], ...] = addresses.DEFAULT_POOLS
    options: dict[str, str] = field(default_factory=dict)  # of the default network
    default_options: dict[str, dict[str, str]] = field(default_factory=dict)  # driver -> options of new networks
    ipv6: bool = False
    binding: Address | None = None
    host_gateways: tuple[Address, ...] = ()
    direct: bool = False
    forward: bool = True
    guard: bool = True
    relay: bool = True


def from_daemon(settings: dict[str, Any]) -> NetworkSettings:
    """Settings by key. InvalidParameter where they do not go together."""
    options = {}
    for key, option in (("icc", "bridge.enable_icc"), ("ip-masq", "bridge.enable_ip_masquerade")):
        if key in settings:
            options[_DEFAULT_PREFIX + option] = str(settings[key]).lower()
    if settings.get("mtu"):
        options["com.docker.network.driver.mtu"] = str(settings["mtu"])
    gateways = settings.get("host-gateway-ips") or ([settings["host-gateway-ip"]] if settings.get("host-gateway-ip") else [])
    if settings.get("bridge") and (settings.get("bip") or settings.get("bip6")):
        raise InvalidParameter("bridge and bip: a bridge that is there already has its own address; leave one of the two out")
    return NetworkSettings(
        bridge=settings.get("bridge") or "", subnets=_subnets(settings), pools=_pools(settings.get("default-address-pools")), options=options,
        default_options=settings.get("default-network-opts") or {}, ipv6=bool(settings.get("ipv6")),
        binding=ip_address(settings["ip"]) if settings.get("ip") else None, host_gateways=tuple(map(ip_address, gateways)),
        direct=settings.get("published-ports") == "direct", forward=settings.get("ip-forward", True),
        guard=not settings.get("ip-forward-no-drop", False), relay=settings.get("userland-proxy", True),
    )  # fmt: skip


def _subnets(settings: dict[str, Any]) -> tuple[Subnet, ...]:
    found = []
    for address_key, range_key, gateway_key in (
        ("bip", "fixed-cidr", "default-gateway"), ("bip6", "fixed-cidr-v6", "default-gateway-v6"),
    ):  # fmt: skip
        given, narrow = settings.get(address_key) or "", settings.get(range_key) or ""
        if not given and not narrow:
            continue
        own = ip_interface(given or _first_of(narrow))
        wanted = ip_network(narrow, strict=False) if narrow else None
        if wanted and not (wanted.version == own.version and addresses.overlap(wanted, own.network)):
            raise InvalidParameter(f"{range_key}: {wanted} is not in the network of {address_key}, {own.network}")
        gateway = ip_address(settings[gateway_key]) if settings.get(gateway_key) else own.ip
        found.append(Subnet(own.network, gateway, wanted if wanted != own.network else None))
    return tuple(found)


def _first_of(cidr: str) -> str:
    network = ip_network(cidr, strict=False)
    return f"{addresses.first_host(network)}/{network.prefixlen}"


def _pools(given: list[dict[str, Any]] | None) -> tuple[tuple[Range, int], ...]:
    return tuple((ip_network(entry["base"], strict=False), entry["size"]) for entry in given) if given else addresses.DEFAULT_POOLS


# -- checks of daemon.json's values -------------------------------------------------------------------


def address_pools(value: object) -> list[dict[str, Any]]:
    """`[{"base": "10.10.0.0/16", "size": 24}, …]`"""
    if not isinstance(value, list):
        raise Mistake("is not a list")
    for entry in value:
        if not isinstance(entry, dict) or not isinstance(entry.get("base"), str) or not isinstance(entry.get("size"), int):
            raise Mistake('has an entry that is not {"base": "10.10.0.0/16", "size": 24}')
        try:
            base = ip_network(entry["base"], strict=False)
        except ValueError:
            raise Mistake(f"has {entry['base']}, which is not a subnet") from None
        if not base.prefixlen <= entry["size"] <= base.max_prefixlen - 2:
            raise Mistake(f"has size {entry['size']} for {base}: a subnet of it has {base.prefixlen} to {base.max_prefixlen - 2} bits")
    return value


def interface(value: object) -> str:
    """The name of a bridge, or none."""
    if not isinstance(value, str) or len(value) > model.MAX_INTERFACE_NAME or any(letter in value for letter in "/ :"):
        raise Mistake(f"is not the name of an interface, which has at most {model.MAX_INTERFACE_NAME} characters, no slashes and no spaces")
    return value


def network_options(value: object) -> dict[str, dict[str, str]]:
    """`{"bridge": {"com.docker.network.driver.mtu": "1450"}}`"""
    if not isinstance(value, dict) or not all(isinstance(options, dict) for options in value.values()):
        raise Mistake("is not an object of a driver's options")
    return value
