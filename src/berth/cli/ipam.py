"""`--subnet`, `--ip-range`, `--gateway` and `--aux-address` -> IPAM.Config: what belongs to which subnet. Pure."""

import ipaddress

from berth.cli.flags import Misuse, Parsed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Network = ipaddress.IPv4Network | ipaddress.IPv6Network
    Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def ipam_configs(parsed: Parsed) -> "list[dict[str, Any]]":
    """In the order of the subnets. Whether one is right by itself is for the engine to say, and it says all at once."""
    subnets, ranges, gateways = (parsed.list(flag) for flag in ("subnet", "ip-range", "gateway"))
    if len(subnets) < len(ranges) or len(subnets) < len(gateways):
        raise Misuse("every ip-range or gateway must have a corresponding subnet")
    auxiliary = {name: value for name, _, value in (item.partition("=") for item in parsed.list("aux-address"))}
    if len(subnets) == 1 and not (ranges or gateways or auxiliary):
        return [{"Subnet": subnets[0]}]
    networks = [_network(text) for text in subnets]
    for index, network in enumerate(networks):
        if any(network.overlaps(other) for other in networks[:index]):
            raise Misuse(f"multiple overlapping subnet configuration is not supported: {network} overlaps with another one")
    configs: list[dict[str, Any]] = [{"Subnet": text} for text in subnets]
    for text in ranges:
        _put(configs, networks, text, _first_of(text), "range", "IPRange", "cannot configure multiple ranges ({}, {}) on the same subnet ({})")
    for text in gateways:
        _put(configs, networks, text, _address(text), "gateway", "Gateway", "cannot configure multiple gateways ({}, {}) for the same subnet ({})")
    for name, text in auxiliary.items():
        found = _of(networks, _address(text))
        if found < 0:
            raise Misuse(f"no matching subnet for aux-address {text}")
        configs[found].setdefault("AuxiliaryAddresses", {})[name] = text
    return configs


def _put(
    configs: "list[dict[str, Any]]", networks: "list[Network]", text: str, address: "Address | None", what: str, key: str, twice: str
) -> None:
    found = _of(networks, address)
    if found < 0:
        raise Misuse(f"no matching subnet for {what} {text}")
    if key in configs[found]:
        raise Misuse(twice.format(text, configs[found][key], configs[found]["Subnet"]))
    configs[found][key] = text


def _of(networks: "list[Network]", address: "Address | None") -> int:
    """The place of the network that has the address; -1 for none."""
    return next((index for index, network in enumerate(networks) if address is not None and address in network), -1)


def _network(text: str) -> "Network":
    try:
        if "/" not in text:
            raise ValueError
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise Misuse(f"invalid subnet: invalid CIDR address: {text}") from None


def _first_of(text: str) -> "Address":
    try:
        if "/" not in text:
            raise ValueError
        return ipaddress.ip_interface(text).ip
    except ValueError:
        raise Misuse(f"invalid CIDR address: {text}") from None


def _address(text: str) -> "Address | None":
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
