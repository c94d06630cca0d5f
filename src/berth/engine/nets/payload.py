"""The bodies of POST /networks/create, /networks/{id}/connect and /disconnect: checked and typed. Pure.

Here is what can be known to be wrong without knowing what there is; overlaps with others, interfaces and names that are
taken are for networks.py. Of a container's create request, see container.py. Words are those of Docker 28's
daemon where it has words; what it answers 500 to because nobody looked is InvalidParameter here.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from berth.engine.nets import fields
from berth.engine.nets.endpoint import PREDEFINED, EndpointRequest, endpoint
from berth.engine.nets.options import check_options
from berth.errors import Forbidden, InvalidParameter, NotFound
from berth.network import model
from berth.network.model import Address, Subnet

ENABLE_IPV4, ENABLE_IPV6 = "com.docker.network.enable_ipv4", "com.docker.network.enable_ipv6"
_NO_MANAGER = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRequest:
    """subnets: those given, of the families that the network has; the engine chooses one for a family without.

    config_from: the name of a network whose options count ('' for none); options, labels and subnets are empty then.
    """

    name: str
    driver: str = model.BRIDGE
    subnets: tuple[Subnet, ...] = ()
    ipv4: bool = True
    ipv6: bool = False
    internal: bool = False
    attachable: bool = False
    options: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    ipam_driver: str = "default"
    ipam_options: dict[str, str] = field(default_factory=dict)
    config_only: bool = False
    config_from: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectRequest:
    container: str
    endpoint: EndpointRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class DisconnectRequest:
    container: str
    force: bool = False


def network_create(body: dict[str, Any]) -> NetworkRequest:
    """InvalidParameter, Forbidden (names and drivers that Docker keeps for itself) or NotFound (a driver that is not there)."""
    name, driver = _name(fields.text(body, "Name")), fields.text(body, "Driver") or model.BRIDGE
    if driver == "overlay":
        raise Forbidden(_NO_MANAGER)
    options = dict(fields.string_map(body, "Options"))
    ipv4, ipv6 = _enabled(body, options, "EnableIPv4", ENABLE_IPV4, True), _enabled(body, options, "EnableIPv6", ENABLE_IPV6, False)
    ipam = fields.an_object(body, "IPAM")
    every = _subnets(fields.objects(ipam, "Config"), ipv6)
    subnets = tuple(subnet for subnet in every if (ipv4 if subnet.network.version == 4 else ipv6))
    _check_operator_fields(body)
    config_from = fields.text(fields.an_object(body, "ConfigFrom"), "Network")
    ipam_driver, ipam_options = fields.text(ipam, "Driver") or "default", dict(fields.string_map(ipam, "Options"))
    labels = dict(fields.string_map(body, "Labels"))
    if config_from:
        if ipv6 or labels or ipam_options or every or ipam_driver != "default":
            raise Forbidden("user specified configurations are not supported if the network depends on a configuration network")
        if options:
            raise Forbidden("network driver options are not supported if the network depends on a configuration network")
    if not ipv4 and not ipv6:
        raise InvalidParameter("IPv4 or IPv6 must be enabled")
    _check_driver(driver, ipam_driver)
    _check_together(driver, subnets)
    internal = fields.flag(body, "Internal")
    check_options(driver, options, internal=internal)
    return NetworkRequest(
        name=name, driver=driver, subnets=subnets, ipv4=ipv4, ipv6=ipv6, internal=internal, attachable=fields.flag(body, "Attachable"),
        options=options, labels=labels, ipam_driver=ipam_driver, ipam_options=ipam_options, config_only=fields.flag(body, "ConfigOnly"),
        config_from=config_from,
        warnings=tuple(f"subnet {subnet.network} is not used: the network is without IPv{subnet.network.version}"
                       for subnet in every if subnet not in subnets),
    )  # fmt: skip


def connect(body: dict[str, Any], network: str) -> ConnectRequest:
    """network: the name of the network that the container is to join."""
    return ConnectRequest(
        container=_container(body), endpoint=endpoint(fields.an_object(body, "EndpointConfig"), network)
    )  # fmt: skip


def disconnect(body: dict[str, Any]) -> DisconnectRequest:
    return DisconnectRequest(container=_container(body), force=fields.flag(body, "Force"))


def _container(body: dict[str, Any]) -> str:
    name = fields.text(body, "Container")
    if not name:
        raise InvalidParameter("no container given: Container is empty")
    return name


def _name(name: str) -> str:
    """Docker takes nearly anything; a name that no command line, URL or table could hold is refused."""
    if not name.strip():
        raise InvalidParameter("invalid name: name is empty")
    if name in PREDEFINED:
        raise Forbidden(f"operation is not permitted on predefined {name} network ")  # the space at the end is Docker's
    if not name.isprintable() or "/" in name or name in (".", ".."):
        raise InvalidParameter(f"invalid name: {name!r}: a network's name has no slashes and no control characters")
    if name == "container" or name.startswith("container:"):
        raise InvalidParameter(f"invalid name: {name}: --network {name} means the network of another container")
    return name


def _enabled(body: dict[str, Any], options: dict[str, str], key: str, option: str, default: bool) -> bool:
    """The field where there is one; an option of the same meaning counts only without it, and always goes."""
    given = options.pop(option, None)
    if body.get(key) is not None:
        return fields.flag(body, key)
    found = default if given is None else fields.boolean(given)
    if found is None:
        raise InvalidParameter(f'driver-opt "{option}" is not a valid bool')
    return found


def _check_operator_fields(body: dict[str, Any]) -> None:
    scope, config_only = fields.text(body, "Scope"), fields.flag(body, "ConfigOnly")
    if config_only:
        if scope or any(fields.flag(body, key) for key in ("Ingress", "Internal", "Attachable")):
            raise Forbidden(
                "configuration network can only contain network specific fields. Network operator fields like "
                "[ ingress | internal | attachable | scope ] are not supported."
            )
        if fields.text(fields.an_object(body, "ConfigFrom"), "Network"):
            raise Forbidden("a configuration network cannot depend on another configuration network")
    if fields.flag(body, "Ingress"):
        raise Forbidden("Ingress network can only be global scope network")
    if scope in ("swarm", "global"):
        raise Forbidden("cannot create a swarm scoped network when swarm is not active")
    if scope not in ("", "local"):
        raise InvalidParameter(f"invalid scope {scope!r}: expected local")


def _check_driver(driver: str, ipam_driver: str) -> None:
    if driver in (model.HOST, model.NULL):
        raise Forbidden(f'only one instance of "{driver}" network is allowed')
    if driver not in (model.BRIDGE, model.MACVLAN, model.IPVLAN):
        raise NotFound(f'plugin "{driver}" not found')
    if ipam_driver == "null" and driver == model.BRIDGE:
        raise InvalidParameter("ipv4 pool is empty")
    if ipam_driver not in ("default", "null"):
        raise NotFound(f'plugin "{ipam_driver}" not found')


# -- IPAM ---------------------------------------------------------------------------------------------


def _subnets(configs: list[dict[str, Any]], ipv6: bool) -> tuple[Subnet, ...]:
    """All that is wrong with them in one error. Of an IPv6 subnet in a network without IPv6, as in Docker, only that it is one."""
    found, problems = [], []
    for config in configs:
        text, wanted = fields.text(config, "Subnet"), fields.prefix(fields.text(config, "Subnet"))
        if wanted is None:
            problems.append(f"invalid subnet {text}: invalid CIDR block notation")
        elif wanted.version == 6 and not ipv6:
            found.append(Subnet(wanted.network, None))
        else:
            if wanted.ip != wanted.network.network_address:
                problems.append(f"invalid subnet {wanted}: it should be {wanted.network}")
            found.append(_subnet(config, wanted.network, problems))
    if problems:
        raise InvalidParameter(f"invalid network config:\n{fields.joined(problems)}")
    return tuple(found)


def _subnet(config: dict[str, Any], network: model.Range, problems: list[str]) -> Subnet:
    kind = f"IPv{network.version}"
    text = fields.text(config, "IPRange")
    wanted = fields.prefix(text) if text else None
    if text and wanted is None:
        problems.append(f"invalid ip-range {text}: invalid CIDR block notation")
    elif wanted and wanted.version != network.version:
        problems.append(f"invalid ip-range {text}: parent subnet is an {kind} block")
    elif wanted:
        if wanted.network.prefixlen < network.prefixlen:
            problems.append(f"invalid ip-range {text}: CIDR block is bigger than its parent subnet {network}")
        if wanted.ip != wanted.network.network_address:
            problems.append(f"invalid ip-range {wanted}: it should be {wanted.network}")
        if not wanted.network.overlaps(network):
            problems.append(f"invalid ip-range {text}: parent subnet {network} doesn't contain ip-range")
    gateway = _address(fields.text(config, "Gateway"), network, "gateway", problems)
    reserved = {}
    for name, value in fields.string_map(config, "AuxiliaryAddresses").items():
        found = _address(value, network, f"auxiliary address {name}", problems)
        if found and found == gateway:
            problems.append(f"invalid auxiliary address {name}: {value} is the gateway")
        elif found:
            reserved[name] = found
    return Subnet(network, gateway, wanted.network if wanted else None, reserved)


def _address(text: str, network: model.Range, what: str, problems: list[str]) -> Address | None:
    """One inside the network that a host can have."""
    if not text:
        return None
    prefix = f"invalid {what} {text}" if what == "gateway" else f"invalid {what}"
    found = fields.address(text)
    if found is None:
        problems.append(f"{prefix}: invalid address")
    elif found.version != network.version:
        problems.append(f"{prefix}: parent subnet is an IPv{network.version} block")
    elif found not in network:
        problems.append(f"{prefix}: parent subnet {network} doesn't contain this address")
    elif network.num_addresses > 2 and (found == network.network_address or (found.version == 4 and found == network.broadcast_address)):
        role = "network's own address" if found == network.network_address else "broadcast address"
        problems.append(f"{prefix}: it is the {role} of {network}")
    else:
        return found
    return None


def _check_together(driver: str, subnets: Iterable[Subnet]) -> None:
    """The subnets of one network beside each other."""
    known: list[Subnet] = []
    for subnet in subnets:
        if driver == model.BRIDGE and any(other.network.version == subnet.network.version for other in known):
            if any(other.network.overlaps(subnet.network) for other in known):
                raise Forbidden("Pool overlaps with other one on this address space")
            raise Forbidden("bridge driver doesn't support multiple subnets")
        if any(other.network.overlaps(subnet.network) for other in known):
            raise Forbidden("Pool overlaps with other one on this address space")
        known.append(subnet)
        if driver == model.BRIDGE and subnet.network.num_addresses < 4:
            raise InvalidParameter(f"invalid subnet {subnet.network}: no addresses are left for containers; take a larger one")
        if subnet.network.network_address.is_multicast or subnet.network.network_address.is_loopback:
            raise InvalidParameter(f"invalid subnet {subnet.network}: no host can have an address of it")
