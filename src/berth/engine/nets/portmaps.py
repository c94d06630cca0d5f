"""Ports that a container publishes: what is wanted, with the addresses of this host; and what Docker shows of them. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any

from berth.engine.nets.ports import PortBinding, PortChanges, port_bindings
from berth.engine.state import Record
from berth.errors import Conflict, NotFound
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
    return not binding.host_ports[0] or not port.host_port or binding.host_ports[0] <= port.host_port <= binding.host_ports[1]


def changed(
    host: dict[str, Any], exposed: Iterable[tuple[int, str]], live: Sequence[PublishedPort], changes: PortChanges
) -> dict[str, Any]:  # fmt: skip
    """What of HostConfig an update changes. live: what is published now, none of a container that does not run.

    NotFound for a port that is to go and is not there, Conflict for one that is to come and is.
    """
    found = {key: list(entries or []) for key, entries in (host.get("PortBindings") or {}).items()}
    publish_all = bool(host.get("PublishAllPorts"))
    for binding in changes.remove:
        key = f"{binding.port}/{binding.protocol}"
        if publish_all and not found.get(key) and _is_opened(binding, exposed, live):
            publish_all = False  # from now on the others are named
            found |= {other: [{"HostIp": "", "HostPort": ""}] for other in map(_key, exposed) if other != key and not found.get(other)}
            continue
        left = _without(found.get(key, []), binding, live)
        if left is None:
            raise NotFound(f"port {_shown(binding, key)} is not published; see `port` for those that are")
        found[key] = left
        if not left:
            del found[key]
    for binding in changes.add:
        key = f"{binding.port}/{binding.protocol}"
        entry = {"HostIp": binding.given[0], "HostPort": binding.given[1]}
        if binding.given[1] and entry in found.get(key, []):
            raise Conflict(f"port {_shown(binding, key)} is published already")
        found.setdefault(key, []).append(entry)
    return {"PortBindings": found, "PublishAllPorts": publish_all}


def _without(entries: list[dict[str, str]], binding: PortBinding, live: Sequence[PublishedPort]) -> list[dict[str, str]] | None:
    """What is left of the bindings of a port; None if none of them is meant. One of which a part is meant leaves the rest in so many words."""
    left, is_there = [], False
    for entry in entries:
        own = [port for port in live if is_meant(port, replace(binding, **_named(entry)))]
        meant = [port for port in own if is_meant(port, binding)]
        if all(not want or want == have for want, have in zip(binding.given, _given(entry), strict=True)):
            is_there = True
        elif meant:
            is_there = True
            left += [{"HostIp": str(port.host_address), "HostPort": _number(port.host_port)} for port in own if port not in meant]
        else:
            left.append(entry)
    return left if is_there else None


def _named(entry: dict[str, str]) -> dict[str, Any]:
    """What a binding says of the host, as fields of PortBinding."""
    [binding] = port_bindings({"1/tcp": [entry]})
    return {"host_address": binding.host_address, "host_ports": binding.host_ports}


def _is_opened(binding: PortBinding, exposed: Iterable[tuple[int, str]], live: Sequence[PublishedPort]) -> bool:
    """Whether a port that is published because all are (`-P`) is meant."""
    if (binding.port, binding.protocol) not in exposed:
        return False
    return not any(binding.given) or any(is_meant(port, binding) for port in live)


def _key(port: tuple[int, str]) -> str:
    return f"{port[0]}/{port[1]}"


def _shown(binding: PortBinding, key: str) -> str:
    return ":".join(part for part in (*binding.given, key) if part)


def _given(entry: dict[str, str]) -> tuple[str, str]:
    return entry.get("HostIp") or "", entry.get("HostPort") or ""


def whole(bindings: dict[str, Any]) -> dict[str, list[dict[str, str]]]:
    """HostConfig.PortBindings with every field, as Docker shows it."""
    return {key: [dict(zip(("HostIp", "HostPort"), _given(entry), strict=True)) for entry in entries or []] for key, entries in bindings.items()}


def split(key: str) -> tuple[int, str]:
    """`80/tcp` -> (80, 'tcp')."""
    port, _, protocol = key.partition("/")
    return int(port), protocol.lower() or "tcp"


def _number(host_port: int) -> str:
    """'' for a port that none of the host leads to."""
    return str(host_port) if host_port else ""


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
        found[f"{entry['port']}/{entry['protocol']}"] = [*places, {"HostIp": entry["host_address"], "HostPort": _number(entry["host_port"])}]
    return found


def port_list(record: Record) -> list[dict[str, Any]]:
    """Ports of an element of GET /containers/json."""
    if not record.running:
        return []
    published = [
        {"IP": entry["host_address"], "PrivatePort": entry["port"], "PublicPort": entry["host_port"], "Type": entry["protocol"]}
        for entry in record.ports if entry["host_port"]
    ]  # fmt: skip
    shown = {(entry["port"], entry["protocol"]) for entry in record.ports if entry["host_port"]}
    exposed = [split(key) for key in sorted(record.config.get("ExposedPorts") or {}, key=_order)]
    return [{"PrivatePort": port, "Type": protocol} for port, protocol in exposed if (port, protocol) not in shown] + published
