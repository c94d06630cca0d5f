"""The networks that every engine has, none and host, as Docker's clients see them. Pure."""

import hashlib
from typing import Any

from berth.engine.state import Record

DRIVERS = {"host": "host", "none": "null"}


def identity(name: str) -> str:
    """The id of a network: 64 hexadecimal digits, as Docker's have; the same on every engine."""
    return hashlib.sha256(f"berth network {name}".encode()).hexdigest()


def find(text: str) -> str:
    """A name, an id or the start of one -> the name; '' for none of them."""
    if text in DRIVERS:
        return text
    return next((name for name in DRIVERS if text and identity(name).startswith(text)), "")


def of_record(record: Record) -> str:
    """The network that a container is in while it runs; '' for one that shares another container's."""
    mode = record.host.get("NetworkMode") or "default"
    return "none" if mode == "default" else "" if mode.startswith("container:") else mode


def event(record: Record) -> tuple[str, dict[str, str]] | None:
    """Id and attributes of the events `connect` and `disconnect` of a container; None for one that joins no network."""
    name = of_record(record)
    return (identity(name), {"container": record.id, "name": name, "type": DRIVERS[name]}) if name in DRIVERS else None


def endpoint(record: Record) -> dict[str, Any]:
    """NetworkSettings.Networks of a container: the network has its id there from the first start on."""
    name = of_record(record)
    return {name: {
        "IPAMConfig": None, "Links": None, "Aliases": None, "MacAddress": "", "DriverOpts": None, "GwPriority": 0,
        "NetworkID": identity(name) if record.started_ns else "", "EndpointID": _endpoint_id(record) if record.running else "",
        "Gateway": "", "IPAddress": "", "IPPrefixLen": 0, "IPv6Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0,
        "DNSNames": None,
    }} if name else {}  # fmt: skip


def payload(name: str, records: list[Record], created: str) -> dict[str, Any]:
    """GET /networks/{name}; records: of all containers."""
    inside = {
        record.id: {"Name": record.name, "EndpointID": _endpoint_id(record), "MacAddress": "", "IPv4Address": "", "IPv6Address": ""}
        for record in records if record.running and of_record(record) == name
    }  # fmt: skip
    return {
        "Name": name, "Id": identity(name), "Created": created, "Scope": "local", "Driver": DRIVERS[name],
        "EnableIPv6": False, "IPAM": {"Driver": "default", "Options": None, "Config": []}, "Internal": False,
        "Attachable": False, "Ingress": False, "ConfigFrom": {"Network": ""}, "ConfigOnly": False, "Containers": inside,
        "Options": {}, "Labels": {},
    }  # fmt: skip


def _endpoint_id(record: Record) -> str:
    return hashlib.sha256(f"berth endpoint {record.id} {record.started_ns}".encode()).hexdigest()
