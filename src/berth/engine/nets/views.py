"""Networks as Docker's clients see them: payloads, and which of them a list shows. Pure."""

import hashlib
from collections.abc import Callable, Iterable
from ipaddress import ip_interface
from typing import Any

from berth.engine import patterns
from berth.engine.nets import records as netrecords
from berth.engine.nets.endpointnames import endpoints_of, mode_of
from berth.engine.nets.records import NetworkRecord
from berth.engine.state import Record
from berth.errors import InvalidParameter
from berth.models.times import rfc3339


def payload(network: NetworkRecord, records: Iterable[Record]) -> dict[str, Any]:
    """GET /networks/{id}; records: of all containers; none for an element of GET /networks, which does not say who is in it."""
    inside = {}
    for record in records:
        entry = endpoints_of(record).get(network.name)
        if record.running and entry and (entry.get("live") or not network.has_addresses):
            inside[record.id] = _resident(record, network.name, entry)
    return {
        "Name": network.name, "Id": network.id, "Created": rfc3339(network.created_ns), "Scope": "local", "Driver": network.driver,
        "EnableIPv4": network.ipv4, "EnableIPv6": network.ipv6, "IPAM": network.ipam, "Internal": network.internal,
        "Attachable": network.attachable, "Ingress": False, "ConfigFrom": {"Network": network.config_from},
        "ConfigOnly": network.config_only, "Containers": inside, "Options": network.options, "Labels": network.labels,
    }  # fmt: skip


def _resident(record: Record, name: str, entry: dict[str, Any]) -> dict[str, str]:
    live = entry.get("live") or {}
    addresses = [ip_interface(text) for text in live.get("addresses", ())]
    return {
        "Name": record.name, "EndpointID": live.get("id") or _endpoint_id(record, name), "MacAddress": live.get("mac", ""),
        "IPv4Address": next((str(a) for a in addresses if a.version == 4), ""),
        "IPv6Address": next((str(a) for a in addresses if a.version == 6), ""),
    }  # fmt: skip


# -- lists --------------------------------------------------------------------------------------------

_KEYS = ("dangling", "driver", "id", "label", "name", "scope", "type")
_VALUES = {"type": ("builtin", "custom"), "dangling": ("0", "1", "false", "true"), "scope": ("local", "global", "swarm")}


def check(filters: dict[str, list[str]]) -> None:
    """Refuses keys and values that Docker refuses, also where there is nothing to filter."""
    for key, values in filters.items():
        if key not in _KEYS:
            raise InvalidParameter(f"invalid filter '{key}'")
        if key == "dangling" and len({value in ("1", "true") for value in values}) > 1:
            raise InvalidParameter(f"invalid filter 'dangling=[{' '.join(values)}]'")
        for value in values:
            if key != "scope" and value not in _VALUES.get(key, (value,)):
                raise InvalidParameter(f"invalid filter: '{key}'='{value}'")


def chooser(filters: dict[str, list[str]], used: set[str]) -> Callable[[NetworkRecord], bool]:
    """Whether a network is shown: any value of a key, all labels, every key. used: ids of networks with containers in them."""
    names = [patterns.compiled(value) for value in filters.get("name", [])]
    tests: dict[str, Callable[[NetworkRecord, str], bool]] = {
        "id": lambda network, value: value in network.id, "driver": lambda network, value: network.driver == value,
        "scope": lambda network, value: value == "local", "label": _has_label,
        "type": lambda network, value: (value == "builtin") == network.predefined,
        "dangling": lambda network, value: (value in ("1", "true")) == (not network.predefined and network.id not in used),
    }  # fmt: skip

    def passes(network: NetworkRecord) -> bool:
        if names and not any(matches(network.name) for matches in names):
            return False
        for key, values in filters.items():
            if key == "name" or not values:
                continue
            found = (tests[key](network, value) for value in values)
            if not (all(found) if key == "label" else any(found)):
                return False
        return True

    return passes


def _has_label(network: NetworkRecord, value: str) -> bool:
    name, sign, text = value.partition("=")
    return network.labels.get(name) == text if sign else name in network.labels


# -- of a container -----------------------------------------------------------------------------------


def settings_of(record: Record) -> dict[str, dict[str, Any]]:
    """NetworkSettings.Networks: what was asked for, and while it runs what it has."""
    found = {name: _settings(entry) for name, entry in endpoints_of(record).items()}
    for name in found.keys() & {netrecords.HOST, netrecords.NONE}:
        if record.started_ns:
            found[name] |= {"NetworkID": netrecords.identity(name), "EndpointID": _endpoint_id(record, name)}
    return found


def _endpoint_id(record: Record, name: str) -> str:
    """In a network of which a container gets nothing (host, none), it is still a place for Docker's clients."""
    return hashlib.sha256(f"{record.id} {name} {record.started_ns}".encode()).hexdigest() if record.running else ""


def _settings(entry: dict[str, Any]) -> dict[str, Any]:
    asked, live = entry["settings"], entry.get("live") or {}
    v4 = next((a for a in map(ip_interface, live.get("addresses", ())) if a.version == 4), None)
    v6 = next((a for a in map(ip_interface, live.get("addresses", ())) if a.version == 6), None)
    routers = [text for text in live.get("routers", live.get("gateways", ())) if text not in ("0.0.0.0", "::")]  # these stand for the interface itself
    return {
        "IPAMConfig": asked.get("IPAMConfig") or None, "Links": asked.get("Links") or None, "Aliases": asked.get("Aliases") or None,
        "MacAddress": live.get("mac", "") or (asked.get("MacAddress") or ""), "DriverOpts": asked.get("DriverOpts") or None,
        "GwPriority": asked.get("GwPriority") or 0, "NetworkID": entry.get("network_id") or "", "EndpointID": live.get("id", ""),
        "Gateway": next((text for text in routers if ":" not in text), ""), "IPAddress": str(v4.ip) if v4 else "",
        "IPPrefixLen": v4.network.prefixlen if v4 else 0, "IPv6Gateway": next((text for text in routers if ":" in text), ""),
        "GlobalIPv6Address": str(v6.ip) if v6 else "", "GlobalIPv6PrefixLen": v6.network.prefixlen if v6 else 0,
        "DNSNames": live.get("dns_names") or None,
    }  # fmt: skip


def sandbox(record: Record) -> dict[str, str]:
    """SandboxID and SandboxKey: while it runs, its network namespace is found by its process alone; another's is that one's to show."""
    if not record.running or mode_of(record.host).startswith("container:"):
        return {"SandboxID": "", "SandboxKey": ""}
    return {"SandboxID": hashlib.sha256(f"{record.id} {record.started_ns}".encode()).hexdigest(), "SandboxKey": f"/proc/{record.pid}/ns/net"}


def default_bridge(record: Record) -> dict[str, Any]:
    """What NetworkSettings itself says of the default bridge."""
    entry = endpoints_of(record).get(netrecords.BRIDGE)
    keys = (
        "EndpointID", "Gateway", "GlobalIPv6Address", "GlobalIPv6PrefixLen", "IPAddress", "IPPrefixLen", "IPv6Gateway", "MacAddress",
    )  # fmt: skip
    found = _settings(entry) if entry else {}
    return {key: found.get(key, 0 if key.endswith("Len") else "") for key in keys}
