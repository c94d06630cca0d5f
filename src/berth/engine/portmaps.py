"""Ports that a container publishes: what is wanted, with the addresses of this host; and what Docker shows of them. Pure."""

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from berth.engine.netports import PortBinding
from berth.engine.state import Record
from berth.errors import NotFound
from berth.network.model import Address, PublishedPort

_ANY_V4, _ANY_V6 = ip_address("0.0.0.0"), ip_address("::")


@dataclass(frozen=True, slots=True)
class Wish:
    """One port to publish. host_ports: the first of these that is free, none for any; addresses: of the host, unspecified for all."""

    protocol: str
    port: int
    addresses: tuple[Address, ...]
    host_ports: range | None


def wishes(
    bindings: tuple[PortBinding, ...], exposed: tuple[tuple[int, str], ...], *, publish_all: bool, default: Address | None, ipv6: bool
) -> list[Wish]:
    """default: the address where nobody names one, None for all; ipv6: whether the host has it. Those with a port of their own first."""
    everywhere = (default,) if default else (_ANY_V4, _ANY_V6) if ipv6 else (_ANY_V4,)
    found = [
        Wish(
            binding.protocol, binding.port, (binding.host_address,) if binding.host_address else everywhere,
            range(binding.host_ports[0], binding.host_ports[1] + 1) if binding.host_ports[0] else None,
        ) for binding in bindings
    ]  # fmt: skip
    bound = {(binding.port, binding.protocol) for binding in bindings}
    if publish_all:
        found += [Wish(protocol, port, everywhere, None) for port, protocol in exposed if (port, protocol) not in bound]
    return sorted(found, key=lambda wish: wish.host_ports is None)


def is_meant(port: PublishedPort, binding: PortBinding) -> bool:
    """Whether an update that takes a binding away means this port: by the container's port, and what else it names."""
    if (port.port, port.protocol) != (binding.port, binding.protocol):
        return False
    if binding.host_address and binding.host_address != port.host_address:
        return False
    return not binding.host_ports[0] or binding.host_ports[0] <= port.host_port <= binding.host_ports[1]


def changed(
    bindings: dict[str, list[dict[str, str]]], add: tuple[PortBinding, ...], remove: tuple[PortBinding, ...]
) -> dict[str, list[dict[str, str]]]:
    """HostConfig.PortBindings after an update. NotFound for a port that is to go and is not there."""
    found = {key: list(entries or []) for key, entries in bindings.items()}
    for binding in remove:
        key = f"{binding.port}/{binding.protocol}"
        entries = found.get(key, [])
        going = [entry for entry in entries if all(not want or want == have for want, have in zip(binding.given, _given(entry), strict=True))]
        if not going:
            shown = ":".join(part for part in (*binding.given, key) if part)
            raise NotFound(f"port {shown} is not published; see `port` for those that are")
        found[key] = [entry for entry in entries if entry not in going]
        if not found[key]:
            del found[key]
    for binding in add:
        entry = {"HostIp": binding.given[0], "HostPort": binding.given[1]}
        if entry not in found.setdefault(f"{binding.port}/{binding.protocol}", []) or not binding.given[1]:
            found[f"{binding.port}/{binding.protocol}"].append(entry)
    return found


def _given(entry: dict[str, str]) -> tuple[str, str]:
    return entry.get("HostIp") or "", entry.get("HostPort") or ""


def split(key: str) -> tuple[int, str]:
    """`80/tcp` -> (80, 'tcp')."""
    port, _, protocol = key.partition("/")
    return int(port), protocol.lower() or "tcp"


def _order(key: str) -> tuple[int, str]:
    return split(key)


# -- what Docker shows --------------------------------------------------------------------------------


def port_map(record: Record) -> dict[str, list[dict[str, str]] | None]:
    """NetworkSettings.Ports: published ones with their places, exposed ones with none; empty unless it runs."""
    if not record.running:
        return {}
    found: dict[str, list[dict[str, str]] | None] = dict.fromkeys(sorted(record.config.get("ExposedPorts") or {}, key=_order))
    for entry in record.ports:
        places = found.get(f"{entry['port']}/{entry['protocol']}") or []
        found[f"{entry['port']}/{entry['protocol']}"] = [*places, {"HostIp": entry["host_address"], "HostPort": str(entry["host_port"])}]
    return found


def port_list(record: Record) -> list[dict[str, Any]]:
    """Ports of an element of GET /containers/json."""
    if not record.running:
        return []
    published = [
        {"IP": entry["host_address"], "PrivatePort": entry["port"], "PublicPort": entry["host_port"], "Type": entry["protocol"]}
        for entry in record.ports
    ]  # fmt: skip
    shown = {(entry["port"], entry["protocol"]) for entry in record.ports}
    exposed = [split(key) for key in sorted(record.config.get("ExposedPorts") or {}, key=_order)]
    return [{"PrivatePort": port, "Type": protocol} for port, protocol in exposed if (port, protocol) not in shown] + published
